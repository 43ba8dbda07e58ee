"""Every run has a folder of its own, and loses nothing that is in it or beside it."""

import os
from collections.abc import Iterator
from copy import deepcopy
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.loggers import Logger

import wiring_lightning.files
from tests.cli.commands import BASE, Trained, checkpoint_in, refused, succeed, wiring, write

PLAIN = """\
# What I learned about the rate: 0.5 is too high.
"""


class Elsewhere(Logger):
    """Sends numbers to some server, and has no folder for each run."""

    @property
    def name(self) -> str:
        return "elsewhere"

    @property
    def version(self) -> str:
        return "0.1"

    @property
    def save_dir(self) -> str:
        return "."

    def log_metrics(self, *_: Any, **__: Any) -> None:
        pass

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


def tensorboard(**arguments: Any) -> dict[str, Any]:
    return {"class_path": "TensorBoardLogger", "init_args": {"save_dir": ".", **arguments}}


def csv(**arguments: Any) -> dict[str, Any]:
    return {"class_path": "CSVLogger", "init_args": {"save_dir": ".", **arguments}}


LOGGERS: dict[str, Any] = {
    "none": False,
    "one without a folder": {"class_path": "tests.cli.test_run_folders.Elsewhere"},
    "tables": csv(),
    "tables without a name": csv(name=""),
    "curves": tensorboard(),
    "two kinds": [{"class_path": "tests.cli.test_run_folders.Elsewhere"}, tensorboard()],
}
MINE = ("config.yaml", "wiring.png", "predictions.pt", "metrics.csv", "hparams.yaml")


def short(logger: Any, **trainer: Any) -> dict[str, Any]:
    changed = deepcopy(BASE)
    changed["data"]["init_args"]["batch_size"] = 16
    changed["trainer"] |= {"limit_train_batches": 1, "limit_test_batches": 1, "logger": logger}
    changed["trainer"] |= {"enable_progress_bar": False, "limit_predict_batches": 1, **trainer}
    return changed


def write_mine(config: dict[str, Any]) -> dict[str, bytes]:
    """A folder of a user with files of all the names that a run uses."""
    for name in MINE:
        Path(name).write_text(PLAIN)
    Path("config.yaml").write_text(PLAIN + yaml.safe_dump(config))
    return {name: Path(name).read_bytes() for name in MINE}


@pytest.mark.parametrize("logger", ["none", "tables without a name", "two kinds"])
def test_files_of_the_user_stay_as_they_are(logger: str, tmp_path: Path) -> None:
    mine = write_mine(short(LOGGERS[logger]))
    report = succeed("fit", "--config=config.yaml")
    picture = Path(Trained(tmp_path, "", "", report).reported("picture"))
    assert picture.is_file()
    assert (picture.parent / "config.yaml").is_file()
    assert picture.parent.resolve() != tmp_path
    checkpoint = str(next(tmp_path.rglob("*.ckpt")))
    succeed("predict", "--config=config.yaml", f"--ckpt_path={checkpoint}")
    (predictions,) = set(tmp_path.rglob("predictions.pt")) - {tmp_path / "predictions.pt"}
    assert torch.load(predictions, weights_only=True).shape[1] == 10
    assert {name: Path(name).read_bytes() for name in MINE} == mine
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert folders <= {"lightning_logs", "elsewhere", *(f"version_{n}" for n in range(5))}


def test_a_run_without_a_logger_can_be_drawn(tmp_path: Path) -> None:
    report = succeed("fit", "--config", write(short(False), tmp_path / "mine.yaml"))
    assert "tensorboard --logdir" not in report
    folder = tmp_path / "lightning_logs/version_0"
    assert checkpoint_in(tmp_path).parent == folder / "checkpoints"
    succeed("figure", "connectivity", str(folder))
    assert {path.name for path in tmp_path.iterdir()} == {
        "mine.yaml", "lightning_logs", "connectivity.png"
    }  # fmt: skip


@pytest.mark.parametrize(
    "loggers",
    [
        [tensorboard(name="mine")],
        [csv(), tensorboard(name="mine")],
        [LOGGERS["one without a folder"], tensorboard(name="mine", sub_dir="inside")],
    ],
    ids=["alone", "second", "in a folder of its own"],
)
def test_the_report_says_where_the_curves_are(loggers: list[Any], tmp_path: Path) -> None:
    report = succeed("fit", "--config", write(short(loggers), tmp_path / "mine.yaml"))
    folder = Path(Trained(tmp_path, "", "", report).reported("curves").split("--logdir ")[1])
    assert {path.parent.resolve() for path in tmp_path.rglob("events.*")} == {folder.resolve()}


NAMED = {
    "this folder": tensorboard(name="", version=""),
    "this folder, with tables": csv(name="", version=""),
    "a folder with notes": tensorboard(name="notes", version="today"),
    "a folder with tables": csv(name="notes", version="today"),
}


@pytest.mark.parametrize("where", NAMED)
def test_a_new_run_does_not_go_into_a_folder_with_files(where: str, tmp_path: Path) -> None:
    notes = tmp_path / "notes/today/metrics.csv"
    notes.parent.mkdir(parents=True)
    notes.write_text(PLAIN)
    mine = write_mine(short(NAMED[where]))
    said = refused("fit", "--config=config.yaml")
    assert "of the logger is not empty: give the logger another name or version" in said
    assert {name: Path(name).read_bytes() for name in MINE} == mine
    assert notes.read_text() == PLAIN
    assert len(list(tmp_path.rglob("*"))) == len(MINE) + 3


@pytest.mark.parametrize(("kind", "predictions"), [(tensorboard, 0), (csv, 2)])
def test_a_run_goes_on_in_its_folder(kind: Any, predictions: int, tmp_path: Path) -> None:
    file = write(short(kind(name="mine", version="first")), tmp_path / "my.yaml")
    succeed("fit", "--config", file)
    folder = tmp_path / "mine/first"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    saved = str(folder / "config.yaml")
    checkpoint = str(checkpoint_in(folder))
    assert "is not empty" in refused("fit", "--config", saved)
    for command in [("fit", "--trainer.max_epochs=2")] + predictions * [("predict",)]:
        succeed(*command, "--config", saved, f"--ckpt_path={checkpoint}")
    for name in ("config.yaml", "wiring.png"):
        assert (folder / name).read_bytes() == before[folder / name]
    names = [path.name for path in folder.iterdir()]
    assert {"config_1.yaml", "wiring_1.png"} <= set(names)
    written = {"predictions.pt", "predictions_1.pt"} if predictions else set[str]()
    assert {name for name in names if name.endswith(".pt")} == written
    kept = {path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    tables = {path for path in before if path.suffix in (".csv", ".ckpt")}
    assert {before[path] for path in tables} <= kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "my.yaml"]


def test_a_command_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    config = short(False)
    config["data"] = {"class_path": "CIFAR10"}
    refused("fit", "--config", write(config, tmp_path / "no_data.yaml"))
    assert not list(tmp_path.rglob("version_*"))


def test_two_loggers_of_a_run_share_its_folder(tmp_path: Path) -> None:
    succeed("fit", "--config", write(short([csv(), tensorboard()]), tmp_path / "both.yaml"))
    (folder,) = (tmp_path / "lightning_logs").iterdir()
    names = {path.name.partition(".")[0] for path in folder.iterdir()}
    assert {"metrics", "events", "config", "wiring", "checkpoints"} <= names


# What a fit imports while it runs.
NEEDED = [
    "matplotlib.backends.backend_agg",
    "sklearn.datasets",
    "tensorboard.summary.writer.event_file_writer",
    "torch.utils.tensorboard",
    "wiring_lightning.cli.app",
]


def fit_when_all_have_looked(files: list[str], all_have_looked: Any) -> None:
    """No process makes a folder before each has looked which number is free."""

    def numbers(*start: int) -> Iterator[int]:
        if start:
            all_have_looked.wait(timeout=120)
        return count(*start)

    wiring_lightning.files.count = numbers  # only here, in a process of its own
    torch.set_num_threads(1)
    for file in files:
        os.chdir(Path(file).parent)
        succeed("fit", "--config", file)


def test_runs_that_start_at_once_do_not_share_a_folder(tmp_path: Path) -> None:
    loggers, files = {"curves": True, "none": False}, []
    for name, logger in loggers.items():
        (tmp_path / name).mkdir()
        files.append(write(short(logger, limit_val_batches=0), tmp_path / name / "run.yaml"))
    # Forked from a process that has imported everything and trained nothing yet: a process that has
    # run a backward pass may not be forked and run another.
    server = get_context("forkserver")
    server.set_forkserver_preload([__name__, *NEEDED])
    given = (files, server.Barrier(2))
    running = [server.Process(target=fit_when_all_have_looked, args=given) for _ in range(2)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    assert [one.exitcode for one in running] == [0, 0]
    for name, logger in loggers.items():
        folders = sorted((tmp_path / name / "lightning_logs").iterdir())
        assert [folder.name for folder in folders] == ["version_0", "version_1"]
        for folder in folders:
            assert len(list(folder.glob("checkpoints/*.ckpt"))) == 1
            assert (folder / "config.yaml").is_file()
            events = list(folder.glob("events*"))
            assert len(events) == (2 if logger else 0)  # of the fit and its test


def test_explicit_predictions_are_not_overwritten(trained: Trained, tmp_path: Path) -> None:
    """The config of a user names the file."""
    config = short(False)
    writer = {"class_path": "PredictionWriter", "init_args": {"path": "mine.pt"}}
    config["trainer"]["callbacks"] = [writer]
    file = write(config, tmp_path / "predict.yaml")
    given = ["predict", "--config", file, "--ckpt_path", trained.checkpoint]
    (tmp_path / "mine.pt").write_text(PLAIN)
    assert "mine.pt is there already; name another path" in refused(*given)
    assert (tmp_path / "mine.pt").read_text() == PLAIN
    assert wiring(*given, "--trainer.callbacks.overwrite=true").code == 0
    assert torch.load("mine.pt", weights_only=True).shape[1] == 10
