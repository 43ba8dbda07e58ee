"""Which checkpoints a run has, which of them is the best, and what is said if there is none."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import wiring_lightning as wl
from tests.cli.commands import Trained, network_of, succeed, write
from tests.cli.test_load import _same
from wiring_lightning.checkpoints import CheckpointError, read_weights
from wiring_lightning.cli import several_runs
from wiring_lightning.cli.run_checkpoints import checkpoints_of
from wiring_lightning.cli.run_steps import costs_apart
from wiring_lightning.cli.runs import RunError, find_run

OBJECTS = {
    "a partial": {"make": partial(nn.LeakyReLU, 0.1)},
    "a function": {"activation": nn.functional.relu},
    "a module": {"loss": nn.CrossEntropyLoss()},
}


def _save(trained: Trained, path: Path, step: int, same: bool = True, **more: Any) -> Path:
    """A checkpoint in a run like the one that was trained, with its weights or with zeros."""
    content = read_weights(trained.checkpoint) | {"global_step": step, **more}
    if not same:
        content["state_dict"]["backbone.stem.0.weight"].zero_()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def _config(trained: Trained, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_bytes(Path(trained.config).read_bytes())
    return folder


def _best(name: str, monitor: str = "val/acc") -> dict[str, Any]:
    """What a `ModelCheckpoint` saves of the best file."""
    state = {"monitor": monitor, "best_model_path": name and f"/elsewhere/checkpoints/{name}"}
    return {"ModelCheckpoint": state}


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_beside_the_weights_are_passed_over_in_a_run_of_several_files(
    kind: str, trained: Trained, tmp_path: Path
) -> None:
    objects = OBJECTS[kind]
    run = _config(trained, tmp_path / "run")
    for name, step in (("first", 5), ("last", 7)):
        _save(
            trained, run / "checkpoints" / f"{name}.ckpt", step, same=name == "first",
            hyper_parameters=objects, callbacks=_best("first.ckpt"),
        )  # fmt: skip
    network = network_of(trained.checkpoint)
    assert _same(wl.load(run, "best"), network)
    assert not _same(wl.load(run), network)
    assert costs_apart([find_run(run)], "test/acc") is None


@pytest.mark.parametrize(
    ("callbacks", "said"),
    [
        (
            _best("gone.ckpt", "val/loss"),
            r"lost its best checkpoint by val/loss: gone\.ckpt is not there",
        ),
        (_best("", "val/loss"), r"no best checkpoint yet: .* compared none by val/loss"),
        (None, r"checkpoints/a\.ckpt holds weights only, .* save_weights_only"),
        ({}, r"no best checkpoint: train with a ModelCheckpoint that monitors"),
        ({"ModelCheckpoint": {"monitor": None, "best_model_path": "/a.ckpt"}}, "that monitors"),
    ],
)
def test_it_is_said_why_there_is_no_best_checkpoint(
    callbacks: Any, said: str, trained: Trained, tmp_path: Path
) -> None:
    run = _config(trained, tmp_path / "run")
    _save(trained, run / "checkpoints/a.ckpt", 5, callbacks=callbacks)
    with pytest.raises(RunError, match=said):
        wl.load(run, "best")
    assert _same(wl.load(run), network_of(trained.checkpoint))


@pytest.mark.parametrize("whole", ["a.ckpt", "c.ckpt"])
def test_the_file_that_says_which_is_best_is_asked(
    whole: str, trained: Trained, tmp_path: Path
) -> None:
    """Of two files of the same step, one of which holds weights only."""
    run = _config(trained, tmp_path / "run")
    _save(trained, run / "b.ckpt", 5, same=False, callbacks=None)
    _save(trained, run / whole, 5, callbacks=_best(whole))
    assert _same(wl.load(run, "best"), network_of(trained.checkpoint))


LOGGER = "lightning.pytorch.loggers.TensorBoardLogger"


def _with_sub_dir(trained: Trained, run: Path, sub_dir: Any) -> Path:
    """The folder of the config of a run whose logger has a `sub_dir`, as Lightning makes it."""
    config = yaml.safe_load(Path(trained.config).read_text())
    logger = {"class_path": LOGGER, "init_args": {"save_dir": ".", "sub_dir": sub_dir}}
    config["trainer"]["logger"] = [logger, {"class_path": "CSVLogger"}]
    folder = run / str(sub_dir)
    folder.mkdir(parents=True)
    write(config, folder / "config.yaml")
    return folder


def _without_description(path: Path) -> Path:
    """The file as one that needs the config of its run."""
    content = read_weights(path)
    del content["network"]
    torch.save(content, path)
    return path


@pytest.mark.parametrize("sub_dir", ["x", "curves/all"])
def test_the_checkpoints_of_a_logger_with_a_sub_dir_are_found(
    sub_dir: str, trained: Trained, tmp_path: Path
) -> None:
    run = tmp_path / "version_0"
    folder = _with_sub_dir(trained, run, sub_dir)
    first = _save(trained, run / "checkpoints/first.ckpt", 5)
    last = _save(
        trained, run / "checkpoints/last.ckpt", 7, same=False, callbacks=_best("first.ckpt")
    )
    assert find_run(folder).checkpoint() == last
    network = network_of(trained.checkpoint)
    for given in (run, folder):
        assert _same(wl.load(given, "best"), network)
        assert not _same(wl.load(given), network)
    succeed("figure", "connectivity", str(run), "-o", "figure.png")
    assert _same(wl.load(_without_description(first)), network)
    test = _config(trained, tmp_path / "version_1")
    config = yaml.safe_load((test / "config.yaml").read_text()) | {"ckpt_path": str(first)}
    write(config, test / "config.yaml")
    runs = [find_run(test), find_run(folder)]
    assert several_runs.tested_once(runs) == runs[1:]


@pytest.mark.parametrize("sub_dir", [None, "y", 3, "version_0/x"])
def test_the_checkpoints_of_others_are_not_taken(
    sub_dir: Any, trained: Trained, tmp_path: Path
) -> None:
    """A folder of checkpoints beside a run is not always its own."""
    folder = _with_sub_dir(trained, tmp_path / "version_0", sub_dir)
    moved = folder.rename(tmp_path / "version_0" / "x")
    _without_description(_save(trained, tmp_path / "version_0/checkpoints/a.ckpt", 5))
    for given in (moved, tmp_path / "version_0/checkpoints/a.ckpt"):
        with pytest.raises((RunError, CheckpointError), match=r"has no checkpoint|no config"):
            wl.load(given)


def test_a_folder_of_checkpoints_may_be_a_link_to_another_disk(
    trained: Trained, tmp_path: Path
) -> None:
    run = _config(trained, tmp_path / "run")
    disk = tmp_path / "disk/deep/saved"
    _save(trained, disk / "first.ckpt", 5)
    _save(trained, disk / "last.ckpt", 7, same=False, callbacks=_best("first.ckpt"))
    (run / "checkpoints").symlink_to(disk)
    (run / "all").symlink_to(tmp_path)  # which leads back to the run
    network = network_of(trained.checkpoint)
    assert _same(wl.load(run, "best"), network)
    assert not _same(wl.load(run), network)
    assert {path.name for path in checkpoints_of(run)} == {"first.ckpt", "last.ckpt"}
    assert len(checkpoints_of(run)) == 2
    _without_description(disk / "first.ckpt")
    assert _same(wl.load(run / "checkpoints/first.ckpt"), network)
    test = _config(trained, tmp_path / "test")
    config = yaml.safe_load((test / "config.yaml").read_text())
    write(config | {"ckpt_path": str(run / "checkpoints/last.ckpt")}, test / "config.yaml")
    runs = [find_run(test), find_run(run)]
    assert several_runs.tested_once(runs) == runs[1:]


def test_it_is_said_what_to_do_if_checkpoints_are_elsewhere(
    trained: Trained, tmp_path: Path
) -> None:
    run = _config(trained, tmp_path / "lightning_logs/version_0")
    elsewhere = _save(trained, tmp_path / "w/a1b2/checkpoints/last.ckpt", 5)
    with pytest.raises(RunError, match=r"no checkpoint in its folder.* WandbLogger, link their"):
        wl.load(run)
    network = network_of(trained.checkpoint)
    assert _same(wl.load(elsewhere), network)
    (run / "checkpoints").symlink_to(elsewhere.parent)
    assert _same(wl.load(run), network)
