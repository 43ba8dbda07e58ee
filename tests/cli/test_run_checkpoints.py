"""Which checkpoints a run has, which of them is the best, and what is said if there is none."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import wiring_lightning as wl
from tests.cli.commands import Trained, network_of
from tests.cli.test_load import _same
from wiring_lightning.checkpoints import read_weights
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
