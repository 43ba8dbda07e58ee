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

from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import PredictionWriter, _prediction_table as tables
from wiring_lightning.callbacks.prediction_writer import _gather
from wiring_lightning.data import BatchLoader, Digits

FILES = ["a.png", "b,2.png", 'c"3.png', "d\udcff.png"]
NAMES = ["ant", "bee, wild", "caf\udce9"]
READABLE = ["ant", "bee, wild", "caf\\xe9"]


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
    return tables.table_of(FILES, ["caf\udce9"] * 4, NAMES, probabilities), probabilities


def test_csv_is_read_back_exactly() -> None:
    columns, probabilities = table()
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(columns).decode())))
    assert [row["file"] for row in rows] == [*FILES[:3], "d\\xff.png"]
    assert {row["label"] for row in rows} == {"caf\\xe9"}
    read = np.array([[row[f"p_{name}"] for name in READABLE] for row in rows], dtype=np.float32)
    assert (read == probabilities.numpy()).all()
    for row, values in zip(rows, probabilities.tolist(), strict=True):
        assert row["class"] == READABLE[values.index(max(values))]
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
        *(f"p_{n}" for n in READABLE),
    ]
    for name in ("file", "label", "class"):
        assert read[name].to_pylist() == columns[name]
    for index, name in enumerate(READABLE):
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
    trainer: Any = SimpleNamespace(
        datamodule=SimpleNamespace(predict_names=[]), world_size=1, limit_predict_batches=1.0
    )
    model = LightningModule()
    for overwrite in (False, True):
        writer = PredictionWriter(str(tmp_path / name), overwrite)
        with pytest.raises((MisconfigurationException, OSError)) as caught:
            writer.setup(trainer, model, "predict")
        assert said in str(caught.value)
        writer.setup(trainer, model, "fit")  # where it writes nothing
    PredictionWriter(str(tmp_path / "new/p.CSV")).setup(trainer, model, "predict")
    assert not (tmp_path / "new").exists()


FAIR = torch.full((4, 2), 0.5)
ONE_ROW = "tensor with one row for each of 4 examples, always of one shape, is needed"


def predict(
    *predictions: Any, names: int | None = 8, path: str | None = None, loaders: int = 1
) -> None:
    """What Lightning calls while batches of four images are predicted."""
    data: Any = SimpleNamespace(class_names=["ant", "bee"])
    if names is not None:
        data.predict_names = FILES * (names // 4) + FILES[: names % 4]
    trainer: Any = SimpleNamespace(
        datamodule=data, world_size=1, global_rank=0, num_predict_batches=[2] * loaders
    )
    writer, model = PredictionWriter(path), LightningModule()
    writer.on_predict_start(trainer, model)
    for number, rows in enumerate(predictions):
        batch = [torch.zeros(4, 1, 8, 8), torch.zeros(4)]
        writer.on_predict_batch_end(trainer, model, rows, batch, number)


@pytest.mark.parametrize(
    ("predictions", "options", "said"),
    [
        ([None], {}, f"returned None for batch 0, but a {ONE_ROW}"),
        ([None], {"names": None}, "returned None for batch 0, but a tensor with one row for each"),
        ([FAIR, FAIR[:3]], {}, f"a tensor of shape [3, 2] for batch 1, but a {ONE_ROW}"),
        ([FAIR, FAIR[:, :1]], {"names": None}, "a tensor of shape [4, 1] for batch 1"),
        ([{"p": FAIR}], {}, f"a dict for batch 0, but a {ONE_ROW}"),
        ([(FAIR, FAIR)], {"names": None}, "a tuple for batch 0"),
        ([FAIR.mean()], {}, "a tensor of shape []"),
        ([FAIR - 0.7], {}, "returned the row -0.2, -0.2: return logits.softmax(1), or name"),
        ([FAIR * 1.5], {"path": "p.csv"}, "at least 0 and sum to 1 over the classes"),
        ([FAIR[:, :1]], {}, "The data has 2 names of classes, but the network 1 outputs"),
        ([FAIR[:, 0]], {"path": "p.csv"}, "p.csv would be a table, which needs the probabilities"),
        ([FAIR, FAIR], {"names": 7}, "names of 7 examples (predict_names), but more"),
        ([FAIR], {"names": 3}, "names of 3 examples (predict_names), but more"),
        ([], {"loaders": 2}, "has 2 loaders to predict, but one file"),
    ],
)
def test_predictions_of_another_kind_are_refused_at_their_batch(
    predictions: list[Any], options: dict[str, Any], said: str
) -> None:
    predict(*predictions[:-1], **{**options, "loaders": 1})
    with pytest.raises(MisconfigurationException) as caught:
        predict(*predictions, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tensors_of_anything_and_rounded_probabilities_are_taken() -> None:
    for rows in (FAIR - 0.7, FAIR[:, 0], torch.zeros(4, 2, 3)):
        predict(rows, rows, path="p.pt")
        predict(rows, rows, names=None)
    predict(torch.rand(4, 2).softmax(1).bfloat16(), FAIR * float("nan"))


class Returns(LightningModule):
    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 1 else FAIR


@pytest.mark.parametrize(
    ("limit", "said"), [(0, "limit_predict_batches is 0, so nothing"), (2, "None for batch 1")]
)
def test_nothing_is_written_of_a_prediction_that_lacks_a_batch(
    limit: int, said: str, tmp_path: Path
) -> None:
    options: Any = {"default_root_dir": tmp_path, "limit_predict_batches": limit}
    trainer = quiet_trainer(callbacks=[PredictionWriter()], **options)
    told: Any = pytest.raises(MisconfigurationException, match=said)
    with told if limit else pytest.warns(UserWarning, match=said):
        trainer.predict(Returns(), Digits(4))
    assert not list(tmp_path.rglob("predictions*"))


def test_a_fast_dev_run_leaves_no_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (None, "mine.pt"):
        trainer = quiet_trainer(callbacks=[PredictionWriter(path)], fast_dev_run=2)
        trainer.predict(Rows(), Digits(4))
    assert not list(tmp_path.rglob("*"))


class Rows(LightningModule):
    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return FAIR


GATHERED = {
    "whole numbers": torch.tensor([[2**24 + 1], [-(2**40)]]),
    "bfloat16": torch.tensor([0.1, 3.0]).bfloat16(),
    "bool": torch.tensor([[[True, False]], [[False, True]]]),
    "double": torch.tensor([[1e-300, 1.0]], dtype=torch.float64),
}


@pytest.mark.parametrize("kind", GATHERED)
def test_processes_gather_what_each_predicted_in_its_kind(kind: str) -> None:
    own = GATHERED[kind]
    strategy = SimpleNamespace(
        root_device=torch.device("cpu"), all_gather=lambda sent: torch.stack([sent, sent])
    )
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy)
    for share in _gather(own, trainer):
        assert share.dtype == own.dtype
        assert torch.equal(share, own)
