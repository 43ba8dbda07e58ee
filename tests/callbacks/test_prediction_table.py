"""The table of predictions: merged over any number of ranks, and read back from its files."""

import csv
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule

from wiring_lightning.callbacks import PredictionWriter, _prediction_table as tables
from wiring_lightning.data import BatchLoader

FILES = ["a.png", "b,2.png", 'c"3.png', "d\udcff.png"]
NAMES = ["ant", "bee, wild", "cat"]


def shares(size: int, ranks: int, batch: int, limit: int | None) -> list[torch.Tensor]:
    """What each of the ranks sees of examples that are their own positions."""
    images = torch.zeros(size, 1, 1, 1, dtype=torch.uint8)
    found = []
    for rank in range(ranks):
        loader = BatchLoader(
            images,
            torch.arange(size),
            batch,
            normalizer=torch.Tensor.float,
            rank=rank,
            world_size=ranks,
        )
        found.append(torch.cat([labels for _, labels in list(loader)[:limit]]))
    return found


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [5, 6, 13, 24])
@pytest.mark.parametrize("batch", [1, 4, 64])
def test_ranks_are_merged_in_the_order_of_the_examples(ranks: int, size: int, batch: int) -> None:
    places, merged = tables.merge_ranks(shares(size, ranks, batch, None))
    assert places == merged.tolist() == list(range(size))


def test_what_a_limit_leaves_out_moves_nothing() -> None:
    for ranks in (1, 2, 3):
        places, merged = tables.merge_ranks(shares(13, ranks, 2, 2))
        assert places == merged.tolist() == sorted(places)
        assert 4 <= len(places) < 13


def table() -> tuple[dict, torch.Tensor]:
    probabilities = torch.rand(4, 3).log_softmax(1).exp()
    return tables.table_of(FILES, ["ant"] * 4, NAMES, probabilities), probabilities


def test_csv_is_read_back_exactly() -> None:
    columns, probabilities = table()
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(columns).decode())))
    assert [row["file"] for row in rows] == [*FILES[:3], "d\\xff.png"]
    assert {row["label"] for row in rows} == {"ant"}
    read = np.array([[row[f"p_{name}"] for name in NAMES] for row in rows], dtype=np.float32)
    assert (read == probabilities.numpy()).all()
    for row, values in zip(rows, probabilities.tolist(), strict=True):
        assert row["class"] == NAMES[values.index(max(values))]
        assert float(row["probability"]) == pytest.approx(max(values), rel=1e-6)


def test_parquet_holds_the_same_table() -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns, probabilities = table()
    read = parquet.read_table(io.BytesIO(tables.as_parquet(columns)))
    assert read.column_names == [
        "file",
        "label",
        "class",
        "probability",
        *(f"p_{n}" for n in NAMES),
    ]
    for name in ("file", "label", "class"):
        assert read[name].to_pylist() == columns[name]
    for index, name in enumerate(NAMES):
        assert read[f"p_{name}"].to_numpy().dtype == np.float32
        assert (read[f"p_{name}"].to_numpy() == probabilities[:, index].numpy()).all()


def test_parquet_without_its_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    with pytest.raises(
        MisconfigurationException, match=r"pip install 'wiring_lightning\[tables\]'"
    ):
        tables.need_parquet("mine.parquet")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("p.xlsx", "p.xlsx must end in .csv, .parquet for a table, or in .pt or .pth"),
        ("p.tsv", "must end in"),
        ("p", "must end in"),
        ("taken/p.csv", "taken is no folder; name another place"),
        ("folder.pt", "is there"),
        ("taken/deeper/p.PT", "taken is no folder; name another place"),
    ],
)
def test_a_place_for_predictions_is_checked_before_them(
    name: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_bytes(b"mine")
    (tmp_path / "folder.pt").mkdir()
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(predict_names=[]), world_size=1)
    model = LightningModule()
    for overwrite in (False, True):
        writer = PredictionWriter(str(tmp_path / name), overwrite)
        with pytest.raises((MisconfigurationException, OSError)) as caught:
            writer.setup(trainer, model, "predict")
        assert said in str(caught.value)
        writer.setup(trainer, model, "fit")  # where it writes nothing
    PredictionWriter(str(tmp_path / "new/p.CSV")).setup(trainer, model, "predict")
    assert not (tmp_path / "new").exists()
