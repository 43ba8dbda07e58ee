"""A run that stops inside an epoch and resumes ends like the run that never stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.methods import LEARNERS, METHODS, Method, named, over
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import MaskConnect, Phase, PhaseSchedule
from wiring_lightning.cli import main
from wiring_lightning.data import Digits

ROOT = Path(__file__).parents[2]


def few_digits() -> Digits:
    """31 images to train on: four steps an epoch."""
    return Digits(batch_size=8, val_size=1366)


@over(METHODS, slow=[method.name for method in METHODS if method not in LEARNERS])
def test_resumed_run_equals_uninterrupted(method: Method, tmp_path: Path) -> None:
    def train(resume: Path | None) -> dict[str, torch.Tensor]:
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
        torch.manual_seed(1 if resume else 0)  # a fresh process draws other numbers
        task = method.task()
        trainer = quiet_trainer(
            max_epochs=2,
            callbacks=[*method.new_callbacks(), *([] if resume else [saver])],
            enable_checkpointing=resume is None,
        )
        trainer.fit(task, few_digits(), ckpt_path=resume)
        assert trainer.global_step == 8
        return task.state_dict()

    uninterrupted = train(None)
    for step in (4, 6):  # at the end of an epoch, and inside of one
        assert same_state(train(tmp_path / f"step={step}.ckpt"), uninterrupted), step


def test_resume_across_the_freeze(tmp_path: Path) -> None:
    def train(resume: Path | None) -> tuple[dict[str, torch.Tensor], float]:
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=6, save_top_k=-1)
        torch.manual_seed(1 if resume else 0)
        phases = [Phase(1, 0.05, gate_lr=0.5), Phase(1, 0.02, freeze=True), Phase(1, 0.01)]
        trainer = quiet_trainer(
            callbacks=[MaskConnect(), PhaseSchedule(phases), *([] if resume else [saver])],
            enable_checkpointing=resume is None,
            max_epochs=3,
        )
        task = named("resnext-learned").task()
        trainer.fit(task, few_digits(), ckpt_path=resume)
        return task.state_dict(), trainer.optimizers[0].param_groups[0]["lr"]

    uninterrupted, lr = train(None)
    resumed, resumed_lr = train(tmp_path / "step=6.ckpt")
    assert same_state(uninterrupted, resumed)
    assert resumed_lr == lr == 0.01


class KillAt(Callback):
    """Ends the process as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
def test_run_killed_inside_an_epoch_resumes_bit_identical(tmp_path: Path) -> None:
    method = named("resnext-learned").config()
    config = {
        "seed_everything": 7,
        "model": method["model"],
        "data": {"class_path": "Digits", "init_args": {"batch_size": 8, "val_size": 1317}},
        "trainer": {
            "accelerator": "cpu",
            "deterministic": True,
            "logger": False,
            "default_root_dir": str(tmp_path),
            "max_epochs": 2,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 1,
            "limit_test_batches": 0,
        },
    }

    def write(folder: str, *more: dict[str, Any]) -> str:
        options = {"dirpath": str(tmp_path / folder), "save_last": True, "every_n_train_steps": 4}
        saver = {"class_path": "ModelCheckpoint", "init_args": options}
        callbacks = [*method["callbacks"], saver, *more]
        file = tmp_path / f"{folder}.yaml"
        file.write_text(
            yaml.safe_dump({**config, "trainer": {**config["trainer"], "callbacks": callbacks}})
        )
        return str(file)

    main(["fit", "--config", write("whole")])
    # 10 steps an epoch; 12 was the last saved
    killer = {"class_path": "tests.suites.test_resumes.KillAt", "init_args": {"step": 14}}
    command = [sys.executable, "cli.py", "fit", "--config", write("killed", killer)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    last = tmp_path / "killed" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 12
    main(["fit", "--config", write("killed"), "--ckpt_path", str(last)])
    whole, resumed = (
        torch.load(tmp_path / folder / "last.ckpt", weights_only=True)
        for folder in ("whole", "killed")
    )
    assert whole["global_step"] == resumed["global_step"] == 20
    assert same_state(whole["state_dict"], resumed["state_dict"])
