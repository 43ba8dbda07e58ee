"""How long a training is: accumulated batches, data without a length, manual optimization."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset

from tests.callbacks.reader import Batch, Gated, Loader, Reader, batches, edges, fit
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import (
    ACDC,
    DNW,
    SET,
    SNIP,
    GradualPruning,
    MaskConnect,
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


class Noted(LightningDataModule):
    """Notes when it is asked for the training data, and where they are to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[Any] = []

    def train_dataloader(self) -> Loader:
        self.notes.append((self.trainer.current_epoch, self.trainer.global_step))
        notes = self.notes

        class Noting(Loader):
            def load_state_dict(self, state: dict[str, int]) -> None:
                super().load_state_dict(state)
                notes.append(self.position)

            def __iter__(self) -> Any:
                for batch in super().__iter__():
                    notes.append(float(batch[0].sum()))
                    yield batch

        return Noting(batches(3, torch.float32))


@pytest.mark.parametrize(
    ("settings", "at"),
    [
        ({"max_epochs": 3}, 4),
        ({"max_epochs": -1, "max_steps": 8, "reload_dataloaders_every_n_epochs": 1}, 3),
    ],
)
def test_a_resumed_run_asks_for_its_data_as_without_a_learner(
    settings: dict[str, int], at: int, tmp_path: Path
) -> None:
    def notes(learner: Callback | None, resume: Path | None = None) -> list[Any]:
        folder = tmp_path / type(learner).__name__
        saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
        callbacks = [*([] if learner is None else [learner]), *([] if resume else [saver])]
        trainer = quiet_trainer(callbacks=callbacks, enable_checkpointing=not resume, **settings)
        data, module = Noted(), Gated() if isinstance(learner, MaskConnect) else Reader()
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
        return data.notes if resume else notes(learner, folder / f"step={at}.ckpt")

    plain = notes(None)
    assert [note for note in plain if isinstance(note, int)] == [at % 3 or 3]
    for learner in (
        RigL(density=0.25, delta_t=1),
        DNW(density=0.25, initial_density=1.0),
        MaskConnect(explore="swap", freeze_epoch=3),
    ):
        assert notes(learner) == plain


@pytest.mark.parametrize(
    ("learner", "instead"),
    [
        (RigL(density=0.25, delta_t=1), "give total_steps."),
        (SET(density=0.25, total_steps=9), "give total_steps and unit=step."),
        (MaskConnect(explore="swap", freeze_epoch=2), "give anneal_steps."),
        (RigL(density=0.25, delta_t=1, total_steps=9), None),
        (MaskConnect(), None),
    ],
)
def test_epochs_that_get_another_number_of_batches_are_told_once(
    learner: Any, instead: str | None, recwarn: pytest.WarningsRecorder
) -> None:
    class Shrinking(LightningDataModule):
        def train_dataloader(self) -> Loader:
            return Loader(batches(4 - self.trainer.current_epoch, torch.float32))

    trainer = quiet_trainer(callbacks=[learner], max_epochs=3, reload_dataloaders_every_n_epochs=1)
    trainer.fit(Gated() if isinstance(learner, MaskConnect) else Reader(), Shrinking())
    said = [str(one.message) for one in recwarn if "an epoch has" in str(one.message)]
    assert len(said) == (0 if instead is None else 1)
    for text in said:
        assert text.startswith(f"{type(learner).__name__}: an epoch has 3 batches now, not 4 as")
        assert text.endswith(instead)
