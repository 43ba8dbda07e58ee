"""`--ckpt_path last`, `best`, `hpc`, `registry`: a file that is read with care, or a sentence."""

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.commands import BASE, refused, succeed, weights_in, wiring, write
from tests.trainers import same_state
from wiring_lightning.checkpoints import load_checkpoint

SCRATCH = "wiring: there is no last checkpoint yet, so training starts from scratch"


def config(path: Path, logger: Any = False, **saver: Any) -> str:
    """A short run that saves `last.ckpt`."""
    changed = deepcopy(BASE)
    changed["data"]["init_args"]["batch_size"] = 16
    changed["trainer"] |= {"limit_train_batches": 2, "limit_test_batches": 1, "logger": logger}
    changed["trainer"]["enable_progress_bar"] = False
    changed["trainer"]["callbacks"].append(
        {"class_path": "ModelCheckpoint", "init_args": {"save_last": True, **saver}}
    )
    return write(changed, path)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config of a run and its checkpoint, `kept/last.ckpt`."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.chdir(folder)
        succeed("fit", "--config", config(folder / "run.yaml", dirpath="kept"))
    return folder


@pytest.fixture
def copy(kept: Path, tmp_path: Path) -> str:
    """The config of that run, in a copy of its folder."""
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return str(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("subcommand", "word"),
    [
        *(("test", word) for word in ("last", "best", "hpc", "registry:some-model")),
        ("predict", "last"),
    ],
)
def test_a_word_without_a_file_measures_nothing(
    subcommand: str, word: str, base: str, tmp_path: Path
) -> None:
    said = refused(subcommand, "--config", base, "--ckpt_path", word)
    assert "There is no checkpoint" in said
    assert word in said
    assert [path.name for path in tmp_path.iterdir()] == ["base.yaml"]


@pytest.mark.parametrize("word", ["best", "registry"])
def test_training_does_not_start_from_scratch_unasked(word: str, base: str) -> None:
    assert "There is no checkpoint" in refused("fit", "--config", base, "--ckpt_path", word)


@pytest.mark.parametrize("given", ["", "nowhere.ckpt", "."])
@pytest.mark.parametrize("subcommand", ["fit", "inspect"])
def test_a_path_without_a_file_is_refused(subcommand: str, given: str, base: str) -> None:
    said = refused(subcommand, "--config", base, f"--ckpt_path={given}")
    assert "There is no checkpoint at" in said


PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "in a folder with a name": ({"dirpath": "kept"}, "kept/last.ckpt"),
    "without a logger": ({}, "lightning_logs/version_0/checkpoints/last.ckpt"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run of two epochs that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    file = config(folder / "whole.yaml", dirpath=str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.chdir(folder)
        succeed("fit", "--config", file, "--trainer.max_epochs=2")
    return folder / "last.ckpt"


@pytest.mark.parametrize("place", PLACES)
def test_a_restarted_run_goes_on_from_the_last_checkpoint(
    place: str, whole: Path, tmp_path: Path
) -> None:
    saver, last = PLACES[place]
    file = config(tmp_path / "run.yaml", **saver)
    command = ["fit", "--config", file, "--ckpt_path=last"]
    first = wiring(*command)
    assert first.code == 0, first.err
    assert first.err.count(SCRATCH) == 1
    assert load_checkpoint(last)["epoch"] == 0
    again = wiring(*command, "--trainer.max_epochs=2")
    assert again.code == 0, again.err
    assert SCRATCH not in again.err
    assert load_checkpoint(last)["global_step"] == 4
    assert same_state(weights_in(Path(last)), weights_in(whole))
    succeed("predict" if saver else "test", "--config", file, "--ckpt_path=last")
    picture = tmp_path / "lightning_logs/version_0/wiring.png"
    if not saver:  # it went on in its folder, and lost nothing there
        names = {path.name for path in picture.parent.iterdir()}
        assert {"config.yaml", "config_1.yaml", "wiring.png", "wiring_1.png"} <= names


def test_last_is_not_that_of_another_run(tmp_path: Path) -> None:
    """Runs without a logger are told apart by their model, data and seed."""
    file = config(tmp_path / "run.yaml")
    with_logger = config(tmp_path / "logged.yaml", logger=True)
    succeed("fit", "--config", file)
    last = tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt"
    weights = weights_in(last)
    for other in ([file, "--data.batch_size=32"], [with_logger]):
        said = refused("test", "--config", *other, "--ckpt_path=last")
        assert "There is no checkpoint" in said
    started = wiring("fit", "--config", file, "--seed_everything=5", "--ckpt_path=last")
    assert SCRATCH in started.err
    assert same_state(weights_in(last), weights)
    again = wiring("fit", "--config", file, "--ckpt_path=last", "--trainer.max_epochs=2")
    assert SCRATCH not in again.err
    assert load_checkpoint(last)["epoch"] == 1


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 8
    path.write_bytes(content)


def spoil(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["state_dict"]["backbone.classifier.bias"][0] = torch.nan
    torch.save(content, path)


@pytest.mark.parametrize("subcommand", ["fit", "test"])
def test_what_a_word_finds_is_read_with_care(subcommand: str, copy: str, tmp_path: Path) -> None:
    given = [subcommand, "--config", copy, "--ckpt_path=last"]
    before = sorted(tmp_path.rglob("*"))
    said = refused(*given, "--model.backbone.fan_in=2")
    assert "kept/last.ckpt belongs to another network" in said
    assert "fan_in is 1 there and 2 here" in said
    path = tmp_path / "kept/last.ckpt"
    good = path.read_bytes()
    for damage, reason in ((flip, "is damaged"), (spoil, "infinite or not a number")):
        path.write_bytes(good)
        damage(path)
        said = refused(*given)
        assert "kept/last.ckpt is damaged" in said
        assert reason in said
    assert sorted(tmp_path.rglob("*")) == before  # no folder of a run that never was


def test_hpc_finds_what_a_cluster_saved(copy: str, tmp_path: Path) -> None:
    (tmp_path / "kept/last.ckpt").rename(tmp_path / "hpc_ckpt_1.ckpt")
    succeed("test", "--config", copy, "--ckpt_path=hpc")
    flip(tmp_path / "hpc_ckpt_1.ckpt")
    assert "hpc_ckpt_1.ckpt is damaged" in refused("test", "--config", copy, "--ckpt_path=hpc")
