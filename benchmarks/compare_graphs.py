"""Learned against random edges in the tiny neural graphs of DNW (Table 1), on CIFAR-10.

    python -m benchmarks.compare_graphs --root DIR --lr 0.03 0.1

DIR holds cifar-10-batches-py. Both graphs have the same nodes, number of edges, seeds and schedule;
one learns its edges with the callback DNW, the other keeps random ones. The recipe is the authors'
but for its length and batch size: SGD with Nesterov momentum 0.9, weight decay 1e-4, a learning
rate that is divided by 10 after half and after three quarters of the epochs, crops and mirroring.
Writes NAME.md (the table), NAME.csv (all curves) and NAME.png after every run.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.experiments import Row, fit, make_data, write_results
from benchmarks.machine import describe, keep_freed_memory
from wiring_lightning.backbones import NeuralGraph
from wiring_lightning.callbacks import DNW, Phase
from wiring_lightning.nn import Adjacency, AdjacencyMode

_WIRINGS: tuple[AdjacencyMode, ...] = ("learned", "random")
_COLORS = {"learned": "#D55E00", "random": "#0072B2"}
_PAPER = {
    ("static", "learned"): "80.9 ± 0.6", ("static", "random"): "76.1 ± 0.5",
    ("discrete", "learned"): "82.3 ± 0.6", ("discrete", "random"): "77.3 ± 0.7",
    ("continuous", "learned"): "83.1 ± 0.3", ("continuous", "random"): "78.5 ± 1.2",
}  # fmt: skip


def main() -> None:
    keep_freed_memory()
    options = _options()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision(options.precision)
    results: dict[tuple[float, str], list[Row]] = defaultdict(list)
    curves: list[Row] = []
    for seed, lr, wiring in product(range(options.seeds), options.lr, _WIRINGS):
        result, rows = _run(options, lr, wiring, seed)
        results[lr, wiring].append(result)
        curves += rows
        print(f"lr {lr}, {wiring}, seed {seed}: {result}", flush=True)
        _write(options, results, curves)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--dynamics", choices=["static", "discrete", "continuous"],
                        default="static")  # fmt: skip
    parser.add_argument("--rank-all", action="store_true", help="see NeuralGraph")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, help="steps of one epoch; all images by default")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, nargs="+", default=[0.1],
                        help="one or more rates, all for both graphs")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["highest", "medium"], default="highest",
                        help="medium: matrix products in bfloat16")  # fmt: skip
    parser.add_argument("--name", default="results/compare_graphs")
    return parser.parse_args()


class Edges(Callback):
    """Counts after every epoch how many of the initial edges are still active."""

    def __init__(self) -> None:
        self.first = torch.empty(0)
        self.kept: list[float] = []

    def on_train_start(self, _trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the first edges."""
        self.first = _edges(pl_module)

    def on_train_epoch_end(self, _trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare."""
        now = _edges(pl_module)
        self.kept.append(float((self.first & now).sum() / self.first.sum()))


def _edges(module: LightningModule) -> Tensor:
    network = module.backbone
    assert isinstance(network, NeuralGraph)
    assert isinstance(network.adjacency, Adjacency)
    return network.adjacency.matrix().detach() != 0


def _run(
    options: argparse.Namespace, lr: float, wiring: AdjacencyMode, seed: int
) -> tuple[Row, list[Row]]:
    """The row of the table for one training, and its curve."""
    data = make_data("cifar10", options.root, options.batch, seed)
    torch.manual_seed(seed)
    network = NeuralGraph(options.dynamics, wiring=wiring, rank_all=options.rank_all)
    ends = [options.epochs // 2, options.epochs * 3 // 4, options.epochs]
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    phases = [Phase(length, lr / 10**i) for i, length in enumerate(lengths) if length]
    edges = Edges()
    start = time.perf_counter()
    tested, rows = fit(
        network, data, phases, [*([DNW()] if wiring == "learned" else []), edges],
        steps=options.steps, lr=lr, weight_decay=1e-4,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    columns = zip(rows, edges.kept, strict=True)
    curve = [
        {"lr": lr, "wiring": wiring, "seed": seed, "epoch": row["epoch"],
         "val_acc": row["val_acc"], "first_edges": kept}
        for row, kept in columns
    ]  # fmt: skip
    return {"accuracy": tested, "seconds": seconds, "first_edges": edges.kept[-1]}, curve


def _write(
    options: argparse.Namespace,
    results: Mapping[tuple[float, str], Sequence[Row]],
    curves: Sequence[Row],
) -> None:
    steps = "" if options.steps is None else f" of {options.steps} steps"
    lines = [
        f"CIFAR-10, {options.dynamics} graph of 800 nodes and 32,000 edges"
        f"{', all weights ranked' if options.rank_all else ''}, {options.epochs} epochs{steps}, "
        f"batch {options.batch}, lr divided by 10 after 1/2 and 3/4, matrix products in "
        f"{options.precision} precision. {describe('cpu', options.threads)}.", "",
        "| lr | edges | test accuracy, mean ± std (n) | paper, 160 epochs "
        "| first edges still there | seconds an epoch |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for (lr, wiring), runs in sorted(results.items()):
        values = [100 * run["accuracy"] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        kept = statistics.mean(run["first_edges"] for run in runs)
        seconds = statistics.mean(run["seconds"] for run in runs) / options.epochs
        lines.append(
            f"| {lr} | {wiring} | {statistics.mean(values):.2f} ± {spread:.2f} ({len(values)}) "
            f"| {_PAPER[options.dynamics, wiring]} | {kept:.0%} | {seconds:.0f} |"
        )
    write_results(options.name, lines, curves, _figure(curves))


def _figure(curves: Sequence[Row]) -> Figure:
    """Draw one panel for each rate, with the mean of the seeds and, paler, every seed."""
    rates = sorted({row["lr"] for row in curves})
    figure = Figure(figsize=(1 + 5 * len(rates), 4), layout="constrained")
    panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
    for axes, lr in zip(panels, rates, strict=True):
        for wiring, color in _COLORS.items():
            _draw(axes, [r for r in curves if r["lr"] == lr and r["wiring"] == wiring], color)
        axes.set(xlabel="epoch", title=f"lr {lr}")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("validation accuracy, %")
    panels[-1].legend(loc="lower right", frameon=False)
    return figure


def _draw(axes: Axes, curves: Sequence[Row], color: str) -> None:
    by_seed: dict[int, list[float]] = defaultdict(list)
    for row in curves:
        by_seed[row["seed"]].append(100 * row["val_acc"])
    for values in by_seed.values():
        axes.plot(range(1, len(values) + 1), values, color=color, linewidth=0.8, alpha=0.35)
    means = [statistics.mean(values) for values in zip(*by_seed.values(), strict=True)]
    if means:
        label = f"{curves[0]['wiring']} edges"
        axes.plot(range(1, len(means) + 1), means, color=color, linewidth=2, label=label)


if __name__ == "__main__":
    main()
