"""Shared functions of the comparisons: training on real images with a small machine."""

import csv
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from wiring_lightning.callbacks import MaskConnect, Phase, PhaseSchedule
from wiring_lightning.data import CIFAR10, Digits, ImageDataModule
from wiring_lightning.nn import find_gates
from wiring_lightning.plots import save_figure
from wiring_lightning.tasks import ClassificationTask

Row = dict[str, Any]


class Shrink(nn.Module):
    """Average-pools the images to `size` before the network."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the smaller images."""
        logits: Tensor = self.network(functional.adaptive_avg_pool2d(images, self.size))
        return logits


class Curves(Callback):
    """Validation accuracy after every epoch."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Keep one row."""
        if trainer.sanity_checking:
            return
        accuracy = trainer.callback_metrics["val/acc"].item()
        self.rows.append({"epoch": trainer.current_epoch, "val_acc": accuracy})


def agreement(one: nn.Module, other: nn.Module) -> float:
    """How far two runs agree on the scores: their correlation within a target, over all targets.

    The runs should start from the same weights, see the same batches, and differ in the seed of the
    draws only. Then 1 says that both learned the same scores, and 0 that the scores are noise of
    the draws. It is nan if no score has moved. Targets without a choice are left out.
    """
    products = torch.zeros(3, dtype=torch.double)
    gates = zip(find_gates(one).values(), find_gates(other).values(), strict=True)
    for first, second in gates:
        usable = first.scores >= 0
        usable &= usable.sum(1, keepdim=True) > first.fan_in
        a, b = (_centre(gate.scores.detach().double(), usable) for gate in (first, second))
        products += torch.stack([(a * b).sum(), a.square().sum(), b.square().sum()])
    both, *sizes = products.tolist()
    size = math.sqrt(math.prod(sizes))
    return both / size if size else float("nan")


def _centre(scores: Tensor, usable: Tensor) -> Tensor:
    """Scores minus their mean over the usable candidates of a target; 0 elsewhere."""
    kept = scores.where(usable, 0.0)
    mean = kept.sum(1, keepdim=True) / usable.sum(1, keepdim=True).clamp_min(1)
    return (kept - mean).where(usable, 0.0)


def make_data(name: str, root: str, batch_size: int, seed: int) -> ImageDataModule:
    """Digits, or CIFAR-10 from a folder, ready to train on."""
    data: ImageDataModule
    if name == "digits":
        data = Digits(batch_size=batch_size, seed=seed)
    else:
        data = CIFAR10(root=root, batch_size=batch_size, seed=seed)
    data.setup("fit")
    return data


def train(
    network: nn.Module,
    data: ImageDataModule,
    *,
    epochs: Sequence[int],
    steps: int | None,
    lr: float,
    gate_lr: float,
    weight_decay: float = 5e-4,
    seed: int = 0,
    **gate_options: Any,
) -> tuple[float, list[Row]]:
    """Test accuracy and curve of one run: learn the wiring, train it, train it at a tenth of lr.

    Args:
        network: a backbone; without gates it trains on the same schedule.
        data: where the images come from.
        epochs: of the three phases; an epoch is `steps` steps, or the whole data set.
        steps: see there.
        lr: learning rate of the weights.
        gate_lr: learning rate of the scores in the first phase.
        weight_decay: of the weights.
        seed: of the draws.
        gate_options: further arguments of `MaskConnect`.
    """
    learning = bool(find_gates(network))
    first, second, third = epochs
    phases = [
        Phase(first, lr, gate_lr if learning else None),
        Phase(second, lr, freeze=learning),
        Phase(third, lr / 10),
    ]
    learners = [MaskConnect(seed=seed, **gate_options)] if learning else []
    return fit(network, data, phases, learners, steps=steps, lr=lr, weight_decay=weight_decay)


def learn(
    network: nn.Module,
    data: ImageDataModule,
    *,
    epochs: int,
    steps: int | None,
    lr: float,
    gate_lr: float,
    weight_decay: float = 5e-4,
    seed: int = 0,
    **gate_options: Any,
) -> None:
    """Only the first phase of `train`, such as for `agreement` with another seed of the draws."""
    learner = MaskConnect(seed=seed, **gate_options)
    phases = [Phase(epochs, lr, gate_lr)]
    fit(network, data, phases, [learner], steps=steps, lr=lr, weight_decay=weight_decay)


def fit(
    network: nn.Module,
    data: ImageDataModule,
    phases: list[Phase],
    callbacks: Sequence[Callback] = (),
    *,
    steps: int | None,
    lr: float,
    weight_decay: float,
) -> tuple[float, list[Row]]:
    """Test accuracy and curve of one run by SGD with Nesterov momentum.

    Args:
        network: a backbone.
        data: where the images come from.
        phases: epochs and learning rates.
        callbacks: what learns the wiring.
        steps: of an epoch; the whole data set if not given.
        lr: what the optimizer starts with.
        weight_decay: of the weights.
    """
    curves = Curves()
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        limit_train_batches=steps, limit_val_batches=40,
        max_epochs=sum(phase.epochs for phase in phases),
        callbacks=[PhaseSchedule(phases), curves, *callbacks],
    )  # fmt: skip
    optimizer = partial(SGD, lr=lr, momentum=0.9, weight_decay=weight_decay, nesterov=True)
    task = ClassificationTask(network, optimizer=optimizer)
    trainer.fit(task, data)
    tested = trainer.test(task, data, verbose=False)[0]["test/acc"]
    return tested, curves.rows


def read_rows(name: str, settings: str, kinds: Mapping[str, Callable[[str], Any]]) -> list[Row]:
    """The rows of `name.csv` that an earlier start of the same settings has written.

    Args:
        name: as of `write_results`.
        settings: what the column `settings` must say in every row.
        kinds: what makes a value from the text of a column, for columns that are no text.
    """
    path = Path(name).with_suffix(".csv")
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows: list[Row] = list(csv.DictReader(file))
    if other := {row["settings"] for row in rows} - {settings}:
        raise SystemExit(
            f"{path} has runs of other settings ({other.pop()}): choose another --name"
        )
    return [{**row, **{key: make(row[key]) for key, make in kinds.items()}} for row in rows]


def mean_text(values: Sequence[float], error: bool = False) -> str:
    """Mean and standard deviation, or the mean's standard error."""
    if not values:
        return "-"
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    spread = spread / len(values) ** 0.5 if error else spread
    return f"{statistics.mean(values):{'+' if error else ''}.2f} ± {spread:.2f}"


def write_results(
    name: str, lines: Sequence[str], curves: Sequence[Mapping[str, Any]], figure: Figure
) -> None:
    """Write a table `name.md`, curves `name.csv` and their picture `name.png`."""
    base = Path(name)
    base.parent.mkdir(parents=True, exist_ok=True)
    base.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with base.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, curves[0].keys())
        writer.writeheader()
        writer.writerows(curves)
    save_figure(figure, base.with_suffix(".png"))
