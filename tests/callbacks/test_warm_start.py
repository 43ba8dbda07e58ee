"""WarmStart: weights of a file at the start of a fit, and only there."""

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch.optim import SGD

from tests.methods import digits, named
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import WarmStart
from wiring_lightning.tasks import ClassificationTask


def new_task() -> ClassificationTask:
    return named("resnet-previous").task(optimizer=partial(SGD, lr=0.05))  # without a state


def test_a_fit_starts_with_the_weights_of_the_file_and_goes_on_with_its_own(tmp_path: Path) -> None:
    saved = new_task().state_dict()
    torch.save({"state_dict": saved}, tmp_path / "start.ckpt")
    start = WarmStart(str(tmp_path / "start.ckpt"))
    still = quiet_trainer(callbacks=[start], limit_train_batches=0)
    task = new_task()
    still.fit(task, digits())
    assert same_state(task.state_dict(), saved)

    def trained(*lengths: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        task = new_task()
        trainer = quiet_trainer(callbacks=[start], limit_train_batches=2)
        for epochs in lengths:
            trainer.fit_loop.max_epochs = epochs
            trainer.fit(task, digits())
        return task.state_dict()

    assert same_state(trained(1, 2), trained(2))


class BuiltInSetup(LightningModule):
    def setup(self, stage: str) -> None:
        self.net = torch.nn.Linear(2, 2)


class BuiltInConfigureModel(LightningModule):
    def configure_model(self) -> None:
        self.net = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("kind", [BuiltInSetup, BuiltInConfigureModel])
def test_a_network_that_is_built_too_late_is_refused(kind: type[LightningModule]) -> None:
    with pytest.raises(MisconfigurationException, match=r"builds its network in (setup|configure)"):
        WarmStart("start.ckpt").setup(quiet_trainer(), kind(), "fit")
