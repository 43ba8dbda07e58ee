"""Which rows of the papers' tables a run repeats, by the pages' own commands."""

import io
import re
import shlex
import shutil
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.commands import BASE, ROOT, Trained, succeed, write
from wiring_lightning.cli import main, papers
from wiring_lightning.cli.papers import published

PAGES = ROOT / "docs" / "methods"


def printed(*arguments: str) -> dict[str, Any]:
    """The whole config that a command would run."""
    out = io.StringIO()
    with redirect_stdout(out), suppress(SystemExit):
        main(["fit", *arguments, "--print_config"])
    return yaml.safe_load(out.getvalue())


# The cells of a row in a page, and its section: one of every method, and rows that differ little.
ROWS = [
    ("dnw", "| static | DNW | 80.9 ± 0.6 |", "Table 1"),
    ("dnw", "| discrete | RG | 77.3 ± 0.7 |", "Table 1"),
    ("dnw", "| Lottery ticket (one-shot) | 87.9 ± 0.3 |", "Table 2"),
    ("dnw", "| Fine-tune, rate 0.1 | 89.4 ± 0.2 |", "Table 2"),
    ("mask_connect", "| {29,8,8} | Fixed-Random | 4 | 72.85 (72.66±0.24) |", None),
    ("sparsenet", "| SparseNet[+]-56 | 27.70 |", None),
]


@pytest.mark.parametrize(("page", "cells", "section"), ROWS)
def test_a_run_of_a_row_gets_its_number(
    page: str, cells: str, section: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    text = (PAGES / f"{page}_tables.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith(cells)]
    (command,) = re.findall("`wiring fit ([^`]*)`", line)
    arguments = shlex.split(command)
    number = cells.strip("| ").split(" | ")[-1]
    # A run has other seeds, and its images elsewhere.
    run = printed(*arguments, "--seed_everything=7", "--data.root=there")
    found = published(run)
    assert {row.number.removeprefix("error ") for row in found} == {number}
    assert section is None or found[0].section == section
    # The same on 2 devices; with twice the images per step it is another training.
    run["trainer"]["devices"] = 2
    assert published(run) == []
    run["data"]["init_args"]["batch_size"] //= 2
    assert published(run) == found


@pytest.fixture(scope="module")
def learned_graph() -> Path:
    """A config of which a run gets a number."""
    path = ROOT / "configs/dnw/cifar10_graph_learned.yaml"
    assert published(printed("--config", str(path)))
    return path


@pytest.mark.parametrize(
    "change",
    ["--model.backbone.rank_all=true", "--data.val_size=100",
     "--model.optimizer.lr=0.2", "--model.label_smoothing=0.1", "--trainer.limit_train_batches=5",
     "--trainer.callbacks+=L1Anneal", "--trainer.max_epochs=20",
     "--trainer.callbacks+=BatchSizeFinder", "--trainer.callbacks+=LearningRateFinder",
     "--trainer.callbacks+=EMAWeightAveraging"],
)  # fmt: skip
def test_a_run_that_does_anything_else_gets_none(
    change: str, learned_graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert published(printed("--config", str(learned_graph), change)) == []


def test_a_callback_that_only_watches_changes_nothing(
    learned_graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    watched = ("--trainer.callbacks+=LearningRateMonitor", "--trainer.callbacks+=EarlyStopping",
               "--trainer.callbacks.monitor=val/loss")  # fmt: skip
    assert published(printed("--config", str(learned_graph), *watched))


def test_the_table_has_the_number(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout whose page has the run of these tests as its only row."""
    root = trained.folder.parent / "checkout"
    (root / "docs" / "methods").mkdir(parents=True)
    write(BASE, root / "base.yaml")
    (root / "docs" / "methods" / "digits_tables.md").write_text(
        "## Table 9\n\n| network | error (%) | command |\n| --- | --- | --- |\n"
        "| A | 4.2\\* | `wiring fit --config base.yaml` |\n"
    )
    assert "| paper |" not in succeed("table", str(trained.folder))
    monkeypatch.setattr(papers, "_ROOT", root)
    monkeypatch.setattr(papers.published, "__defaults__", (root,))
    out = succeed("table", str(trained.folder))
    assert "| paper |" in out
    assert "| error 4.2 |" in out
    shutil.rmtree(root)
