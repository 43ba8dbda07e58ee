"""Lightning's finders of a learning rate or a batch size put a network with gates back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from tests.callbacks.reader import Gated, batches
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import MaskConnect
from wiring_lightning.nn import Gate

RANGE: dict[str, Any] = {"min_lr": 1.0, "max_lr": 10.0, "early_stop_threshold": None}
MAKERS: dict[str, Callable[..., Optimizer]] = {"SGD": SGD, "AdamW": AdamW}


class Tuned(Gated):
    """Has what the finders look for; what they try moves scores below 0."""

    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self.gate = Gate(4, 4, fan_in=2, usable=~torch.eye(4, dtype=torch.bool))
        self.optimizer, self.lr, self.batch_size, self.lowest = optimizer, 0.5, 4, 0.0

    def configure_optimizers(self) -> Optimizer:
        return MAKERS[self.optimizer](self.parameters(), lr=self.lr)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        images, labels = map(torch.cat, zip(*batches(4, torch.float32), strict=True))
        return DataLoader(TensorDataset(images, labels), batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self.train_dataloader()

    def on_train_batch_start(self, *_: object) -> None:
        scores = self.gate.scores.detach()
        self.lowest = min(self.lowest, float(scores[~torch.eye(4, dtype=torch.bool)].min()))


def find_rate(trainer: Trainer, module: Tuned) -> None:
    Tuner(trainer).lr_find(module, **RANGE, num_training=30, update_attr=False)


def find_batch_size(trainer: Trainer, module: Tuned) -> None:
    Tuner(trainer).scale_batch_size(module, steps_per_trial=8, max_trials=2, init_val=4)
    module.batch_size = 4


@pytest.mark.parametrize("find", [find_rate, find_batch_size])
@pytest.mark.parametrize("optimizer", MAKERS)
def test_a_fit_after_a_search_is_as_one_without(
    find: Callable[[Trainer, Tuned], None],
    optimizer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # the finders write checkpoints
    ends = []
    for first in (lambda *_: None, find):
        module = Tuned(optimizer)
        trainer = quiet_trainer(callbacks=[MaskConnect(lr=0.5)], max_epochs=2)
        first(trainer, module)
        lowest, module.lowest = module.lowest, 0.0
        trainer.fit(module)
        assert module.lowest == 0  # the user's optimizer has no scores in a fit
        ends.append(module.state_dict())
    assert lowest < 0  # it had them in the search, which takes callbacks away
    assert same_state(*ends)


class AtEpoch1(LearningRateFinder):
    """Looks for another rate in the middle of a fit."""

    def on_fit_start(self, *_: object) -> None:
        pass

    def on_train_epoch_start(self, trainer: Trainer, pl_module: nn.Module) -> None:
        if trainer.current_epoch == 1:
            self.lr_find(trainer, pl_module)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("kind", [LearningRateFinder, AtEpoch1])
def test_a_finder_among_the_callbacks(
    kind: type[LearningRateFinder], before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module, learner = Tuned("SGD"), MaskConnect(lr=0.5)
    finder = kind(**RANGE, num_training_steps=30)
    callbacks = [finder, learner] if before else [learner, finder]
    trainer = quiet_trainer(callbacks=callbacks, max_epochs=3)
    trainer.fit(module)
    assert trainer.global_step == 24
    assert (module.lowest < 0) == (kind is LearningRateFinder)  # in a fit they are taken out
    assert module.gate.active.sum(1).tolist() == [2] * 4
    assert not module.gate.active.diagonal().any()
    scores = module.gate.scores.detach()
    assert torch.equal(scores.diagonal(), torch.full((4,), -1.0))
    torch.testing.assert_close(scores.clamp_min(0).sum(1), torch.ones(4))
