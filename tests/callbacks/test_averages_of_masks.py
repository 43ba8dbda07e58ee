"""Averages of networks whose masks change by rule, which have dense phases, or N of M weights."""

from collections.abc import Callable
from functools import partial
from itertools import cycle, product
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch import Tensor, nn
from torch.optim import SGD

from tests.callbacks.averaged import (
    AVERAGES,
    History,
    Inside,
    Normalized,
    ema,
    fit,
    mean,
    values_of,
)
from tests.callbacks.reader import SPARSE, Reader, batches
from tests.trainers import same_state
from wiring_lightning.callbacks import (
    ACDC,
    DNW,
    SET,
    SNIP,
    GradualPruning,
    L1Anneal,
    MaskSchedule,
    NMSparsity,
    RigL,
)

FAST = partial(SGD, lr=0.3, momentum=0.9)
# Of 15 steps in three epochs. Nothing comes after step 11, so all that is there has learned.
SCHEDULED: dict[str, Callable[[], MaskSchedule]] = {
    "RigL": lambda: RigL(density=0.25, delta_t=2),
    "SET": lambda: SET(density=0.25, until=0.7),
    "GradualPruning": lambda: GradualPruning(density=0.25, every=2),
    "ACDC": lambda: ACDC(density=0.25, every=5, unit="step"),  # validated sparse, dense, sparse
    "SNIP": lambda: SNIP(density=0.25, distribution="global"),
}


class Masks(Callback):
    """The masks of a learner's only rule after every step, and whenever it is validated."""

    def __init__(self, learner: MaskSchedule) -> None:
        self.learner = learner
        self.trained: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def now(self) -> dict[str, Tensor]:
        masks = self.learner._rules[0].masks
        return dict(zip(SPARSE, [mask.clone() for mask in masks], strict=True))

    def on_train_batch_end(self, *_: Any) -> None:
        self.trained.append(self.now())

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated.append(self.now())


def assert_masked(found: dict[str, Tensor], average: dict[str, Tensor], masks: Any) -> None:
    for name, expected in average.items():
        mask = masks.get(name, torch.ones_like(expected, dtype=torch.bool))
        assert not found[name][~mask].any(), name
        torch.testing.assert_close(found[name][mask], expected[mask])


# Each learner with both averages, once before the average among the callbacks and once after it.
@pytest.mark.parametrize(("average", "first"), zip(AVERAGES, (True, False), strict=True))
@pytest.mark.parametrize("name", SCHEDULED)
def test_an_average_has_the_masks_of_the_moment(
    name: str, average: str, first: bool, tmp_path: Path
) -> None:
    make, expect = AVERAGES[average]
    learner, history = SCHEDULED[name](), History()
    masks, saver = Masks(learner), ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    both = [learner, make()] if first else [make(), learner]
    module = fit(*both, history, masks, saver, enable_checkpointing=True)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    for found in (dict(module.state_dict()), saved):
        assert_masked(found, expect(history.seen), masks.now())
        counts = [int(found[one].count_nonzero()) for one in SPARSE]
        assert sum(counts) == 346
        assert name == "SNIP" or counts == [18, 288, 40]
    for epoch, (values, mask) in enumerate(zip(history.validated, masks.validated, strict=True)):
        assert_masked(values, expect(history.seen[: 5 * (epoch + 1)]), mask)
    if name == "ACDC":
        assert [bool(mask["head.weight"].all()) for mask in masks.validated] == [False, True, False]
    # The average leaves the training alone.
    alone = History()
    fit(SCHEDULED[name](), alone)
    for ours, theirs in zip(history.seen, alone.seen, strict=True):
        assert same_state(ours, theirs)


def test_what_came_after_the_last_averaged_step_is_zero_in_the_average() -> None:
    learner, history = SET(density=0.25), History()
    masks = Masks(learner)
    averaging = StochasticWeightAveraging(0.05, swa_epoch_start=2, annealing_epochs=1)
    module = fit(history, masks, learner, averaging)
    found = dict(module.state_dict())
    assert_masked(found, mean(history.seen[4:14:5]), masks.now())
    came = masks.trained[-1]["body.1.weight"] & ~masks.trained[8]["body.1.weight"]
    assert int(masks.now()["body.1.weight"].sum()) == 288
    assert int(found["body.1.weight"].count_nonzero()) < 288
    assert bool(came.any())


@pytest.mark.parametrize("average", AVERAGES)
def test_an_average_has_n_of_m_weights(average: str, tmp_path: Path) -> None:
    make, expect = AVERAGES[average]
    history, saver = History(), ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    module = fit(NMSparsity(1, 4), make(), history, saver, enable_checkpointing=True)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    values = [dict(module.state_dict()), saved, history.validated[1]]
    for found, steps in zip(values, (15, 15, 10), strict=True):
        expected = expect(history.seen[:steps])
        masks = {
            name: _largest_of_four(expected[name]) for name in ("body.1.weight", "head.weight")
        }
        assert_masked(found, expected, masks)


def _largest_of_four(value: Tensor) -> Tensor:
    """The largest of every four inputs, one block after the other."""
    mask = torch.zeros_like(value, dtype=torch.bool)
    for output, block in product(range(value.shape[0]), range(0, value.shape[1], 4)):
        best = value[output, block : block + 4].abs().argmax(0, keepdim=True)
        mask[output, block : block + 4].scatter_(0, best, True)
    return mask


LEARNERS: dict[str, Callable[[], Callback]] = {**SCHEDULED, "NMSparsity": lambda: NMSparsity(1, 4)}


@pytest.mark.parametrize(("name", "average"), zip(LEARNERS, cycle(AVERAGES), strict=False))
def test_a_resumed_run_with_an_average_equals_the_uninterrupted_one(
    name: str, average: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From within sparse and dense phases; all batches are one, as a loader does not resume."""
    one = batches(1, torch.float32)
    monkeypatch.setattr("tests.callbacks.averaged.batches", lambda count, _: one * count)
    make, _ = AVERAGES[average]
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(LEARNERS[name](), make(), saver, enable_checkpointing=True)
    for step in (1, 7, 13):
        resumed = fit(make(), LEARNERS[name](), ckpt_path=tmp_path / f"step={step}.ckpt")
        assert same_state(whole.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("name", ["RigL", "ACDC", "SNIP"])
def test_a_copy_inside_of_the_module_has_the_last_masks(name: str) -> None:
    learner, history, module = SCHEDULED[name](), History(), Inside()
    masks = Masks(learner)
    start = values_of(module.net)
    fit(history, learner, masks, module=module)
    seen = [
        {key.removeprefix("net."): value for key, value in values.items() if key.startswith("net.")}
        for values in history.seen
    ]
    assert_masked(values_of(module.ema.module), ema([start, *seen]), masks.now())


FALLING: dict[str, Callable[[], Callback]] = {
    "RigL": lambda: RigL(density=0.25, delta_t=2),
    "GradualPruning": lambda: GradualPruning(density=0.25, every=2, until=1.0),
    "ACDC": lambda: ACDC(density=0.25, every=2, unit="step", until=1.0),
    "DNW": lambda: DNW(density=0.25, initial_density=1.0, until=1.0),
    "L1Anneal": lambda: L1Anneal(1e-4, density=0.25),
}


@pytest.mark.parametrize("name", FALLING)
def test_the_epoch_that_only_updates_batch_norm_is_not_counted_and_sees_the_sparse_average(
    name: str,
) -> None:
    """`StochasticWeightAveraging` adds it to the trainer's epochs before or after the learner."""
    states = []
    for first in (True, False):
        averaging = StochasticWeightAveraging(0.05, swa_epoch_start=2, annealing_epochs=1)
        both = [FALLING[name](), averaging] if first else [averaging, FALLING[name]()]
        module = fit(*both, module=Normalized(FAST))
        states.append(module.state_dict())
        assert sum(int(states[-1][one].count_nonzero()) for one in SPARSE) <= 346
        _assert_statistics_are_its_own(module)
    assert same_state(*states)


def _assert_statistics_are_its_own(module: Reader) -> None:
    """Its norms have the statistics that the saved network has in an epoch of its own."""
    twin = Normalized(FAST)
    twin.load_state_dict(module.state_dict())
    norms = [layer for layer in twin.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for images, _ in batches(5, torch.float32):
            twin.train()(images)
    for name, value in twin.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(module.state_dict()[name], value)
