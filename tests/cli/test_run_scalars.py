"""The numbers of a run are the same from event files and from `metrics.csv`."""

import csv
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from tests.cli.commands import refused, succeed
from wiring_lightning.cli.run_scalars import read_scalars

ROWS = [
    ({"train/loss": 2.0}, 4),
    ({"val/acc": 0.25, "val/loss": 1.5}, 9),
    ({"train/loss": 1.0}, 14),
    ({"val/acc": 0.5, "val/loss": 0.75}, 19),
    ({"test/acc": 0.375}, 20),
]


@pytest.mark.parametrize(
    "kinds", [[TensorBoardLogger], [CSVLogger], [TensorBoardLogger, CSVLogger]]
)
def test_numbers_are_those_that_were_logged(kinds: list[type], tmp_path: Path) -> None:
    for kind in kinds:
        logger = kind(tmp_path, name="", version="run")
        for metrics, step in ROWS:
            logger.log_metrics(metrics, step)
        logger.save()
        logger.finalize("success")
    expected = {
        name: [(step, metrics[name]) for metrics, step in ROWS if name in metrics]
        for name in ("train/loss", "val/acc", "val/loss", "test/acc")
    }
    read = read_scalars(tmp_path / "run")
    assert {name: read[name] for name in expected} == expected
    assert read.keys() - expected.keys() <= {"hp_metric"}


@pytest.mark.parametrize("kinds", [[TensorBoardLogger, CSVLogger], [CSVLogger, TensorBoardLogger]])
def test_a_fit_that_goes_on_may_have_another_logger(kinds: list[type], tmp_path: Path) -> None:
    rows = [*ROWS, *(({"val/acc": 0.75}, step) for step in (29, 39)), ({"test/acc": 0.625}, 40)]
    for kind, part in zip(kinds, (rows[:5], rows[5:]), strict=True):
        logger = kind(tmp_path, name="", version="run")
        for metrics, step in part:
            logger.log_metrics(metrics, step)
        logger.save()
        logger.finalize("success")
    read = read_scalars(tmp_path / "run")
    assert read["val/acc"] == [(9, 0.25), (19, 0.5), (29, 0.75), (39, 0.75)]
    assert read["test/acc"] == [(20, 0.375), (40, 0.625)]
    assert read["val/loss"] == [(9, 1.5), (19, 0.75)]


def test_files_of_earlier_commands_come_first(tmp_path: Path) -> None:
    """A command that goes on in a folder gives the file that is there a number."""
    for number, (step, accuracy) in {"_1": (5, 0.1), "_2": (9, 0.2), "_10": (12, 0.3)}.items():
        text = f"step,test/acc,val/acc\n{step},,{accuracy}\n{step},0.25,\n"
        (tmp_path / f"metrics{number}.csv").write_text(text)
    (tmp_path / "metrics.csv").write_text("step,val/acc\n2,0.4\n")
    (tmp_path / "metrics_mine.csv").write_text("a table of mine\n")
    read = read_scalars(tmp_path)
    assert read["val/acc"] == [(5, 0.1), (9, 0.2), (12, 0.3), (2, 0.4)]
    assert read["test/acc"][-1] == (12, 0.25)
    (tmp_path / "metrics.csv").unlink()
    assert read_scalars(tmp_path)["val/acc"][-1] == (12, 0.3)
    (tmp_path / "metrics_2.csv").write_text("step,a\n1,many\n")
    with pytest.raises(ValueError, match=r"metrics_2.csv is no table of numbers"):
        read_scalars(tmp_path)


def test_a_folder_without_numbers_has_none(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,test/acc\n")
    assert read_scalars(tmp_path) == {}
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "metrics.csv").write_text("step,a\n1,2\n")
    assert read_scalars(tmp_path) == {}


@pytest.mark.parametrize(
    "text",
    ["step,a\n1,many\n", "step,a\nx,1\n", "step,a\n1,2,3\n", 'step,a\n1,"2\n', "step,a\n1,\ufffe"],
)
def test_damage_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(text, encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"metrics.csv is no table of numbers .* log the run again"
    ):
        read_scalars(tmp_path)
    (tmp_path / "metrics.csv").write_bytes(b"step,a\n1,\xff\n")
    with pytest.raises(ValueError, match=r"metrics.csv is no table of numbers"):
        read_scalars(tmp_path)


def test_the_table_reads_a_run_of_a_csv_logger(base: str, tmp_path: Path) -> None:
    where = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=there"]
    report = succeed("fit", "--config", base, *where, "--trainer.limit_test_batches=2")
    folder = tmp_path / "there/lightning_logs/version_0"
    assert not list(folder.glob("events*"))
    with (folder / "metrics.csv").open() as file:
        (accuracy,) = [float(row["test/acc"]) for row in csv.DictReader(file) if row["test/acc"]]
    assert f"test acc             {accuracy:.4f}" in report
    table = succeed("table", str(folder))
    assert f" {100 * accuracy:.2f} |" in table
    (folder / "metrics.csv").write_text("step,test/acc\n1,many\n")
    assert "is no table of numbers" in refused("table", str(folder))
