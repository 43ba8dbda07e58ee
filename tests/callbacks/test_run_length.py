"""How long a training is: accumulated batches, and data without a length."""

from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader, IterableDataset

from tests.callbacks.reader import Batch, Reader, batches, fit
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import DNW, SET, RigL


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
