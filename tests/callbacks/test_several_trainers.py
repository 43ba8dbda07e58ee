"""One learner, and trainers or networks that are not those of its fit."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.callbacks.reader import Gated, Reader, batches
from tests.outside import LargestWeights
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import (
    DNW,
    GradualPruning,
    MaskConnect,
    RigL,
    TargetedDropout,
    WiringError,
)

LEARNERS: dict[str, Callable[[], Any]] = {
    "DNW": lambda: DNW(density=0.25),
    "RigL": lambda: RigL(density=0.25, delta_t=2),
    "GradualPruning": lambda: GradualPruning(density=0.25, every=1),
    "TargetedDropout": lambda: TargetedDropout(0.5, density=0.25),
    "MaskConnect": lambda: MaskConnect(lr=0.5, freeze_epoch=2),
}


def data() -> Any:
    return torch.utils.data.DataLoader(batches(4, torch.float32), batch_size=None)


class Tested(Reader):
    def test_step(self, batch: Any, index: int) -> None:
        self(batch[0])


class Inside(Callback):
    """Uses the learner in a trainer of its own after the first epoch."""

    def __init__(self, learner: Callback, what: str) -> None:
        self.learner, self.what, self.said = learner, what, ""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch != 0:
            return
        inner = quiet_trainer(callbacks=[self.learner], limit_val_batches=1)
        if self.what == "validate":
            inner.validate(deepcopy(pl_module), data(), verbose=False)
        elif self.what == "copy":
            inner = quiet_trainer(callbacks=[deepcopy(self.learner)])
            inner.fit(type(pl_module)(), data())
        elif self.what == "fit":
            with pytest.raises(MisconfigurationException) as refused:
                inner.fit(type(pl_module)(), data())
            self.said = str(refused.value)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_trainer_inside_of_a_fit_leaves_its_learner_alone(name: str) -> None:
    ends = []
    for what in ("nothing", "validate", "fit", "copy"):
        learner = LEARNERS[name]()
        inside = Inside(learner, what)
        module = Gated() if name == "MaskConnect" else Reader()
        quiet_trainer(callbacks=[learner, inside], max_epochs=3).fit(module, data())
        ends.append(module.state_dict())
        assert ("is in use by a fit of another Trainer" in inside.said) == (what == "fit")
    assert all(same_state(ends[0], other) for other in ends)


def test_a_learner_that_does_not_say_where_its_wiring_is_is_asked_in_every_test() -> None:
    module, learner = Tested(), LargestWeights("body.1", 20)
    trainer = quiet_trainer(callbacks=[learner])
    trainer.fit(module, data())
    with torch.no_grad():
        module.body[1].weight.fill_(1.0)
    with pytest.raises(WiringError, match=r"body\.1 has 1152 weights, not 20"):
        trainer.test(module, data(), verbose=False)


def test_another_network_is_tested_whatever_becomes_of_the_first_one() -> None:
    module, learner = Tested(), DNW(density=0.25)
    trainer = quiet_trainer(callbacks=[learner])
    trainer.fit(module, data())
    with torch.no_grad():
        module.body[1].weight.fill_(1.0)
    trainer.test(Tested(), data(), verbose=False)
    with pytest.raises(WiringError, match=r"body\.1 has 1,152 of 1,152 weights"):
        trainer.test(module, data(), verbose=False)
