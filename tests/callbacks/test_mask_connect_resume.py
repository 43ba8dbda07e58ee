"""MaskConnect over several fits: from a checkpoint, on the same trainer, after an error."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from tests.callbacks.foreign_module import (
    STEPS,
    Foreign,
    Net,
    SelfMade,
    copy_of,
    differs,
    fit,
    loader,
)
from tests.callbacks.reader import Gated, batches
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import MaskConnect


def test_a_foreign_module_resumes_bit_identical(tmp_path: Path) -> None:
    def run(resume: str | None) -> tuple[dict[str, Tensor], MaskConnect]:
        torch.manual_seed(1 if resume else 0)
        module, learner = Foreign(), MaskConnect(lr=0.5, seed=4)
        saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
        callbacks = [learner] if resume else [learner, saver]
        fit(module, *callbacks, max_epochs=2, ckpt_path=resume, enable_checkpointing=not resume)
        return copy_of(module), learner

    whole, first = run(None)
    resumed, second = run(str(tmp_path / "epoch=0.ckpt"))
    assert same_state(whole, resumed)
    assert first.state_dict() == second.state_dict()
    assert second.optimizer.group["steps"] == 2 * STEPS


def test_the_state_is_restored_from_the_checkpoint(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "last")
    fit(Foreign(), MaskConnect(lr=0.25, seed=9), saver, enable_checkpointing=True)
    learner = MaskConnect(lr=0.9, seed=1)
    fit(Foreign(), learner, max_epochs=1, ckpt_path=str(tmp_path / "last.ckpt"))  # no step left
    group = learner.optimizer.group
    assert (group["lr"], group["seed"], group["steps"]) == (0.25, 9, STEPS)


class BuiltLate(Foreign):
    """Has no network before `configure_model`."""

    def __init__(self) -> None:
        LightningModule.__init__(self)
        self.lr = 0.05
        self.net: Any = None

    def configure_model(self) -> None:
        if self.net is None:
            torch.manual_seed(7)
            self.net = Net()


def test_a_network_that_is_built_in_configure_model_learns_and_resumes(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    late, resumed = BuiltLate(), BuiltLate()
    fit(late, MaskConnect(lr=0.5), saver, max_epochs=2, enable_checkpointing=True)
    fit(resumed, MaskConnect(lr=0.5), max_epochs=2, ckpt_path=str(tmp_path / "epoch=0.ckpt"))
    torch.manual_seed(7)
    early = Foreign(Net())
    uniform = copy_of(early)
    fit(early, MaskConnect(lr=0.5), max_epochs=2)
    assert same_state(late.state_dict(), early.state_dict())
    assert same_state(late.state_dict(), resumed.state_dict())
    assert {"net.gate.scores", "net.last.scores"} <= differs(uniform, copy_of(late))


def test_configure_model_may_need_what_setup_has_set() -> None:
    class Sized(BuiltLate):
        def setup(self, stage: str) -> None:
            self.size = 5

        def configure_model(self) -> None:
            assert self.size == 5
            super().configure_model()

    module = Sized()
    fit(module, MaskConnect(lr=0.5), max_epochs=1)
    assert module.net.gate.scores.std() > 0


@pytest.mark.parametrize("shared", [True, False], ids=["same optimizer", "new optimizer"])
def test_the_same_callback_serves_two_fits(shared: bool) -> None:
    module: LightningModule = SelfMade() if shared else Foreign()
    learner = MaskConnect(lr=0.5)
    for _ in range(2):
        start = copy_of(module)
        trainer = fit(module, learner)
        assert learner.optimizer.group["steps"] == STEPS  # and not twice that
        assert "net.gate.scores" in differs(start, copy_of(module))
        assert not trainer.optimizers[0]._optimizer_step_post_hooks


def test_a_fit_that_continues_on_the_same_trainer_learns_on() -> None:
    module, learner = SelfMade(), MaskConnect(lr=0.5)
    trainer = quiet_trainer(callbacks=[learner], max_epochs=1)
    trainer.fit(module, loader())
    middle = copy_of(module)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader())
    assert "net.gate.scores" in differs(middle, copy_of(module))


class Fails(Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            raise self.error


def test_hooks_are_gone_after_an_error() -> None:
    module, learner = SelfMade(), MaskConnect()
    with pytest.raises(ZeroDivisionError):
        fit(module, learner, Fails(ZeroDivisionError()))
    assert not module.made._optimizer_step_post_hooks
    fit(module, learner)
    assert learner.optimizer.group["steps"] == STEPS


def test_a_checkpoint_of_a_run_without_the_callback_is_refused_in_words(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "last")
    data = DataLoader(batches(1, torch.float32), batch_size=None)
    quiet_trainer(callbacks=[saver], enable_checkpointing=True).fit(Gated(), data)
    module, trainer = Gated(), quiet_trainer(callbacks=[MaskConnect()], max_epochs=2)
    with pytest.raises(MisconfigurationException, match="the scores of the gates are in the"):
        trainer.fit(module, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    module.load_state_dict(state["state_dict"])  # as the sentence says
    quiet_trainer(callbacks=[MaskConnect()]).fit(module, data)


def test_scores_that_no_optimizer_held_may_be_learned_later(tmp_path: Path) -> None:
    class Weights(Gated):
        def configure_optimizers(self) -> Any:
            return self.make([p for n, p in self.named_parameters() if n != "gate.scores"])

    saver = ModelCheckpoint(tmp_path, "last")
    data = DataLoader(batches(1, torch.float32), batch_size=None)
    quiet_trainer(callbacks=[saver], enable_checkpointing=True).fit(Weights(), data)
    trainer = quiet_trainer(callbacks=[MaskConnect()], max_epochs=2)
    trainer.fit(Weights(), data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert trainer.global_step == 2
