"""What is in the folder of a run is compared by the config of the fit that has trained it."""

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger

from tests.cli.commands import BASE, refused, succeed, wiring, write
from tests.cli.test_slurm import JOB
from wiring_lightning.checkpoints import AtomicCheckpointIO, load_checkpoint
from wiring_lightning.cli.inspect import WiringTrainer
from wiring_lightning.cli.last_run import find_last_run
from wiring_lightning.cli.requeue import find_requeued
from wiring_lightning.cli.run_length import has_other_length, lengths
from wiring_lightning.cli.runs import find_run
from wiring_lightning.cli.trained_config import note_config, trained_config

VERSION = "lightning_logs/version_0"


def of(width: int, **more: Any) -> dict[str, Any]:
    """A config that is told from others by its width."""
    changed = deepcopy(BASE)
    changed["model"]["init_args"]["backbone"]["init_args"]["width"] = width
    return changed | more


def save(path: Path, note: str | None = None, step: int = 1, **more: Any) -> Path:
    """A checkpoint of a fit with a config, or with one that nobody noted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"state_dict": {}, "global_step": step, **more}
    if note is not None:
        note_config(content, note)
    torch.save(content, path)
    os.utime(path, (step, step))
    return path


# The notes in checkpoints, from the oldest, of a folder in which `config_3.yaml` is of a test.
FOLDERS: dict[str, tuple[list[str | None], str]] = {
    "the last fit saved nothing": (["config.yaml", "config_1.yaml"], "config_1.yaml"),
    "two fits saved nothing": (["config.yaml", "config.yaml"], "config.yaml"),
    "each fit saved": (["config.yaml", "config_2.yaml"], "config_2.yaml"),
    "files were copied in another order": (["config_1.yaml", "config.yaml"], "config_1.yaml"),
    "an earlier version saved the first": ([None, "config_1.yaml"], "config_1.yaml"),
    "an earlier version saved all": ([None, None], "config_2.yaml"),
    "a note is of nothing here": (["config_7.yaml", "../a.yaml"], "config_2.yaml"),
    "a note is of a test": (["config_3.yaml"], "config_2.yaml"),
    "nothing is saved there": ([], "config_2.yaml"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_the_config_is_of_the_last_fit_that_saved_something(case: str, tmp_path: Path) -> None:
    notes, expected = FOLDERS[case]
    for number, name in enumerate(("config", "config_1", "config_2")):
        write(of(2 + number), tmp_path / f"{name}.yaml")
    write(of(9, verbose=True), tmp_path / "config_3.yaml")
    for step, note in enumerate(notes):
        save(tmp_path / f"checkpoints/{step}.ckpt", note, step)
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "checkpoints/damaged.ckpt").write_bytes(b"no checkpoint")
    found = find_run(tmp_path)
    assert found.file.name == expected
    assert found.config == yaml.safe_load((tmp_path / expected).read_text())


def test_a_folder_without_a_config_has_none(tmp_path: Path) -> None:
    assert trained_config(tmp_path) is None
    (tmp_path / "config.yaml").mkdir()
    assert trained_config(tmp_path) is None
    assert "is no run folder" in refused("table", str(tmp_path))


@pytest.mark.parametrize("noted", ["config.yaml", "config_1.yaml"])
def test_a_checkpoint_is_compared_with_the_config_of_its_fit(
    noted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `--ckpt_path last`, and by a job of SLURM that is queued again."""
    runs = tmp_path / "runs"
    folder = runs / "version_0"
    configs = {"config.yaml": of(2), "config_1.yaml": of(4)}
    last = save(folder / "checkpoints/last.ckpt", noted)
    note = {"job": int(JOB["SLURM_JOB_ID"]), "folder": str(folder)}
    left = save(tmp_path / "hpc_ckpt_1.ckpt", noted, slurm_run=note)
    for name, config in configs.items():
        write(config, folder / name)
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    trainer = WiringTrainer(logger=CSVLogger(runs, name=""))
    for name, config in configs.items():
        found, said = find_last_run(trainer, config)
        again = find_requeued(str(tmp_path), lambda config=config: config)  # type: ignore[misc]
        if name == noted:
            assert (found, said) == (folder, None)
            assert again == (str(left), folder)
        else:
            assert found is None
            assert str(said).startswith(f"{last} is of a run with another config, model.backbone.w")
            assert again is None


def no_room(*_: Any, **__: Any) -> None:
    """What a full disk says."""
    raise OSError("no room")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two epochs, and its config."""
    folder = tmp_path_factory.mktemp("trained")
    config = deepcopy(BASE)
    config["data"]["init_args"]["batch_size"] = 16
    saver = {"class_path": "ModelCheckpoint", "init_args": {"save_last": True}}
    config["trainer"]["callbacks"].append(saver)
    config["trainer"] |= {"limit_train_batches": 1, "limit_test_batches": 1, "max_epochs": 2}
    config["trainer"]["enable_progress_bar"] = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.chdir(folder)
        succeed("fit", "--config", write(config, folder / "run.yaml"))
    return folder


def test_a_fit_that_trains_nothing_or_fails_is_not_what_was_trained(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    again = ("fit", "--config", "run.yaml", "--ckpt_path=last")
    folder = Path(VERSION)

    def is_of_the_first_fit() -> bool:
        found = find_run(folder)
        assert lengths([found]) == [{"epochs": "2 of 1 batch"}]
        return found.file.name == "config.yaml" and not has_other_length(found)

    assert load_checkpoint(folder / "checkpoints/last.ckpt")["wiring_config"] == "config.yaml"
    succeed(*again, "--trainer.max_epochs=1")
    assert not (folder / "config_1.yaml").exists()
    assert is_of_the_first_fit()
    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", no_room)
        assert "no room" in refused(*again, "--trainer.max_epochs=4")
    assert (folder / "config_1.yaml").exists()
    assert is_of_the_first_fit()
    on = wiring(*again, "--trainer.max_epochs=3")
    assert "from scratch" not in on.err
    assert find_run(folder).file.name == "config_2.yaml"
    assert lengths([find_run(folder)]) == [{"epochs": "3 of 1 batch"}]
