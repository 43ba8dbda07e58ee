"""How long a training is: accumulated batches, data without a length, manual optimization."""

from datetime import timedelta
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader, IterableDataset

from tests.callbacks.reader import Batch, Reader, batches, edges, fit
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import (
    ACDC,
    DNW,
    SET,
    SNIP,
    GradualPruning,
    MaskSchedule,
    PruneAtStart,
    RigL,
)
from wiring_lightning.functional.mask_times import MaskTimes


def test_accumulated_batches_and_an_epochs_last_part_count_as_one_step() -> None:
    learner = SET(density=0.25)
    fit(learner, steps=5, max_epochs=2, accumulate_grad_batches=2)
    assert learner._length.epoch == 3
    assert learner._length.total == learner._rules[0].steps == 6


@pytest.mark.parametrize(
    ("scheduling", "learner", "steps"),
    [
        ({0: 3}, SET(density=0.25), 8),
        ({0: 3}, DNW(density=0.25, initial_density=1.0), 8),
        ({1: 2, 3: 9}, RigL(density=0.25, delta_t=1), 5 + 3 + 3 + 1),
        ({1: 2, 3: 9}, RigL(density=0.25, delta_t=1, freeze_epoch=2), 5 + 3 + 3 + 1),
    ],
)
def test_accumulation_that_a_callback_schedules_counts(
    scheduling: dict[int, int], learner: Any, steps: int, recwarn: pytest.WarningsRecorder
) -> None:
    accumulation = GradientAccumulationScheduler(scheduling)
    fit(learner, steps=5, max_epochs=4, callbacks=[accumulation])
    assert learner._length.total == steps
    assert not [one for one in recwarn if type(learner).__name__ in str(one.message)]


def test_epochs_with_different_numbers_of_steps_are_no_unit() -> None:
    with pytest.raises(MisconfigurationException, match="steps of epochs differ, so count in st"):
        fit(SET(density=0.25), callbacks=[GradientAccumulationScheduler({1: 2})])


class Endless(IterableDataset[Batch]):
    def __iter__(self) -> Any:
        while True:
            yield from batches(1, torch.float32)


def test_data_without_a_length_need_steps() -> None:
    loader = DataLoader(Endless(), batch_size=None)
    with pytest.raises(MisconfigurationException, match="count in steps: unit=step"):
        quiet_trainer(callbacks=[SET(density=0.5)], max_steps=3, max_epochs=-1).fit(
            Reader(), loader
        )
    learner = RigL(density=0.5)
    quiet_trainer(callbacks=[learner], max_steps=3, max_epochs=-1).fit(Reader(), loader)
    assert learner._rules[0].steps == 3
    with pytest.raises(MisconfigurationException, match="max_steps or limit_train_batches, or"):
        quiet_trainer(callbacks=[RigL(density=0.5)], max_epochs=3).fit(Reader(), loader)
    with pytest.raises(MisconfigurationException, match=r"is not known: give .* or max_epochs, or"):
        fit(RigL(density=0.5), max_epochs=-1)


@pytest.mark.parametrize(
    "learner", [PruneAtStart(density=0.25), SNIP(density=0.25), MaskSchedule(density=0.25)]
)
def test_what_does_not_change_with_time_needs_no_length(learner: Any) -> None:
    class Sized(IterableDataset[Batch]):
        def __iter__(self) -> Any:
            return iter(batches(3, torch.float32))

    module = Reader()
    quiet_trainer(callbacks=[learner], max_epochs=2).fit(module, DataLoader(Sized(), None))
    assert 0 < edges(module.head) <= (160 if isinstance(learner, SNIP) else 40)
    limit = {"max_epochs": -1, "max_time": timedelta(seconds=0)}
    fit(learner, **limit)
    with pytest.raises(MisconfigurationException, match="is not known"):
        fit(PruneAtStart(density=0.25, fraction=0.1, until=0.5), **limit)


def test_times_of_an_own_rule_need_the_length() -> None:
    class Own(MaskSchedule):
        def make_times(self, length: Any) -> MaskTimes:
            return MaskTimes(end=length.step_at(0.5), every=1, fraction=0.5)

    learner = Own(density=0.25)
    fit(learner, steps=4, max_epochs=2)
    assert learner._rules[0].times.end == 4


class Critic(Reader):
    """Its optimizer takes several steps for a batch."""

    automatic_optimization = False
    in_batch = 5

    def training_step(self, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        for _ in range(self.in_batch):
            self.optimizers().zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            self.optimizers().step()


TAKEN = "with manual optimization a batch is taken to have one step, so "


@pytest.mark.parametrize(
    ("learner", "sentence"),
    [
        (
            lambda: GradualPruning(density=0.2, every=1),
            "the training has 8 steps of each optimizer; if that is not so, give total_steps.",
        ),
        (
            lambda: DNW(density=0.2, initial_density=1.0),
            "the training has 8 steps of each optimizer; if that is not so, give total_steps.",
        ),
        (
            lambda: ACDC(density=0.2, every=1),
            "the training has 8 steps of each optimizer and an epoch has 4 steps of each "
            "optimizer; if that is not so, give total_steps and count in steps (unit=step).",
        ),
        (
            lambda: SET(density=0.2, total_steps=40),
            "an epoch has 4 steps of each optimizer; if that is not so, count in steps "
            "(unit=step).",
        ),
        (lambda: GradualPruning(density=0.2, every=1, total_steps=40), None),
        (lambda: SET(density=0.2, every=4, unit="step", total_steps=40), None),
        (lambda: DNW(density=0.2), None),
        (lambda: SNIP(density=0.2), None),
    ],
)
def test_the_length_that_manual_optimization_is_taken_to_have_is_said(
    learner: Any, sentence: str | None, recwarn: pytest.WarningsRecorder
) -> None:
    callback = learner()
    fit(callback, Critic(), steps=4, max_epochs=2)
    name = type(callback).__name__
    said = [str(one.message) for one in recwarn if str(one.message).startswith(f"{name}: ")]
    assert said == ([] if sentence is None else [f"{name}: {TAKEN}{sentence}"])
    assert callback._rules[0].steps == (0 if type(callback) is DNW and sentence is None else 40)


def test_total_steps_set_the_length_of_several_steps_in_a_batch() -> None:
    seen: list[int] = []

    class Seen(Critic):
        def on_train_batch_end(self, *_: Any) -> None:
            seen.append(edges(self.head))

    fit(GradualPruning(density=0.2, every=1, total_steps=40), Seen(), steps=4, max_epochs=2)
    assert seen[4] > seen[5] == 32  # after 30 of 40 steps
    assert sorted(seen, reverse=True) == seen
