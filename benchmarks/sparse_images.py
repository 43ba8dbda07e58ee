"""The sparse family on real images: ResNet-20 on CIFAR-10 with 10 and 5 % of its weights.

    python -m benchmarks.sparse_images --root DIR

Dense, a fixed random choice, SET, RigL, DNW, gradual pruning and one-shot pruning at the start. All
sparse networks have the same number of weights in each layer (ERK), and all runs of a seed have the
same first weights, batches, schedule and number of steps. The images are averaged down to 16 x 16
pixels. Writes NAME.md, NAME.csv and NAME.png, and goes on from NAME.csv if it is started again: a
finished run is not repeated.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.experiments import Row, mean_text, read_rows, write_results
from benchmarks.image_wirings import load
from benchmarks.machine import describe, keep_freed_memory
from wiring_lightning.callbacks import DNW, SET, GradualPruning, PruneAtStart, RandomEdges, RigL

Images = tuple[Tensor, Tensor, Tensor, Tensor]

_SIZE = 16
_EVERY = 100  # steps from one change of the masks to the next
# What the methods are called, and their callbacks with the suggested settings. SET changes its
# masks as often as RigL does, because there are few epochs.
_METHODS: dict[str, Callable[..., Callback]] = {
    "random": RandomEdges,
    "one-shot at the start": PruneAtStart,
    "SET": partial(SET, every=_EVERY, unit="step", until=0.75, fraction_decay="cosine"),
    "RigL": partial(RigL, delta_t=_EVERY),
    "DNW": DNW,
    "gradual pruning": partial(GradualPruning, every=_EVERY),
}
_SEEDED = ("random", "SET", "RigL")
_DENSE = "dense"
# Test accuracy in % of WRN-22-2 on CIFAR-10 with 10 % of the weights, after 250 epochs: Table 2 of
# RigL's reproducibility report (Sundar and Dwaraknath, 2021); ERK for SET and RigL.
_REPORTED = {_DENSE: "93.4 ± 0.1", "random": "89.1 ± 0.2", "SET": "92.2 ± 0.0",
             "RigL": "92.4 ± 0.2", "gradual pruning": "92.6 ± 0.1"}  # fmt: skip

# What the columns of the CSV file hold, but for text.
_KINDS = {"accuracy": float, "density": float, "seed": int, "weights": int, "of": int}


def main() -> None:
    keep_freed_memory()
    options = _options()
    torch.set_num_threads(1)
    images = load(options.root, 0, _SIZE)
    rows = read_rows(options.name, _settings(options), _KINDS)
    done = {(row["method"], row["density"], row["seed"]) for row in rows}
    for name, density, seed in _plan(options):
        if (name, density, seed) in done:
            continue
        start = time.perf_counter()
        rows.append({"settings": _settings(options), "method": name, "density": density,
                     "seed": seed, **_run(options, images, name, density, seed)})  # fmt: skip
        spent = time.perf_counter() - start
        print(name, density, seed, rows[-1]["accuracy"], f"{spent:.0f} s", flush=True)
        _write(options, rows)
    _write(options, rows)  # with the words of today, if all runs were finished before


def _write(options: argparse.Namespace, rows: list[Row]) -> None:
    write_results(options.name, list(_table(options, rows)), rows, _figure(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--densities", type=float, nargs="+", default=[0.1, 0.05])
    names = [_DENSE, *_METHODS]
    parser.add_argument("--methods", nargs="+", default=names, choices=names)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--name", default="results/sparse_images")
    return parser.parse_args()


def _settings(options: argparse.Namespace) -> str:
    return (
        f"ResNet-20 of width {options.width}, CIFAR-10 at {_SIZE} x {_SIZE} pixels; "
        f"{options.steps} steps, batch {options.batch}, SGD with Nesterov momentum 0.9, weight "
        f"decay 5e-4, cosine from {options.lr}; masks change every {_EVERY} steps"
    )


def _plan(options: argparse.Namespace) -> Iterator[tuple[str, float, int]]:
    """All runs, seed by seed."""
    sparse = [name for name in options.methods if name != _DENSE]
    for seed in range(options.seeds):
        if _DENSE in options.methods:
            yield _DENSE, 1.0, seed
        for density in options.densities:
            yield from ((name, density, seed) for name in sparse)


class ResNet20(nn.Sequential):
    """The ResNet-20 of the CIFAR experiments, with shortcuts without weights.

    Args:
        width: channels of the first stage, 16 in the paper.
    """

    def __init__(self, width: int = 16) -> None:
        widths = [width] * 4 + [2 * width] * 3 + [4 * width] * 3
        pairs = pairwise(widths)
        super().__init__(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *(_Block(before, after) for before, after in pairs),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, 10),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


class _Block(nn.Module):
    """Two convolutions beside a shortcut, which skips pixels and adds channels of zeros."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride = after // before
        self.first = nn.Conv2d(before, after, 3, self.stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)
        self.added = after - before

    def forward(self, images: Tensor) -> Tensor:
        """Maps of half the size and twice the channels, or of the same shape."""
        out = functional.relu(self.first_norm(self.first(images)))
        out = self.second_norm(self.second(out))
        if self.added:
            images = images[..., :: self.stride, :: self.stride]
            images = functional.pad(images, (0, 0, 0, 0, 0, self.added))
        return functional.relu(out + images)


class _Task(LightningModule):
    """Classification by SGD, with a learning rate that falls along a cosine, step by step."""

    def __init__(self, network: nn.Module, lr: float, steps: int) -> None:
        super().__init__()
        self.network, self.lr, self.steps = network, lr, steps

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        sgd = SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
        schedule = LambdaLR(sgd, lambda step: (1 + math.cos(math.pi * step / self.steps)) / 2)
        return {
            "optimizer": sgd,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class _Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """Random batches, shifted by up to two pixels and half of the times mirrored."""

    def __init__(self, images: Tensor, labels: Tensor, size: int, steps: int, seed: int) -> None:
        self.images, self.labels = images, labels
        self.size, self.steps, self.seed = size, steps, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            chosen = torch.randint(len(self.images), (self.size,), generator=generator)
            down, right = torch.randint(5, (2,), generator=generator).tolist()
            batch = functional.pad(self.images[chosen], (2, 2, 2, 2))
            batch = batch[..., down : down + _SIZE, right : right + _SIZE]
            mirrored = torch.rand(self.size, 1, 1, 1, generator=generator) < 0.5
            yield torch.where(mirrored, batch.flip(-1), batch), self.labels[chosen]


def _run(options: argparse.Namespace, images: Images, name: str, density: float, seed: int) -> Row:
    """Test accuracy of one run, and what is left of the weights."""
    torch.manual_seed(seed)
    network = ResNet20(options.width)
    callbacks = []
    if name != _DENSE:
        own: dict[str, Any] = {"seed": seed} if name in _SEEDED else {}
        callbacks = [_METHODS[name](density=density, distribution="erk", **own)]
    task = _Task(network, options.lr, options.steps)
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, max_steps=options.steps,
        max_epochs=1, callbacks=callbacks,
    )  # fmt: skip
    batches = _Batches(images[0], images[1], options.batch, options.steps, seed)
    trainer.fit(task, DataLoader(batches, batch_size=None))
    layers = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    network.eval()
    with torch.no_grad():
        parts = zip(images[2].split(1000), images[3].split(1000), strict=True)
        right = sum(int((network(x).argmax(1) == y).sum()) for x, y in parts)
    return {
        "accuracy": round(100 * right / len(images[3]), 2),
        "weights": sum(int(weight.count_nonzero()) for weight in layers),
        "of": sum(weight.numel() for weight in layers),
    }


def _accuracies(rows: list[Row], name: str, density: float) -> dict[int, float]:
    """The test accuracy of every seed."""
    return {
        row["seed"]: row["accuracy"] for row in rows
        if (row["method"], row["density"]) == (name, density)
    }  # fmt: skip


def _table(options: argparse.Namespace, rows: list[Row]) -> Iterator[str]:
    yield f"{_settings(options)}. {describe('cpu', 1)}"
    yield ""
    yield (
        "Test accuracy in %, mean ± standard deviation; the difference to the random choice of the "
        "same seed, mean ± standard error. All sparse networks have the same number of weights in "
        "each layer (ERK). Reported: WRN-22-2 at 32 x 32 pixels with 10 % of its weights, about 50 "
        "times as many steps (reproducibility report of RigL, Table 2); only the order compares."
    )
    yield ""
    yield "| method | density | weights | n | accuracy | minus random | reported |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, density in _shown(rows):
        values = _accuracies(rows, name, density)
        reference = _accuracies(rows, "random", density)
        paired = [values[seed] - reference[seed] for seed in values if seed in reference]
        weights = {f"{row['weights']:,}" for row in rows
                   if (row["method"], row["density"]) == (name, density)}  # fmt: skip
        yield " | ".join(
            [
                f"| {name}",
                f"{density:.0%}",
                ", ".join(sorted(weights)),
                str(len(values)),
                mean_text(list(values.values())),
                "-" if name in ("random", _DENSE) else mean_text(paired, error=True),
                f"{_REPORTED.get(name, '-') if density in (0.1, 1.0) else '-'} |",
            ]
        )


def _shown(rows: list[Row]) -> list[tuple[str, float]]:
    """Methods and densities of which there are runs, dense first, the best last."""
    found = {(row["method"], row["density"]) for row in rows}

    def rank(pair: tuple[str, float]) -> tuple[float, float]:
        return -pair[1], statistics.mean(_accuracies(rows, *pair).values())

    return sorted(found, key=rank)


def _figure(rows: list[Row]) -> Figure:
    """Every run as a dot, every mean as a line, a column for each density."""
    densities = sorted({row["density"] for row in rows if row["density"] < 1}, reverse=True)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    grid = figure.subplots(1, max(len(densities), 1), sharex=True, sharey=True, squeeze=False)
    names = [_DENSE, *_METHODS]
    for axes, density in zip(grid[0], densities, strict=False):
        for place, name in enumerate(names):
            values = list(_accuracies(rows, name, 1.0 if name == _DENSE else density).values())
            axes.plot(values, [place] * len(values), "o", color="#0072B2", alpha=0.6)
            if values:
                axes.plot(statistics.mean(values), place, "|", color="#D55E00", markersize=18,
                          markeredgewidth=2)  # fmt: skip
        axes.set(title=f"{density:.0%} of the weights", xlabel="test accuracy, %")
        axes.grid(axis="x", alpha=0.3)
    grid[0][0].set_yticks(range(len(names)), names)
    grid[0][0].invert_yaxis()
    return figure


if __name__ == "__main__":
    main()
