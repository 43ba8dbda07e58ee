"""A resumed run gives each weight its own state, in whichever order the network has them now."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from tests.callbacks.reader import Batch, batches
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import (
    ACDC,
    DNW,
    SET,
    SNIP,
    GradualPruning,
    L1Anneal,
    MaskSchedule,
    NMSparsity,
    NoUpdateRule,
    PruneAndRetrain,
    PruneAtStart,
    RandomEdges,
    RigL,
    TargetedDropout,
)

BATCHES: Any = batches(4, torch.float32)
DATA: Any = torch.utils.data.DataLoader(BATCHES, batch_size=None)
FIRST, OTHER = ("left", "right", "head"), ("head", "right", "left")
SIZES = {"left": (36, 16), "right": (36, 16), "head": (32, 12)}  # two are alike


class Sides(LightningModule):
    """Its layers are defined, or optimized, in a given order; the rest is always the same."""

    def __init__(
        self, order: tuple[str, ...] = FIRST, optimized: tuple[str, ...] = FIRST, several: int = 0
    ) -> None:
        super().__init__()
        torch.manual_seed(len(order) + order.index("head"))
        self.net: Any = nn.ModuleDict({name: nn.Linear(*SIZES[name]) for name in order})
        self.optimized, self.several = optimized, several
        self.automatic_optimization = several < 2

    def training_step(self, batch: Batch, _: int) -> Tensor:
        images = batch[0].flatten(1)
        features = torch.cat([self.net["left"](images), self.net["right"](images)], 1)
        loss = functional.cross_entropy(self.net["head"](features.relu()), batch[1])
        if self.several > 1:
            self.manual_backward(loss)
            optimizers: Any = self.optimizers()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        return loss

    def configure_optimizers(self) -> Any:
        groups = [[*self.net[name].parameters()] for name in self.optimized]
        if self.several > 1:
            return [SGD(group, lr=0.3) for group in groups]
        return SGD([{"params": group} for group in groups], lr=0.3)


TOGETHER: dict[str, Any] = {"groups": {"sides": ["net.left", "net.right"]}, "density": 0.25}
LEARNERS: dict[str, Callable[[], Callback]] = {
    "DNW": lambda: DNW(density=0.25),
    "DNW, falling": lambda: DNW(density=0.25, initial_density=0.9, total_steps=24),
    "DNW, frozen": lambda: DNW(density=0.25, freeze_epoch=1),
    "DNW, in groups": lambda: DNW(**TOGETHER),
    "DNW, global": lambda: DNW(density=0.25, distribution="global"),
    "NoUpdateRule": lambda: NoUpdateRule(density=0.25),
    "RandomEdges": lambda: RandomEdges(density=0.25),
    "L1Anneal": lambda: L1Anneal(density=0.25, freeze_epoch=3),
    "TargetedDropout": lambda: TargetedDropout(density=0.25),
    "before the pruning": lambda: PruneAndRetrain(dense_epochs=3, rewind=True, density=0.25),
    "after the pruning": lambda: PruneAndRetrain(dense_epochs=1, density=0.25),
    "SET": lambda: SET(density=0.25, every=2, unit="step", total_steps=24),
    "RigL": lambda: RigL(density=0.25, delta_t=3, total_steps=24),
    "by momentum": lambda: MaskSchedule(
        density=0.25, fraction=0.3, every=2, grow="momentum", total_steps=24
    ),
    "GradualPruning": lambda: GradualPruning(density=0.25, every=2, total_steps=24),
    "GradualPruning, in groups": lambda: GradualPruning(every=2, total_steps=24, **TOGETHER),
    "PruneAtStart": lambda: PruneAtStart(density=0.25),
    "SNIP": lambda: SNIP(density=0.25),
    "ACDC": lambda: ACDC(density=0.25, every=3, unit="step", total_steps=24),
    "NMSparsity": lambda: NMSparsity(1, 4),
}


def run(module: Sides, learner: Callback, *more: Callback, resume: Path | None = None) -> Sides:
    trainer = quiet_trainer(
        callbacks=[learner, *more],
        max_epochs=4,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in more),
    )
    trainer.fit(module, DATA, ckpt_path=resume, weights_only=True)
    return module


class Average(Callback):
    """Holds an average of the layers, which it does not save itself."""

    copy: nn.Module

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, Sides)
        self.copy = deepcopy(pl_module.net)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, Sides)
        with torch.no_grad():
            for name, average in self.copy.named_parameters():
                average.lerp_(pl_module.net.get_parameter(name), 0.3)


def saver(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{epoch}", save_top_k=-1)


def resumes_alike(
    make: Callable[..., Sides], other: Callable[..., Sides], learner: Any, folder: Path
) -> None:
    run(make(), learner(), saver(folder))
    same, changed = (
        run(each(), learner(), resume=folder / "epoch=1.ckpt") for each in (make, other)
    )
    assert same_state(same.state_dict(), {n: changed.state_dict()[n] for n in same.state_dict()})


@pytest.mark.parametrize("name", LEARNERS)
def test_modules_may_be_defined_in_another_order(name: str, tmp_path: Path) -> None:
    resumes_alike(Sides, partial(Sides, OTHER), LEARNERS[name], tmp_path)


@pytest.mark.parametrize("several", [1, 3])
@pytest.mark.parametrize(
    "name",
    ["DNW, falling", "DNW, frozen", "TargetedDropout", "by momentum", "NMSparsity", "RandomEdges"],
)
def test_optimizers_or_their_groups_may_be_in_another_order(
    name: str, several: int, tmp_path: Path
) -> None:
    other = ("right", "left", "head")
    make = partial(Sides, several=several)
    resumes_alike(make, partial(make, optimized=other), LEARNERS[name], tmp_path)
    resumes_alike(make, partial(make, OTHER, optimized=other), LEARNERS[name], tmp_path)


@pytest.mark.parametrize("name", ["DNW", "DNW, frozen", "DNW, in groups", "RigL"])
def test_averages_may_be_of_modules_in_another_order(name: str, tmp_path: Path) -> None:
    run(Sides(), LEARNERS[name](), Average(), saver(tmp_path))
    averages = []
    for order in (FIRST, OTHER):
        average = Average()
        run(Sides(order), LEARNERS[name](), average, resume=tmp_path / "epoch=1.ckpt")
        averages.append(average.copy.state_dict())
    for side in ("left", "right", "head"):
        assert torch.equal(*(each[f"{side}.weight"] for each in averages)), side


def test_weights_of_other_names_are_refused(tmp_path: Path) -> None:
    """A network of the same shapes whose weights torch would not load either."""
    chosen = partial(DNW, density=0.25, distribution="global")
    run(Sides(), chosen(layers=["net.left", "net.right"]), saver(tmp_path))
    saved = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)
    (state,) = [own for own in saved["callbacks"].values() if "rules" in own]
    state["weights"]["all"][1] = "centre.weight"
    torch.save(saved, tmp_path / "other.ckpt")
    message = "was saved with state of centre.weight, and there is no such sparse weight now"
    with pytest.raises(MisconfigurationException, match=message):
        run(Sides(), chosen(layers=["net.left", "net.right"]), resume=tmp_path / "other.ckpt")


def test_a_checkpoint_of_an_earlier_version_has_no_names(tmp_path: Path) -> None:
    run(Sides(), DNW(density=0.25), Average(), saver(tmp_path))
    saved = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)
    (state,) = [own for own in saved["callbacks"].values() if "rules" in own]
    del state["weights"], state["held"]
    torch.save(saved, tmp_path / "earlier.ckpt")
    ends = []
    for name in ("epoch=1.ckpt", "earlier.ckpt"):
        average = Average()
        module = run(Sides(), DNW(density=0.25), average, resume=tmp_path / name)
        weights = {name: average.copy.state_dict()[f"{name}.weight"] for name in FIRST}
        ends.append({**module.state_dict(), **weights})
    assert same_state(*ends)


def test_weights_of_several_optimizers_are_not_given_to_one(tmp_path: Path) -> None:
    run(Sides(several=3), DNW(density=0.25), saver(tmp_path))
    saved = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)
    saved["optimizer_states"] = [Sides().configure_optimizers().state_dict()]
    torch.save(saved, tmp_path / "one.ckpt")
    with pytest.raises(MisconfigurationException, match="give each optimizer the same weights"):
        run(Sides(), DNW(density=0.25), resume=tmp_path / "one.ckpt")
