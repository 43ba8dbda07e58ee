"""`--ckpt_path last`, `best`, `hpc`, `registry`: a file that is read with care, or a sentence."""

import os
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

import wiring_lightning as wl
from tests.cli.commands import BASE, refused, succeed, weights_in, wiring, write
from tests.cli.test_run_folders import LOGGERS, csv
from tests.trainers import same_state
from wiring_lightning.checkpoints import load_checkpoint
from wiring_lightning.cli.inspect import WiringTrainer
from wiring_lightning.cli.last_run import find_last_run
from wiring_lightning.cli.run_folder import go_on_in
from wiring_lightning.cli.runs import RunError, find_run
from wiring_lightning.cli.sweep_state import Planned

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


VERSION = "lightning_logs/version_0"
SERVER = LOGGERS["one without a folder"]
# The logger, the arguments of the ModelCheckpoint, and where that writes `last.ckpt`.
PLACES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "in a folder with a name": (False, {"dirpath": "kept"}, "kept"),
    "without a logger": (False, {}, f"{VERSION}/checkpoints"),
    "with the default logger": (True, {}, f"{VERSION}/checkpoints"),
    "with a logger of a server": (SERVER, {}, f"{VERSION}/checkpoints"),
    "with tables in second place": ([SERVER, csv()], {}, f"{VERSION}/checkpoints"),
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
    logger, saver, folder = PLACES[place]
    last = Path(folder, "last.ckpt")
    file = config(tmp_path / "run.yaml", logger, **saver)
    command = ["fit", "--config", file, "--ckpt_path=last"]
    first = wiring(*command)
    assert first.code == 0, first.err
    assert first.err.count(SCRATCH) == 1
    assert load_checkpoint(last)["epoch"] == 0
    again = wiring(*command, "--trainer.max_epochs=2")
    assert again.code == 0, again.err
    assert SCRATCH not in again.err
    assert load_checkpoint(last)["global_step"] == 4
    assert same_state(weights_in(last), weights_in(whole))
    written = {path.name for path in last.parents[1].rglob("*")}
    if not saver:  # it went on in its folder, and lost nothing there
        assert {"config.yaml", "config_1.yaml", "wiring.png", "wiring_1.png"} <= written
        assert len(list(Path("lightning_logs").iterdir())) == 1
        assert same_state(wl.load(VERSION).state_dict(), weights_in(whole))
    succeed("predict" if saver else "test", "--config", file, "--ckpt_path=last")
    if not saver:  # measured as with the path of the file
        assert {path.name for path in last.parents[1].rglob("*")} == written
        (measured,) = Path("lightning_logs/version_1").rglob("config.yaml")
        assert Path(yaml.safe_load(measured.read_text())["ckpt_path"]).samefile(last)


def test_last_is_not_that_of_another_run(tmp_path: Path) -> None:
    file = config(tmp_path / "run.yaml", logger=True)
    succeed("fit", "--config", file)
    last = tmp_path / VERSION / "checkpoints/last.ckpt"
    weights = weights_in(last)
    another = f"{last} is of a run with another config, "
    said = refused("test", "--config", file, "--data.batch_size=32", "--ckpt_path=last")
    assert f"{another}data.batch_size (16 and 32)): give the path of a file" in said
    started = wiring("fit", "--config", file, "--seed_everything=5", "--ckpt_path=last")
    assert f"{another}seed_everything (3 and 5), so training starts from scratch" in started.err
    assert same_state(weights_in(last), weights)
    again = wiring("fit", "--config", file, "--ckpt_path=last", "--trainer.max_epochs=2")
    assert "from scratch" not in again.err
    assert load_checkpoint(last)["epoch"] == 1


def plain(**changes: Any) -> dict[str, Any]:
    """A config with two learners of one class, and values in it that are named as `trainer__x`."""
    made = deepcopy(BASE)
    learners = [{"class_path": "DNW", "init_args": {"density": 0.1}} for _ in range(2)]
    made["trainer"]["callbacks"] = learners
    for name, value in changes.items():
        part, _, key = name.partition("__")
        if part.isdecimal():
            learners[int(part)]["init_args"][key] = value
        elif part == "more":
            learners.append({"class_path": key, "init_args": value})
        else:
            (made[part].get("init_args") or made[part])[key] = value
    return made


def keep(folder: Path, number: int, content: Any) -> Path:
    """A run with a number; of two, that with the higher number is newer."""
    last = folder / f"version_{number}/checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    os.utime(last, (number, number))
    if content is not None:
        write(content, last.parents[1] / "config.yaml")
    return last.parents[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"trainer__max_epochs": 9, "trainer__devices": 2, "trainer__limit_test_batches": 1},
        {"data__num_workers": 4, "data__root": "elsewhere", "model__compile": True},
        {"more__ModelCheckpoint": {"save_last": True}, "more__PredictionWriter": {"path": "a.pt"}},
    ],
)
def test_a_run_may_be_longer_elsewhere_and_watched_in_another_way(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = keep(tmp_path, 0, plain())
    trainer = WiringTrainer(logger=CSVLogger(tmp_path, name=""))
    assert find_last_run(trainer, plain(**changes)) == (folder, None)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"0__density": 0.2}, "trainer.callbacks.DNW.density (0.2 and 0.1)"),
        ({"1__density": 0.2}, "trainer.callbacks.1.density (0.2 and 0.1)"),
        ({"1__seed": 2}, "trainer.callbacks.1.seed (2 and -)"),
        ({"more__RandomEdges": {}}, "trainer.callbacks.RandomEdges (RandomEdges and -)"),
        ({"trainer__gradient_clip_val": 1.0}, "trainer.gradient_clip_val (1.0 and None)"),
        ({"trainer__precision": "bf16-mixed"}, "trainer.precision (bf16-mixed and None)"),
        ({"data__seed": 7}, "data.seed (7 and -)"),
        ({"model__optimizer": "SGD"}, "model.optimizer (SGD and -)"),
    ],
)
def test_a_run_of_another_training_is_named(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    folder = keep(tmp_path, 0, plain())
    keep(tmp_path, 1, plain(**changes))
    last = tmp_path / "version_1/checkpoints/last.ckpt"
    trainer = WiringTrainer(logger=CSVLogger(tmp_path, name=""))
    found, others = find_last_run(trainer, plain())
    assert found == folder
    assert others == f"{last} is of a run with another config, {named}"


@pytest.mark.parametrize("loop", [False, True])
def test_links_to_nothing_are_passed_over(loop: bool, tmp_path: Path) -> None:
    folder, broken = keep(tmp_path, 0, plain()), keep(tmp_path, 1, plain())
    last = broken / "checkpoints/last.ckpt"
    last.unlink()
    last.symlink_to(last if loop else broken / "checkpoints/removed.ckpt")
    (broken / "checkpoints/folder.ckpt").mkdir()
    trainer = WiringTrainer(logger=CSVLogger(tmp_path, name=""))
    assert find_last_run(trainer, plain()) == (folder, None)
    for number in (0, 1):
        run = find_run(tmp_path / f"version_{number}")
        planned = Planned(f"version_{number}", tmp_path)
        if number:
            assert planned.checkpoint() is None
            with pytest.raises(RunError, match="has no checkpoint"):
                run.checkpoint()
        else:
            assert run.checkpoint() == planned.checkpoint() == folder / "checkpoints/last.ckpt"


@pytest.mark.parametrize("saver", [{}, {"dirpath": "kept"}])
@pytest.mark.parametrize("target", ["removed.ckpt", "last.ckpt"])
def test_a_link_that_leads_nowhere_is_told(
    saver: dict[str, Any], target: str, tmp_path: Path
) -> None:
    last = tmp_path / saver.get("dirpath", f"{VERSION}/checkpoints") / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.symlink_to(last.with_name(target))
    shown = last.relative_to(tmp_path) if saver else last
    file = config(tmp_path / "run.yaml", **saver)
    said = refused("test", "--config", file, "--ckpt_path=last")
    assert f"{last.name} is a link that leads nowhere): give the path of a file" in said
    assert str(shown) in said
    started = wiring("fit", "--config", file, "--ckpt_path=last", "--trainer.limit_train_batches=0")
    assert f"{last.name} is a link that leads nowhere, so training starts from" in started.err


def test_the_newest_of_several_runs_is_the_last(tmp_path: Path) -> None:
    keep(tmp_path, 0, plain())
    newest = keep(tmp_path, 2, plain())
    keep(tmp_path, 3, None)
    keep(tmp_path, 10, "my notes")
    (tmp_path / "version_11").mkdir()  # that of this run: rank 0 has just made it
    trainer = WiringTrainer(logger=CSVLogger(tmp_path, name=""))
    found, others = find_last_run(trainer, plain())
    assert found == newest
    assert (
        others == f"{tmp_path}/version_10/checkpoints/last.ckpt is of a run without a config.yaml"
    )
    root = tmp_path.parent
    name, inner = tmp_path.name, newest / "curves"
    inner.mkdir()
    (newest / "config.yaml").rename(inner / "config.yaml")
    for logger, folder in (
        (TensorBoardLogger(root, name, sub_dir="curves"), newest),
        ([CSVLogger(root, name), TensorBoardLogger(root, "other")], newest),
        (CSVLogger(tmp_path, name="", version="mine"), None),
    ):
        assert find_last_run(WiringTrainer(logger=logger), plain())[0] == folder


def test_a_second_logger_does_not_take_the_folder_of_another_run(tmp_path: Path) -> None:
    trainer = WiringTrainer(logger=[CSVLogger(tmp_path), TensorBoardLogger(tmp_path, "other")])
    go_on_in(trainer, tmp_path / "lightning_logs/version_4")
    assert trainer.loggers[0].version == "version_4"
    assert trainer.loggers[1].version == 0


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
