"""A searched architecture against random ones of the same cost on real images, several seeds.

    python -m benchmarks.compare_search --root DIR
    python -m benchmarks.compare_search --data digits --seeds 1 --name results/try
    python -m benchmarks.compare_search --data faces --root DIR --name results/search_faces

Every seed searches a small ConvFabric within a budget (a share of the whole fabric's cost) and then
trains from scratch, all for the same number of epochs: the architecture that it found, random
architectures that cost as much as the found one and, with `--whole`, the whole fabric. The cost is
the number of parameters or of multiply-adds. For cifar10, DIR holds cifar-10-batches-py; for faces,
it holds the folders images and masks, and the pixels of a mask are numbers of classes. Images are
made smaller (`--size`), so that the comparison fits a small machine. Writes NAME.md (the table),
NAME.csv (all curves), NAME.png (the curves) and NAME_SEED.png (the picture of what was found).
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from matplotlib.figure import Figure
from torch import nn

from benchmarks.experiments import Row, Shrink, make_data, write_results
from benchmarks.searches import random_architectures, train
from wiring_lightning import costs
from wiring_lightning.backbones import ConvFabric
from wiring_lightning.callbacks import BudgetedSearch, Phase
from wiring_lightning.data import ImageDataModule, ImageMaskFolder
from wiring_lightning.plots import draw_fabric, save_figure

Data = ImageDataModule | ImageMaskFolder
Architecture = Literal["search", "full"] | list[str]

_PRICES = {"parameters": costs.parameters, "multiply_adds": costs.multiply_adds}
_COLORS = {"search": "#0072B2", "found, from scratch": "#D55E00",
           "random, from scratch": "#999999", "whole, from scratch": "#009E73"}  # fmt: skip


@dataclass
class Case:
    """The results of one kind of network, one entry for each training."""

    seed: list[int] = field(default_factory=list)
    cost: list[int] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    cases: dict[str, Case] = defaultdict(Case)
    curves: list[Row] = []
    for seed in range(options.seeds):
        data, start = _data(options, seed), time.perf_counter()
        price = _PRICES[options.cost]
        whole = int(price(_build(options, data, "full").wiring()))
        for name, network, accuracy, rows in _trainings(options, data, whole, seed):
            cost, case = int(price(network.wiring())), cases[name]
            case.seed.append(seed)
            case.cost.append(cost)
            case.accuracy.append(accuracy)
            case.entropy += [rows[-1]["entropy"]] if name == "search" else []
            run = len(case.cost)
            curves += [{"case": name, "seed": seed, "run": run, **row} for row in rows]
            entropy = f", entropy {rows[-1]['entropy']:.3f}" if name == "search" else ""
            print(
                f"seed {seed}, {name}: {cost:,} {options.cost}, test {accuracy:.4f}{entropy}, "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )
            _write(options, whole, cases, curves)
            start = time.perf_counter()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=["digits", "cifar10", "faces"], default="cifar10")
    parser.add_argument("--root", default="data", help="folder of the data, see above")
    parser.add_argument("--classes", nargs="+", default=["background", "skin", "hair"],
                        help="of the faces")  # fmt: skip
    parser.add_argument("--images", type=int, default=9600, help="training images of an epoch")
    parser.add_argument("--size", type=int, default=16, help="average images down to this size")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--random", type=int, default=4, help="random architectures for each seed")
    parser.add_argument("--whole", action="store_true", help="train the whole fabric, too")
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--scales", type=int, default=4)
    parser.add_argument("--cost", choices=list(_PRICES), default="parameters")
    parser.add_argument("--budget", type=float, default=0.26, help="share of the whole cost")
    parser.add_argument("--epochs", type=int, nargs=3, default=[3, 14, 4],
                        help="of the warm-up, the search, and with a tenth of lr")  # fmt: skip
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--gate-lr", type=float, nargs="+", default=[1.0, 5.0],
                        help="of the search; with several, each for an equal part")  # fmt: skip
    parser.add_argument("--penalty", type=float, default=0.2, help="relative to 1 / 10^m")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="results/compare_search")
    return parser.parse_args()


def _trainings(
    options: argparse.Namespace, data: Data, whole: int, seed: int
) -> Iterator[tuple[str, ConvFabric, float, list[Row]]]:
    """Name, network, test accuracy and curve of every training of a seed."""
    torch.manual_seed(seed)
    network = _build(options, data, "search")
    search = BudgetedSearch(
        budget=options.budget * whole, cost=options.cost, relative_penalty=options.penalty,
        lr=options.gate_lr[0], warmup_epochs=options.epochs[0], seed=seed,
    )  # fmt: skip
    yield "search", network, *_train(options, network, data, search)
    save_figure(draw_fabric(network.wiring()), f"{options.name}_{seed}.png")
    price = _PRICES[options.cost]
    names = ["found", *["random"] * options.random, *["whole"] * options.whole]
    others = random_architectures(network, price, options.random, seed)
    architectures: list[Architecture] = [network.architecture_names, *others, "full"]
    for name, architecture in zip(names, architectures, strict=False):
        torch.manual_seed(seed)
        fixed = _build(options, data, architecture)
        yield f"{name}, from scratch", fixed, *_train(options, fixed, data)


def _data(options: argparse.Namespace, seed: int) -> Data:
    if options.data != "faces":
        return make_data(options.data, options.root, options.batch, seed)
    data = ImageMaskFolder(
        options.classes, root=options.root, image_size=options.size, batch_size=options.batch,
        seed=seed,
    )  # fmt: skip
    data.setup("fit")
    return data


def _build(options: argparse.Namespace, data: Data, architecture: Architecture) -> ConvFabric:
    return ConvFabric(
        options.columns, options.channels, options.scales, data.num_classes,
        task="segmentation" if options.data == "faces" else "classification",
        in_channels=data.image_shape[0], image_size=options.size, architecture=architecture,
        doubling="last",  # as when the tables in results/ were measured
    )  # fmt: skip


def _train(
    options: argparse.Namespace,
    network: nn.Module,
    data: Data,
    search: BudgetedSearch | None = None,
) -> tuple[float, list[Row]]:
    warm, middle, last = options.epochs
    phases = [Phase(warm, options.lr), *_search_phases(options, middle, search is not None)]
    phases.append(Phase(last, options.lr / 10, freeze=search is not None))
    faces = options.data == "faces"
    return train(
        network if faces else Shrink(network, options.size), data, phases, search,
        segmentation=faces, steps=options.images // options.batch or None, lr=options.lr,
        weight_decay=1e-4,
    )  # fmt: skip


def _search_phases(options: argparse.Namespace, epochs: int, searched: bool) -> list[Phase]:
    if not searched:
        return [Phase(epochs, options.lr)]
    parts = len(options.gate_lr)
    ends = [epochs * part // parts for part in range(parts + 1)]
    lengths = [after - before for before, after in pairwise(ends)]
    pairs = zip(lengths, options.gate_lr, strict=True)
    return [Phase(length, options.lr, gate_lr) for length, gate_lr in pairs if length]


def _write(
    options: argparse.Namespace, whole: int, cases: dict[str, Case], curves: list[Row]
) -> None:
    lines = [
        f"{options.data}, ConvFabric of {options.columns} columns, {options.scales} scales and "
        f"{options.channels} channels, {options.size} pixels, {options.images or 'all'} images an "
        f"epoch, epochs {options.epochs}, lr {options.lr}, gate lr {options.gate_lr}, lambda "
        f"{options.penalty} / 10^m, batch {options.batch}", "",
        f"The whole fabric takes {whole:,} {options.cost}, the budget is {options.budget:.0%} of "
        "them. Entropy is that of the probabilities at the end, in bits for each edge.", "",
        f"| network | {options.cost}, mean (most) | entropy, mean "
        "| test accuracy, mean ± std (n) |",
        "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, case in cases.items():
        spread = statistics.stdev(case.accuracy) if len(case.accuracy) > 1 else float("nan")
        entropy = f"{statistics.mean(case.entropy):.3f}" if case.entropy else ""
        lines.append(
            f"| {name} | {statistics.mean(case.cost):,.0f} ({max(case.cost):,}) | {entropy} | "
            f"{100 * statistics.mean(case.accuracy):.2f} ± {100 * spread:.2f} "
            f"({len(case.accuracy)}) |"
        )
    if gains := _gains(cases):
        each = ", ".join(f"{gain:+.1f}" for gain in gains)
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
        lines += ["", "Found less the mean of the random ones, points by seed: "
                  f"{each}; on average {statistics.mean(gains):+.1f} ± {error:.1f} (standard "
                  "error)."]  # fmt: skip
    figure = _figure(curves, options.cost, options.budget * whole)
    write_results(options.name, lines, curves, figure)


def _gains(cases: dict[str, Case]) -> list[float]:
    """For every seed, the accuracy of the found architecture minus the mean of random ones."""
    found, others = (cases.get(f"{name}, from scratch", Case()) for name in ("found", "random"))
    gains = []
    for seed, accuracy in zip(found.seed, found.accuracy, strict=True):
        pairs = zip(others.seed, others.accuracy, strict=True)
        if rivals := [other for its_seed, other in pairs if its_seed == seed]:
            gains.append(100 * (accuracy - statistics.mean(rivals)))
    return gains


def _figure(curves: list[Row], name: str, budget: float) -> Figure:
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    accuracy, cost, entropy = figure.subplots(1, 3)
    runs = defaultdict(list)
    for row in curves:
        runs[row["case"], row["seed"], row["run"]].append(row)
    means: dict[str, list[list[float]]] = defaultdict(list)
    for (case, *_), rows in runs.items():
        epochs = [row["epoch"] + 1 for row in rows]
        means[case].append([100 * row["val"] for row in rows])
        accuracy.plot(epochs, means[case][-1], color=_COLORS[case], linewidth=0.7, alpha=0.3)
        if case == "search":
            for axes, key in ((cost, "cost_best"), (entropy, "entropy")):
                axes.plot(epochs, [row[key] for row in rows], color=_COLORS[case])
    for case, curve in means.items():
        mean = [statistics.mean(values) for values in zip(*curve, strict=True)]
        accuracy.plot(range(1, len(mean) + 1), mean, color=_COLORS[case], linewidth=2, label=case)
    cost.axhline(budget, color="#999999", linestyle="--", label="budget")
    accuracy.set(xlabel="epoch", ylabel="validation accuracy, %")
    cost.set(xlabel="epoch", ylabel=f"{name} of the most probable architecture")
    entropy.set(xlabel="epoch", ylabel="entropy of the search, bits per edge")
    for axes in (accuracy, cost):
        axes.legend(fontsize=8)
    for axes in (accuracy, cost, entropy):
        axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
