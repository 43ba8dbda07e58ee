"""Shared functions of comparisons of searched and random architectures."""

from collections.abc import Iterator
from functools import partial

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.optim import SGD

from benchmarks.experiments import Row
from wiring_lightning.backbones.fabric_network import FabricNetwork
from wiring_lightning.callbacks import BudgetedSearch, Phase, PhaseSchedule
from wiring_lightning.costs import Cost
from wiring_lightning.tasks import ClassificationTask, SegmentationTask

_DRAWS = 1000  # architectures at a time
_ROUNDS = 1000  # maximum number of attempts


class SearchCurve(Callback):
    """Validation score and the logged numbers of the search after every epoch."""

    def __init__(self, score: str) -> None:
        self.score = score
        self.rows: list[Row] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Add one row; validation and the search have already logged this epoch."""
        metrics = trainer.callback_metrics
        row: Row = {"epoch": trainer.current_epoch, "val": metrics[f"val/{self.score}"].item()}
        for name in ("entropy", "cost_best", "cost_sampled"):
            value = metrics.get(f"search/{name}")
            row[name] = "" if value is None else value.item()
        self.rows.append(row)


def train(
    network: nn.Module,
    data: LightningDataModule,
    phases: list[Phase],
    search: BudgetedSearch | None = None,
    *,
    segmentation: bool = False,
    steps: int | None = None,
    lr: float,
    weight_decay: float,
) -> tuple[float, list[Row]]:
    """Test accuracy (of pixels, for segmentation) and curve of one run by SGD with momentum.

    Args:
        network: what to train.
        data: where the images come from.
        phases: epochs and learning rates.
        search: what learns the architecture.
        segmentation: whether labels are masks.
        steps: of an epoch; the whole data set if not given.
        lr: what the optimizer starts with.
        weight_decay: of the weights.
    """
    score = "pixel_acc" if segmentation else "acc"
    curve = SearchCurve(score)
    learners = [] if search is None else [search]
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        limit_train_batches=steps, limit_val_batches=20,
        max_epochs=sum(phase.epochs for phase in phases),
        callbacks=[PhaseSchedule(phases), *learners, curve],
    )  # fmt: skip
    optimizer = partial(SGD, lr=lr, momentum=0.9, weight_decay=weight_decay)
    kind = SegmentationTask if segmentation else ClassificationTask
    task = kind(network, optimizer=optimizer)
    trainer.fit(task, data)
    tested = trainer.test(task, data, verbose=False)[0][f"test/{score}"]
    return tested, curve.rows


def random_architectures(
    network: FabricNetwork, price: Cost, count: int, seed: int, tolerance: float = 0.03
) -> Iterator[list[str]]:
    """Names of the edges of different random architectures of about the same cost as a network.

    All edges of one architecture have the same probability, which is random. Edges on no path from
    the input to the output are left out.

    Args:
        network: the super-network with the architecture to match.
        price: the cost in which they should match.
        count: number of architectures.
        seed: seed of the draws.
        tolerance: largest allowed difference of the cost, relative to the network's.

    Raises:
        RuntimeError: if too few such architectures are found.
    """
    generator = torch.Generator().manual_seed(seed)
    fabric, wiring, cost = network.fabric, network.wiring(), float(price(network.wiring()))
    seen: set[tuple[bool, ...]] = set()
    for _ in range(_ROUNDS):
        if len(seen) == count:
            break
        share = torch.rand(_DRAWS, 1, generator=generator)
        heads = torch.rand(_DRAWS, len(fabric.names), generator=generator) < share
        live = fabric.topology.live(heads & fabric.topology.asked(heads))
        prices = torch.as_tensor(price(wiring.with_active(network.active_edges(live))))
        near = live.any(1) & ((prices - cost).abs() <= tolerance * cost)
        new = [edges for edges in map(tuple, live[near].tolist()) if edges not in seen]
        for edges in dict.fromkeys(new[: count - len(seen)]):
            seen.add(edges)
            yield [name for name, there in zip(fabric.names, edges, strict=True) if there]
    if len(seen) < count:
        raise RuntimeError(
            f"only {len(seen)} of {count} different random architectures cost about {cost:,.0f}; "
            "ask for fewer (--random), or choose another budget."
        )
