"""A run that was asked for a density leaves a file that has it, and a denser file is told."""

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

import wiring_lightning as wl
from tests.cli.commands import BASE, weights_in, wiring, write
from wiring_lightning.cli.denser_file import say_if_denser

PRUNE = {"class_path": "PruneAndRetrain", "init_args": {"density": 0.1, "dense_epochs": 1}}
# The loss of random weights is above that of nearly none, so the dense network is "best".
BEST = {
    "class_path": "ModelCheckpoint",
    "init_args": {"monitor": "val/loss", "mode": "max", "save_last": True},
}
PLAIN = {"class_path": "ModelCheckpoint"}


def train(folder: Path, *callbacks: dict[str, Any], **trainer: Any) -> Path:
    """The folder of the checkpoints of a run."""
    changed = deepcopy(BASE)
    changed["model"]["init_args"]["backbone"]["init_args"]["wiring"] = "full"
    changed["model"]["init_args"]["optimizer"] = {
        "class_path": "torch.optim.SGD",
        "init_args": {"lr": 1e-9},
    }
    changed["trainer"] |= {
        "callbacks": list(callbacks),
        "max_epochs": 2,
        "limit_train_batches": 1,
        "limit_test_batches": 1,
        "default_root_dir": str(folder),
        "logger": False,
        **trainer,
    }
    run = wiring("fit", "--config", write(changed, folder / "config.yaml"))
    assert run.code == 0, run.err
    return folder / "lightning_logs/version_0/checkpoints"


def share_in(path: Path) -> float:
    """The share of the weights of one layer that are not zero."""
    weight = weights_in(path)["backbone.classifier.weight"]
    return float(weight.count_nonzero()) / weight.numel()


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.ckpt"))


def said_by_load(*arguments: Any) -> list[str]:
    with warnings.catch_warnings(record=True, action="always") as said:
        wl.load(*arguments)
    return [text for each in said if "had removed all weights" in (text := str(each.message))]


def test_the_network_that_a_fit_leaves_is_saved_and_taken(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"use .*sparse\.ckpt, which is as sparse as asked for"):
        folder = train(tmp_path, PRUNE, BEST)
    sparse, last = folder / "sparse.ckpt", folder / "last.ckpt"
    assert files_in(folder) == ["epoch=0-step=1.ckpt", "last.ckpt", "sparse.ckpt"]
    assert (share_in(last), share_in(folder / "epoch=0-step=1.ckpt")) == (1.0, 1.0)
    assert share_in(sparse) == pytest.approx(0.1, abs=0.01)
    assert said_by_load(folder.parent) == said_by_load(sparse) == []
    taken = wl.load(folder.parent).state_dict()["backbone.classifier.weight"]
    assert torch.equal(taken, weights_in(sparse)["backbone.classifier.weight"])
    for arguments in ((folder.parent, "best"), (last,)):
        (text,) = said_by_load(*arguments)
        assert "saved before PruneAndRetrain had removed all weights: " in text


DNW = {"class_path": "DNW", "init_args": {"density": 0.1}}
LATE = {
    "class_path": "GradualPruning",
    "init_args": {"density": 0.1, "every": 1, "total_steps": 99},
}
NOT_NEEDED: dict[str, list[dict[str, Any]]] = {
    "another file is sparse": [PRUNE, BEST, PLAIN],
    "the best one is sparse": [DNW, BEST],
    "nothing was pruned yet": [LATE, BEST],
    "no file is wanted": [PRUNE],
}


@pytest.mark.parametrize("why", NOT_NEEDED)
def test_nothing_more_is_saved_if_it_is_not_needed(why: str, tmp_path: Path) -> None:
    callbacks = NOT_NEEDED[why]
    folder = train(tmp_path, *callbacks, enable_checkpointing=len(callbacks) > 1)
    assert ("last.ckpt" in files_in(folder)) == (len(callbacks) > 1)
    assert "sparse.ckpt" not in files_in(folder)


def test_a_group_of_layers_and_other_peoples_states_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    together = {"edges": {"all": 3}, "weights": {"all": ["a.weight", "b.weight", "gone.weight"]}}
    content = {
        "state_dict": {"_orig_mod.a.weight": torch.ones(2, 1), "b.weight": torch.ones(1, 2)},
        "callbacks": {"Other": {"edges": 4}, "More": [], "SET{'layers': None}": together},
    }
    with pytest.warns(UserWarning, match="before SET had removed all weights: all has 4, and 3"):
        say_if_denser(path, content)
    together["edges"]["all"] = 4  # type: ignore[assignment]
    with warnings.catch_warnings(action="error"):
        say_if_denser(path, content)
        say_if_denser(path, {"state_dict": content["state_dict"]})
        say_if_denser(path, {"callbacks": None})
