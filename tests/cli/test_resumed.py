"""A run that was broken off goes on as if it had not been, or says what is lost."""

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader

from tests.callbacks.reader import Reader, batches
from tests.cli.commands import BASE, succeed, weights_in, wiring, write
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import DNW
from wiring_lightning.cli.first_work import FirstWork

LAST = Path("kept/last.ckpt")
SAID = "no checkpoint holds gradients"
PART = DataLoader(batches(1, torch.float32) * 6, batch_size=None)


def config(path: Path, learner: bool, saver: dict[str, Any], **trainer: Any) -> str:
    """Two epochs of 10 batches; 3 are one step, and so is the last one."""
    changed = deepcopy(BASE)
    changed["data"]["init_args"]["batch_size"] = 8
    saving = {"dirpath": "kept", "save_last": True, **saver}
    changed["trainer"] |= {
        "max_epochs": 2,
        "accumulate_grad_batches": 3,
        "limit_test_batches": 1,
        "logger": False,
        "enable_progress_bar": False,
        "deterministic": True,
        **trainer,
    }
    changed["trainer"]["callbacks"].append({"class_path": "ModelCheckpoint", "init_args": saving})
    if not learner:
        changed["model"]["init_args"]["backbone"]["init_args"]["wiring"] = "random"
        del changed["trainer"]["callbacks"][0]
    return write(changed, path)


def break_off(patch: pytest.MonkeyPatch, batch: int) -> None:
    """Let the next fit end after so many batches of all epochs, before callbacks save."""

    def stop(self: FirstWork, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 == batch:
            raise RuntimeError("broken off")

    patch.setattr(FirstWork, "on_train_batch_end", stop)


@pytest.mark.parametrize(
    ("learner", "every", "breaks"),
    [(True, 2, [8, 8]), (False, 4, [12, 12]), (False, 1, [5, 5, 8, 8])],
)
def test_a_run_that_is_broken_off_again_and_again_ends_as_one_that_was_not(
    learner: bool, every: int, breaks: list[int], tmp_path: Path
) -> None:
    file = config(tmp_path / "run.yaml", learner, {"every_n_train_steps": every})
    arguments = ("fit", "--config", file)
    succeed(*arguments)
    whole = weights_in(LAST)
    for path in LAST.parent.iterdir():
        path.unlink()
    for batch in breaks:
        with pytest.MonkeyPatch.context() as patch:
            break_off(patch, batch)
            with pytest.raises(RuntimeError, match="broken off"):
                wiring(*arguments, "--ckpt_path=last")
    with warnings.catch_warnings(record=True, action="always") as said:
        succeed(*arguments, "--ckpt_path=last")
    assert not [each for each in said if SAID in str(each.message)]
    assert same_state(whole, weights_in(LAST))


@pytest.mark.parametrize("learner", [True, False])
def test_what_a_checkpoint_inside_of_a_step_lacks_is_said(learner: bool, tmp_path: Path) -> None:
    file = config(tmp_path / "run.yaml", learner, {}, val_check_interval=4)
    with pytest.MonkeyPatch.context() as patch:
        break_off(patch, 6)
        with pytest.raises(RuntimeError, match="broken off"):
            wiring("fit", "--config", file)
    with warnings.catch_warnings(record=True, action="always") as said:
        succeed("fit", "--config", file, f"--ckpt_path={LAST}")
    (text,) = [str(each.message) for each in said if SAID in str(each.message)]
    assert "after batch 4 of an epoch, inside of a step of 3 " in text
    assert "will lack 1 of its batches" in text


@pytest.mark.parametrize(
    ("batch", "scheduled", "missing"),
    [(2, {0: 4}, 2), (4, {0: 4}, 0), (6, {0: 4}, 0), (8, {0: 1, 1: 4}, 2), (2, {0: 2, 1: 4}, 0)],
)
def test_a_learner_says_it_to_any_trainer(
    batch: int, scheduled: dict[int, int], missing: int, tmp_path: Path
) -> None:
    """An epoch has 6 batches."""

    class Save(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.fit_loop.epoch_loop.total_batch_idx + 1 == batch:
                trainer.save_checkpoint(tmp_path / "some.ckpt")

    def fit(*others: Callback, **kwargs: Any) -> None:
        learners = [GradientAccumulationScheduler(scheduled), DNW(density=0.5), *others]
        quiet_trainer(callbacks=learners, max_epochs=2).fit(Reader(), PART, **kwargs)

    fit(Save())
    with warnings.catch_warnings(record=True, action="always") as said:
        fit(ckpt_path=tmp_path / "some.ckpt", weights_only=True)
    texts = [str(each.message) for each in said if SAID in str(each.message)]
    assert len(texts) == (missing > 0)
    assert all(f"will lack {missing} of its batches" in text for text in texts)
