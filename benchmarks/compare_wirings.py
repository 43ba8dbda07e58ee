"""Learned against random and full wiring on real images, several seeds, as a table and curves.

    python -m benchmarks.compare_wirings --data digits --seeds 3
    python -m benchmarks.compare_wirings --data cifar10 --root DIR --images 10000 --size 16

Every wiring trains with the same schedule: learn (or just train), then fine-tune with the wiring
frozen, then fine-tune at a tenth of the rate. The controls: a random wiring, one in which every
source is read ("covered"), wirings that are drawn uniformly and frozen to a random one ("drawn"),
and the wiring that was learned, trained from scratch ("found"). `--size` averages the images down,
so that the comparison fits a small machine. A learned wiring learns twice, from the same weights
and batches with two seeds of the draws: `agreement` is the correlation of both scores within a
target, 0 for noise and 1 for equal scores. `coverage` is the share of sources that a target reads.
Writes NAME.md (the table), NAME.csv (all curves) and NAME.png.
"""

import argparse
import math
import statistics
import time
from collections import defaultdict
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.experiments import Row, Shrink, agreement, learn, make_data, train, write_results
from benchmarks.planted_networks import random_wiring
from wiring_lightning import costs
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.data import ImageDataModule
from wiring_lightning.functional import normalize_scores
from wiring_lightning.nn import Gate

_COLORS = {
    "learned": "#D55E00",
    "random": "#0072B2",
    "covered": "#009E73",
    "drawn": "#E69F00",
    "found": "#CC79A7",
    "full": "#999999",
}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    measured: dict[tuple[str, int], list[Row]] = defaultdict(list)
    curves: list[Row] = []
    for seed in range(options.seeds):
        learned: dict[int, list[Tensor]] = {}
        for wiring, fan_in in _cases(options):
            start = time.perf_counter()
            data, network = _build(options, wiring, fan_in, seed, learned.get(fan_in))
            accuracy, rows = _train(options, network, data, wiring, seed)
            graph = network.wiring()
            edges = [gate.best for gate in _gates(network)]
            row = {
                "accuracy": accuracy,
                "live": float(costs.parameters(graph) / costs.parameters(graph, live=False)),
                "coverage": float(torch.stack(edges).any(1).float().mean()) if edges else 1.0,
            }
            if wiring == "learned":
                learned[fan_in] = edges
                row["agreement"] = agreement(network, _learn_again(options, fan_in, seed))
            measured[wiring, fan_in].append(row)
            curves += [{"wiring": wiring, "fan_in": fan_in, "seed": seed, **row} for row in rows]
            print(
                f"{wiring} K={fan_in} seed {seed}: test {accuracy:.4f}, "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )
            _write(options, measured, curves)


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
    sparse = [(name, k) for k in options.fan_in for name in _COLORS if name != "full"]
    return [*sparse, ("full", options.cardinality)]


def _train(
    options: argparse.Namespace, network: ResNeXt, data: ImageDataModule, wiring: str, seed: int
) -> tuple[float, list[Row]]:
    """Test accuracy and the curve of one training."""
    return train(
        Shrink(network, network.image_size), data, epochs=options.epochs, lr=options.lr,
        steps=options.images // options.batch or None, seed=seed,
        gate_lr=0.0 if wiring == "drawn" else options.gate_lr,
    )  # fmt: skip


def _learn_again(options: argparse.Namespace, fan_in: int, seed: int) -> ResNeXt:
    """The learning phase of the same run with other draws."""
    data, network = _build(options, "learned", fan_in, seed)
    learn(
        Shrink(network, network.image_size), data, epochs=options.epochs[0], lr=options.lr,
        steps=options.images // options.batch or None, gate_lr=options.gate_lr, seed=seed + 1000,
    )  # fmt: skip
    return network


def _build(
    options: argparse.Namespace,
    wiring: str,
    fan_in: int,
    seed: int,
    learned: list[Tensor] | None = None,
) -> tuple[ImageDataModule, ResNeXt]:
    data = make_data(options.data, options.root, options.batch, seed)
    channels, height, _ = data.image_shape
    torch.manual_seed(seed)
    kinds: dict[str, Any] = {"covered": "random", "found": "random", "drawn": "learned"}
    network = ResNeXt(
        options.depth, options.width, options.cardinality, fan_in, data.num_classes,
        wiring=kinds.get(wiring, wiring), in_channels=channels, image_size=options.size or height,
    )  # fmt: skip
    gates = _gates(network)
    generator = torch.Generator().manual_seed(1000 + seed)
    for index, gate in enumerate(gates):
        if wiring == "covered":
            set_edges(gate, random_wiring(*gate.scores.shape, fan_in, generator, cover=True))
        elif wiring == "found":
            assert learned is not None
            set_edges(gate, learned[index])
        elif wiring == "drawn":  # nearly equal scores, whose order at the freeze is random
            noise = torch.rand(gate.scores.shape, generator=generator)
            gate.scores.data.copy_(normalize_scores(1 + 1e-4 * noise))
    return data, network


def _gates(network: ResNeXt) -> list[Gate]:
    """All gates, those with a random wiring too."""
    return [module for module in network.modules() if isinstance(module, Gate)]


@torch.no_grad()
def set_edges(gate: Gate, edges: Tensor) -> None:
    """Give a gate with a random wiring another one, `[targets, sources]`."""
    gate.active.copy_(edges)
    gate.scores.copy_(normalize_scores(edges.float()))


def _write(
    options: argparse.Namespace, measured: dict[tuple[str, int], list[Row]], curves: list[Row]
) -> None:
    lines = [
        f"{options.data}, ResNeXt {{{options.depth},{options.width},{options.cardinality}}}, "
        f"{options.size or 'full'} pixels, {options.images or 'all'} images an epoch, epochs "
        f"{options.epochs}, lr {options.lr}, gate lr {options.gate_lr}, batch {options.batch}", "",
        "| wiring | K | test accuracy, mean ± std (n) | minus covered, ± standard error | "
        "live parameters | coverage | agreement |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for (wiring, fan_in), rows in measured.items():
        values = [row["accuracy"] for row in rows]
        controls = [row["accuracy"] for row in measured.get(("covered", fan_in), [])]
        pairs = list(zip(values, controls, strict=False)) if wiring != "covered" else []
        differences = [100 * (value - control) for value, control in pairs]
        agreements = [row["agreement"] for row in rows if "agreement" in row]
        lines.append(
            f"| {wiring} | {fan_in} | {100 * statistics.mean(values):.2f} ± "
            f"{100 * _spread(values):.2f} ({len(values)}) | {_difference(differences)} | "
            f"{_mean(rows, 'live'):.0%} | {_mean(rows, 'coverage'):.2f} | "
            f"{f'{statistics.mean(agreements):.2f}' if agreements else '-'} |"
        )
    write_results(options.name, lines, curves, _figure(curves))


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan


def _difference(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.mean(values):+.2f} ± {_spread(values) / len(values) ** 0.5:.2f}"


def _mean(rows: list[Row], key: str) -> float:
    return statistics.mean(row[key] for row in rows)


def _figure(curves: list[Row]) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    styles = dict(
        zip(sorted({row["fan_in"] for row in curves}), ("-", "--", ":", "-."), strict=False)
    )
    groups = defaultdict(list)
    for row in curves:
        groups[row["wiring"], row["fan_in"], row["seed"]].append(row)
    for (wiring, fan_in, seed), rows in groups.items():
        label = f"{wiring}, K = {fan_in}" if seed == 0 else None
        axes.plot([row["epoch"] + 1 for row in rows], [100 * row["val_acc"] for row in rows],
                  color=_COLORS[wiring], linestyle=styles.get(fan_in, "-"), alpha=0.8,
                  label=label)  # fmt: skip
    axes.set(xlabel="epoch", ylabel="validation accuracy, %")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
