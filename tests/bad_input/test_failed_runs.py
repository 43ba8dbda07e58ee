"""A run that ends badly says why, and spares the checkpoints that were there."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.imports import RequirementCache

from tests.bad_input.configs import Config, config_with, trainer
from tests.cli.commands import refused, wiring, write
from tests.trainers import same_state
from wiring_lightning.checkpoints import AtomicCheckpointIO, CheckpointError, load_checkpoint
from wiring_lightning.cli.first_work import FirstWork


def with_saver(folder: Path, **arguments: Any) -> list[dict[str, Any]]:
    saver = {"dirpath": str(folder), "every_n_train_steps": 1, "save_last": True, **arguments}
    return [
        {"class_path": "MaskConnect"},
        {"class_path": "ModelCheckpoint", "init_args": saver},
    ]


class ExplodeAt(Callback):
    """Sets a learning rate from which no network recovers."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = 1e30


class Spoils(Callback):
    """The third step leaves a weight that is no number."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == 3:
            pl_module.backbone.classifier.bias.data[4] = torch.nan


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_says_how_to_install_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = RequirementCache("no-such-logger>=1.0")
    monkeypatch.setattr(f"lightning.pytorch.loggers.{name}._{name.upper()}_AVAILABLE", missing)
    logger = {"wandb": "WandbLogger", "mlflow": "MLFlowLogger"}[name]
    file = write(config_with(), tmp_path / "c.yaml")
    said = refused("fit", "--config", file, "--trainer.logger", logger)
    assert "pip install -U 'no-such-logger>=1.0'" in said


def explosion(folder: Path) -> Config:
    config = config_with(trainer(callbacks=with_saver(folder, filename="{step}", save_top_k=-1)))
    explode = {"class_path": "tests.bad_input.test_failed_runs.ExplodeAt", "init_args": {"step": 2}}
    config["trainer"]["callbacks"].append(explode)
    return config


def test_a_loss_that_is_not_a_number_ends_the_run_and_spares_the_checkpoints(
    tmp_path: Path,
) -> None:
    file = write(explosion(tmp_path / "saved"), tmp_path / "explode.yaml")
    said = refused("fit", "--config", file)
    assert "The training loss became infinite or not a number by step 3" in said
    assert "lower the learning rate" in said
    paths = list((tmp_path / "saved").iterdir())
    assert {path.name for path in paths} >= {"step=1.ckpt", "step=2.ckpt", "last.ckpt"}
    for path in paths:  # all that are there can be read, and none holds what is no number
        weights = load_checkpoint(path)["state_dict"].values()
        assert all(torch.isfinite(value).all() for value in weights)
    good = str(tmp_path / "saved/step=2.ckpt")
    assert wiring("test", "--config", file, "--ckpt_path", good).code == 0


@pytest.mark.parametrize("steps", [3, 4])
def test_a_loss_that_is_not_a_number_is_found_without_checkpoints_too(
    steps: int, tmp_path: Path
) -> None:
    config = explosion(tmp_path)
    config["trainer"] |= {"enable_checkpointing": False, "log_every_n_steps": 50}
    config["trainer"] |= {"limit_train_batches": 4, "max_epochs": 1}
    config["trainer"]["callbacks"].pop(1)
    config["trainer"]["callbacks"][-1]["init_args"]["step"] = steps - 2
    said = refused("fit", "--config", write(config, tmp_path / "explode.yaml"))
    assert "The training loss became infinite or not a number" in said


def test_weights_that_are_not_numbers_do_not_replace_a_checkpoint(tmp_path: Path) -> None:
    """The step that spoiled them still had a good loss."""
    config = explosion(tmp_path / "saved")
    config["trainer"]["callbacks"][-1] = {"class_path": "tests.bad_input.test_failed_runs.Spoils"}
    said = refused("fit", "--config", write(config, tmp_path / "spoil.yaml"))
    assert "Values of backbone.classifier.bias" in said
    assert "became infinite or not a number by step 3" in said
    last = load_checkpoint(tmp_path / "saved/last.ckpt")
    assert last["global_step"] == 2
    assert all(torch.isfinite(value).all() for value in last["state_dict"].values())


@pytest.fixture
def tiny_disk(run: tuple[str, bytes], tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one checkpoint and a half."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = len(run[1]) * 3 // 2
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small disk here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_spares_the_checkpoint_that_was_there(tiny_disk: Path, tmp_path: Path) -> None:
    config = config_with(trainer(callbacks=with_saver(tiny_disk, save_top_k=0)))
    file = write(config, tmp_path / "full.yaml")
    said = refused("fit", "--config", file)
    assert f"The checkpoint {tiny_disk / 'last.ckpt'} could not be written" in said
    assert "No space left on device" in said
    assert "make room" in said
    assert [path.name for path in tiny_disk.iterdir()] == ["last.ckpt"]
    assert load_checkpoint(tiny_disk / "last.ckpt")["global_step"] == 1
    assert wiring("test", "--config", file, "--ckpt_path", str(tiny_disk / "last.ckpt")).code == 0


def half_written(path: Path, content: Any) -> None:
    with path.open("wb") as file:
        file.write(bytes(content)[: len(content) // 2])
    raise OSError(28, "No space left on device")


def test_a_write_that_breaks_off_spares_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, writer = tmp_path / "new folder/last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"value": torch.ones(9)}, path)
    monkeypatch.setattr(Path, "write_bytes", half_written)
    with pytest.raises(CheckpointError, match=r"last\.ckpt could not be written \(No space left"):
        writer.save_checkpoint({"value": torch.zeros(9)}, path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert same_state(writer.load_checkpoint(path), {"value": torch.ones(9)})


def test_a_write_that_is_killed_spares_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, writer = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"value": torch.ones(9)}, path)

    def killed(path: Path, content: Any) -> None:
        try:
            half_written(path, content)
        except OSError:
            raise KeyboardInterrupt from None

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            writer.save_checkpoint({"value": torch.zeros(9)}, path)
    assert same_state(writer.load_checkpoint(path), {"value": torch.ones(9)})
    writer.save_checkpoint({"value": torch.zeros(9)}, path)  # what was left is in nobody's way
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    config = config_with(trainer(callbacks=with_saver(tmp_path / "taken")))
    said = refused("fit", "--config", write(config, tmp_path / "taken.yaml"))
    assert str(tmp_path / "taken") in said


@pytest.mark.parametrize("below", ["/proc/checkpoints", "taken/checkpoints"])
def test_a_folder_for_checkpoints_is_tried_before_the_first_step(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FirstWork, "on_train_batch_end", None)  # nothing may come as far
    (tmp_path / "taken").write_text("a file where the folder should be")
    savers = with_saver(tmp_path / below, every_n_train_steps=None)
    file = write(config_with(trainer(callbacks=savers)), tmp_path / "c.yaml")
    said = refused("fit", "--config", file)
    assert "cannot be written" in said
    assert below in said
    assert not list(tmp_path.rglob("version_*"))


class Interrupts(Callback):
    """What Ctrl+C or a `kill` does in the second step, or while the run is tested."""

    def __init__(self, when: str) -> None:
        self.when = when

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.when == "training" and trainer.global_step == 2:
            raise KeyboardInterrupt
        if self.when == "terminating" and trainer.global_step == 2:
            assert callable(signal.getsignal(signal.SIGTERM))  # otherwise it would end the tests
            os.kill(os.getpid(), signal.SIGTERM)

    def on_test_start(self, *_: Any) -> None:
        if self.when == "testing":
            raise KeyboardInterrupt

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.when == "drawing":
            pl_module.backbone.wiring = self.interrupt

    def interrupt(self) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("when", ["training", "testing", "drawing", "terminating"])
def test_an_interrupt_ends_without_report_and_traceback(when: str, tmp_path: Path) -> None:
    config = config_with(trainer(callbacks=with_saver(tmp_path / "saved"), limit_test_batches=1))
    interrupts = {
        "class_path": "tests.bad_input.test_failed_runs.Interrupts",
        "init_args": {"when": when},
    }
    config["trainer"]["callbacks"].append(interrupts)
    before = signal.getsignal(signal.SIGINT)
    try:
        run = wiring("fit", "--config", write(config, tmp_path / "interrupted.yaml"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.code == (143 if when == "terminating" else 1)  # as a shell has it
    if when == "terminating":
        assert run.err.endswith("wiring: interrupted\n")
    assert "Traceback" not in run.err
    assert "after pruning" not in run.out
    step = load_checkpoint(tmp_path / "saved/last.ckpt")["global_step"]
    assert step == {"training": 1, "terminating": 2}.get(when, 4)
