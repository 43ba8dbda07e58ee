"""Learned against random and full wiring on real images, several seeds, as a table and curves.

    python -m benchmarks.compare_wirings --data digits --seeds 3
    python -m benchmarks.compare_wirings --data cifar10 --root DIR --images 10000 --size 16

Every wiring trains with the same schedule: learn (or just train), then fine-tune with the wiring
frozen, then fine-tune at a tenth of the rate. `--size` averages the images down, so that the
comparison fits a small machine. A learned wiring learns twice, from the same weights and batches
with two seeds of the draws: `agreement` is the correlation of both scores within a target, 0 for
noise and 1 for equal scores. Writes NAME.md (the table), NAME.csv (all curves) and NAME.png.
"""

import argparse
import statistics
import time
from collections import defaultdict
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.experiments import Row, Shrink, agreement, learn, make_data, train, write_results
from wiring_lightning import costs
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.data import ImageDataModule


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    results: dict[tuple[str, int], list[float]] = defaultdict(list)
    sizes: dict[tuple[str, int], list[float]] = defaultdict(list)
    agreements: dict[tuple[str, int], list[float]] = defaultdict(list)
    curves: list[Row] = []
    for seed in range(options.seeds):
        for wiring, fan_in in _cases(options):
            start = time.perf_counter()
            accuracy, network, rows = _run(options, wiring, fan_in, seed)
            graph = network.wiring()
            live = float(costs.parameters(graph) / costs.parameters(graph, live=False))
            if wiring == "learned":
                other = _learn_again(options, fan_in, seed)
                agreements[wiring, fan_in].append(agreement(network, other))
            results[wiring, fan_in].append(accuracy)
            sizes[wiring, fan_in].append(live)
            curves += [{"wiring": wiring, "fan_in": fan_in, "seed": seed, **row} for row in rows]
            print(
                f"{wiring} K={fan_in} seed {seed}: test {accuracy:.4f}, "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )
            _write(options, results, sizes, agreements, curves)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=["digits", "cifar10"], default="digits")
    parser.add_argument("--root", default="data", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--images", type=int, default=0, help="training images; 0 for all")
    parser.add_argument("--size", type=int, default=0, help="average images down to this size")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fan-in", type=int, nargs="+", default=[4])
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--cardinality", type=int, default=8)
    parser.add_argument("--epochs", type=int, nargs=3, default=[12, 10, 5])
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--gate-lr", type=float, default=0.2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="results/compare_wirings")
    return parser.parse_args()


def _cases(options: argparse.Namespace) -> list[tuple[str, int]]:
    sparse = [(name, k) for k in options.fan_in for name in ("learned", "random")]
    return [*sparse, ("full", options.cardinality)]


def _run(
    options: argparse.Namespace, wiring: Any, fan_in: int, seed: int
) -> tuple[float, ResNeXt, list[Row]]:
    """Test accuracy, the network, and the curve of one training."""
    data, network = _build(options, wiring, fan_in, seed)
    tested, rows = train(
        Shrink(network, network.image_size), data, epochs=options.epochs, lr=options.lr,
        steps=options.images // options.batch or None, gate_lr=options.gate_lr, seed=seed,
    )  # fmt: skip
    return tested, network, rows


def _learn_again(options: argparse.Namespace, fan_in: int, seed: int) -> ResNeXt:
    """The learning phase of the same run with other draws."""
    data, network = _build(options, "learned", fan_in, seed)
    learn(
        Shrink(network, network.image_size), data, epochs=options.epochs[0], lr=options.lr,
        steps=options.images // options.batch or None, gate_lr=options.gate_lr, seed=seed + 1000,
    )  # fmt: skip
    return network


def _build(
    options: argparse.Namespace, wiring: Any, fan_in: int, seed: int
) -> tuple[ImageDataModule, ResNeXt]:
    data = make_data(options.data, options.root, options.batch, seed)
    channels, height, _ = data.image_shape
    torch.manual_seed(seed)
    return data, ResNeXt(
        options.depth, options.width, options.cardinality, fan_in, data.num_classes,
        wiring=wiring, in_channels=channels, image_size=options.size or height,
    )  # fmt: skip


def _write(
    options: argparse.Namespace,
    results: dict[tuple[str, int], list[float]],
    sizes: dict[tuple[str, int], list[float]],
    agreements: dict[tuple[str, int], list[float]],
    curves: list[Row],
) -> None:
    lines = [
        f"{options.data}, ResNeXt {{{options.depth},{options.width},{options.cardinality}}}, "
        f"{options.size or 'full'} pixels, {options.images or 'all'} images an epoch, epochs "
        f"{options.epochs}, lr {options.lr}, gate lr {options.gate_lr}, batch {options.batch}", "",
        "| wiring | K | test accuracy, mean ± std (n) | live parameters | agreement |",
        "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for (wiring, fan_in), values in results.items():
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        live = statistics.mean(sizes[wiring, fan_in])
        lines.append(
            f"| {wiring} | {fan_in} | {100 * statistics.mean(values):.2f} ± {100 * spread:.2f} "
            f"({len(values)}) | {live:.0%} | {_mean(agreements[wiring, fan_in])} |"
        )
    write_results(options.name, lines, curves, _figure(curves))


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f}" if values else "-"


def _figure(curves: list[Row]) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    colors = {"learned": "#D55E00", "random": "#0072B2", "full": "#999999"}
    styles = dict(
        zip(sorted({row["fan_in"] for row in curves}), ("-", "--", ":", "-."), strict=False)
    )
    groups = defaultdict(list)
    for row in curves:
        groups[row["wiring"], row["fan_in"], row["seed"]].append(row)
    for (wiring, fan_in, seed), rows in groups.items():
        label = f"{wiring}, K = {fan_in}" if seed == 0 else None
        axes.plot([row["epoch"] + 1 for row in rows], [100 * row["val_acc"] for row in rows],
                  color=colors[wiring], linestyle=styles.get(fan_in, "-"), alpha=0.8,
                  label=label)  # fmt: skip
    axes.set(xlabel="epoch", ylabel="validation accuracy, %")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
