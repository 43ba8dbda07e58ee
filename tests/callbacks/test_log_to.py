"""Pictures, tables and hyper-parameters reach every logger that can take them."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger, Logger
from PIL import Image

from tests.callbacks.monitored_fit import backbone, events, fit
from wiring_lightning.callbacks import MaskConnect, WiringMonitor
from wiring_lightning.callbacks.log_to import takes_pictures, takes_tables
from wiring_lightning.callbacks.wiring_numbers import wiring_table
from wiring_lightning.nn import find_gates

PICTURES = {"wiring/graph", "wiring/active_branches", "wiring/scores"}


class Keeps(Logger):
    """Takes numbers and settings, and nothing else."""

    name = version = "keeps"

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}
        self.settings: dict[str, Any] = {}

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.numbers |= metrics

    def log_hyperparams(self, params: Any, *_: Any) -> None:
        self.settings |= params


class Shows(Keeps):
    """Has the methods of W&B's logger."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[tuple[str, int | None, Image.Image]] = []
        self.tables: dict[str, tuple[list[str], list[list[Any]]]] = {}

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.pictures += [(key, step, image) for image in images]

    def log_table(self, key: str, columns: list[str], data: list[list[Any]]) -> None:
        self.tables[key] = columns, data


class Means(Keeps):
    """Has methods of these names that mean something else."""

    def log_image(self, tag: str, image: Any, global_step: int) -> None:
        raise AssertionError("called with other arguments")

    def log_table(self, rows: Any) -> None:
        raise AssertionError("called with other arguments")


def test_a_method_with_other_arguments_is_another_one(tmp_path: Path) -> None:
    assert not takes_pictures(Means())
    assert not takes_tables(Means())
    logger = Means()
    fit(tmp_path, backbone(), MaskConnect(lr=0.5), WiringMonitor(), logger=logger)
    assert logger.settings["learner/lr"] == 0.5


def test_a_logger_with_the_methods_of_wandb_gets_everything(tmp_path: Path) -> None:
    logger = Shows()
    module = fit(tmp_path, backbone(), MaskConnect(lr=0.5), WiringMonitor(), logger=logger)
    assert [(name, step) for name, step, _ in logger.pictures] == [
        (name, step) for step in (2, 5) for name in ("wiring/graph", "wiring/active_branches",
                                                     "wiring/scores")
    ]  # fmt: skip
    for _, _, image in logger.pictures:
        assert image.size[0] > 300
        assert np.asarray(image).std() > 10  # something is drawn
    columns, rows = logger.tables["wiring/modules"]
    expected = wiring_table(find_gates(module), module.backbone)
    assert (tuple(columns), rows) == expected
    assert {
        "learner/lr": 0.5,
        "fan_in": 2,
        "backbone": "ResNeXt",
    }.items() <= logger.settings.items()
    assert {"weights/lr", "wiring/lr", "wiring/live_nodes"} <= logger.numbers.keys()


def test_the_table_tells_of_every_module_what_is_live_and_how_its_gate_stands() -> None:
    network = backbone()
    columns, rows = wiring_table(find_gates(network), network)
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    live = network.wiring().live_nodes
    for row in table:
        inside = [name.startswith(f"{row['module']}.") or name == row["module"]
                  for name in network.wiring().nodes.names]  # fmt: skip
        assert row["of"] == sum(inside)
        assert row["live"] == int(live[np.flatnonzero(inside)].sum())
    gated = {row["module"]: row for row in table if row["fan_in"] is not None}
    assert gated.keys() == {"module2", "module3"}
    assert {row["entropy"] for row in gated.values()} == {1.0}  # all scores are equal
    assert {row["fan_in"] for row in gated.values()} == {2}


@pytest.mark.parametrize("pictures", [True, False])
@pytest.mark.parametrize("kind", [CSVLogger, Keeps])
def test_what_a_logger_cannot_take_is_said(
    kind: Any, pictures: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = kind(tmp_path) if kind is CSVLogger else kind()
    with caplog.at_level("INFO"):
        fit(tmp_path, backbone(), MaskConnect(), WiringMonitor(pictures=pictures), logger=logger)
    said = [line for line in caplog.messages if line.startswith("WiringMonitor")]
    expected = f"WiringMonitor: {kind.__name__} takes numbers and hyper-parameters, but no " \
               "pictures and no tables."  # fmt: skip
    assert said == ([expected] if pictures else [])


def test_several_loggers_share_the_pictures(tmp_path: Path) -> None:
    other = Shows()
    loggers = [CSVLogger(tmp_path), TensorBoardLogger(tmp_path, name="", version="run"), other]
    fit(tmp_path, backbone(), MaskConnect(), WiringMonitor(), logger=loggers, epochs=1)
    read = events(tmp_path)
    assert set(read.Tags()["images"]) == {name for name, *_ in other.pictures} == PICTURES
    (text,) = read.Tensors("wiring/modules/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert shown.startswith("| module | live | of | fan_in |")
    assert len(shown.splitlines()) == 2 + len(other.tables["wiring/modules"][1])


def test_what_each_logger_takes(tmp_path: Path) -> None:
    kinds = {TensorBoardLogger(tmp_path): True, CSVLogger(tmp_path): False, DummyLogger(): False,
             Keeps(): False, Shows(): True}  # fmt: skip
    assert {kind: takes_pictures(kind) for kind in kinds} == kinds
    assert {kind: takes_tables(kind) for kind in kinds} == kinds
    assert callable(WandbLogger.log_image)  # which makes it one that takes pictures
    assert callable(WandbLogger.log_table)


@pytest.mark.slow
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, project="wires")
    fit(tmp_path, backbone(), MaskConnect(lr=0.5), WiringMonitor(), logger=logger)
    settings = dict(logger.experiment.config)
    wandb.finish()
    assert settings["learner/lr"] == 0.5
    pictures = {path.name.rpartition("_")[0].rstrip("0123456789").rstrip("_")
                for path in tmp_path.rglob("media/images/wiring/*.png")}  # fmt: skip
    assert {f"wiring/{name}" for name in pictures} == PICTURES
    (table,) = tmp_path.rglob("media/table/wiring/modules*.json")
    assert json.loads(table.read_text())["columns"][:3] == ["module", "live", "of"]


@pytest.mark.slow
def test_mlflow_in_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    from lightning.pytorch.loggers import MLFlowLogger

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # newer releases ask for it
    where = (tmp_path / "ml").as_uri()
    logger = MLFlowLogger(tracking_uri=where)
    fit(tmp_path, backbone(), MaskConnect(lr=0.5), WiringMonitor(), logger=logger)
    # The same run goes on with more epochs: MLflow refuses another value of a parameter.
    again = MLFlowLogger(tracking_uri=where, run_id=logger.run_id)
    fit(tmp_path, backbone(), MaskConnect(lr=0.5), WiringMonitor(), logger=again, epochs=3)
    run = mlflow.MlflowClient(where).get_run(logger.run_id)
    assert run.data.params["learner/lr"] == "0.5"
    assert run.data.params["max_epochs"] == "2"
    assert {"wiring/lr", "wiring/live_nodes"} <= run.data.metrics.keys()
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    names = {path.name.split("+")[0].replace("~", "/") for path in artifacts.glob("images/*.png")}
    assert names == PICTURES
    rows = list(csv.DictReader((artifacts / "wiring/modules.csv").open()))
    assert {row["module"] for row in rows} >= {"module2", "module3"}
