"""SparseNet against DenseNet of equal growth and of equal size, on CIFAR-10 at reduced size.

    python -m benchmarks.compare_sparsenet --root DIR

DIR holds cifar-10-batches-py. Three networks of the same depth: SparseNet, the DenseNet of its
growth, and the DenseNet whose growth gives nearly its number of parameters. The recipe is the
paper's but for its length: SGD with Nesterov momentum 0.9, weight decay 1e-4, a learning rate that
is divided by 10 after half and after three quarters of the epochs, crops and mirroring. Writes
NAME.md (the table), NAME.csv (all curves) and NAME.png after every run.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks.experiments import Row, Shrink, fit, make_data, write_results
from benchmarks.machine import describe, keep_freed_memory
from wiring_lightning import costs
from wiring_lightning.backbones import SparseNet
from wiring_lightning.callbacks import Phase

_COLORS = ("#D55E00", "#0072B2", "#009E73")


def main() -> None:
    keep_freed_memory()
    options = _options()
    torch.set_num_threads(options.threads)
    results: dict[str, list[Row]] = defaultdict(list)
    curves: list[Row] = []
    for seed in range(options.seeds):
        for name in _networks(options):
            result, rows = _run(options, name, seed)
            results[name].append(result)
            curves += [
                {"network": name, "seed": seed, "epoch": row["epoch"], "val_acc": row["val_acc"]}
                for row in rows
            ]
            print(f"{name}, seed {seed}: {result}", flush=True)
            _write(options, results, curves)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--size", type=int, default=16, help="average images down to this size")
    parser.add_argument("--depth", type=int, default=40)
    parser.add_argument("--growth", type=int, default=12, help="of SparseNet and one DenseNet")
    parser.add_argument("--small-growth", type=int, default=5, help="of the other DenseNet")
    parser.add_argument("--epochs", type=int, default=12, help="a multiple of 4")
    parser.add_argument("--steps", type=int, default=160, help="steps of one epoch")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", help="folder to keep the trained weights in")
    parser.add_argument("--name", default="results/compare_sparsenet")
    return parser.parse_args()


def _networks(options: argparse.Namespace) -> dict[str, SparseNet]:
    """The three networks, with new weights, by their name in the table."""
    depth, growth, small = options.depth, options.growth, options.small_growth
    size = options.size
    return {
        f"SparseNet, k = {growth}": SparseNet(depth, growth, image_size=size),
        f"DenseNet, k = {growth}": SparseNet(depth, growth, pattern="dense", image_size=size),
        f"DenseNet, k = {small}": SparseNet(depth, small, pattern="dense", image_size=size),
    }


def _run(options: argparse.Namespace, name: str, seed: int) -> tuple[Row, list[Row]]:
    """The row of the table for one training, and its curve."""
    data = make_data("cifar10", options.root, options.batch, seed)
    torch.manual_seed(seed)
    network = _networks(options)[name]
    quarter = options.epochs // 4
    phases = [
        Phase(2 * quarter, options.lr),
        Phase(quarter, options.lr / 10),
        Phase(quarter, options.lr / 100),
    ]
    start = time.perf_counter()
    tested, rows = fit(
        Shrink(network, options.size), data, phases, steps=options.steps, lr=options.lr,
        weight_decay=1e-4,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if options.weights:
        folder = Path(options.weights)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), folder / f"{name.replace(' ', '')}-{seed}.pt")
    wiring = network.wiring()
    return {
        "accuracy": tested,
        "parameters": int(costs.parameters(wiring)),
        "multiply_adds": int(costs.multiply_adds(wiring)),
        "seconds": seconds,
    }, rows


def _write(
    options: argparse.Namespace, results: Mapping[str, Sequence[Row]], curves: Sequence[Row]
) -> None:
    steps = options.epochs * options.steps
    lines = [
        f"CIFAR-10 at {options.size}x{options.size}, depth {options.depth}, {options.epochs} "
        f"epochs of {options.steps} steps ({steps} in all, {steps * options.batch / 45_000:.1f} "
        f"passes over the 45,000 training images), batch {options.batch}, lr {options.lr} divided "
        f"by 10 after 1/2 and 3/4. {describe('cpu', options.threads)}.", "",
        "| network | test accuracy, mean ± std (n) | parameters | multiply-adds | seconds a run |",
        "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, runs in results.items():
        values = [100 * run["accuracy"] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        seconds = statistics.mean(run["seconds"] for run in runs)
        lines.append(
            f"| {name} | {statistics.mean(values):.2f} ± {spread:.2f} ({len(values)}) "
            f"| {runs[0]['parameters']:,} | {runs[0]['multiply_adds'] / 1e6:.1f}M "
            f"| {seconds:.0f} |"
        )
    write_results(options.name, lines, curves, _figure(curves))


def _figure(curves: Sequence[Row]) -> Figure:
    """Draw the mean of the seeds and, paler, every seed."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    by_epoch: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    by_seed: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in curves:
        by_epoch[row["network"]][row["epoch"]].append(100 * row["val_acc"])
        by_seed[row["network"], row["seed"]].append(100 * row["val_acc"])
    colors = dict(zip(by_epoch, _COLORS, strict=False))
    for (name, _), values in by_seed.items():
        axes.plot(range(1, len(values) + 1), values, color=colors[name], linewidth=0.8, alpha=0.35)
    for name, epochs in by_epoch.items():
        means = [statistics.mean(values) for values in epochs.values()]
        axes.plot(range(1, len(means) + 1), means, color=colors[name], linewidth=2, label=name)
    axes.set(xlabel="epoch", ylabel="validation accuracy, %")
    axes.legend(loc="lower right", frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
