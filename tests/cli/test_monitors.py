"""A callback that looks at a number which nothing logs is told in one sentence, and early."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback
from torch import nn
from torch.utils.data import DataLoader

from tests.callbacks.reader import Reader, batches
from tests.cli.commands import BASE, refused, succeed, write
from tests.trainers import quiet_trainer
from wiring_lightning.cli.monitors import explain_monitor
from wiring_lightning.tasks import ClassificationTask


def config(path: Path, kind: str, arguments: dict[str, Any], **trainer: Any) -> str:
    """Two epochs of two batches, and a check before them."""
    changed = deepcopy(BASE)
    changed["data"]["init_args"]["batch_size"] = 8
    changed["trainer"] |= {
        "max_epochs": 2,
        "limit_train_batches": 2,
        "limit_val_batches": 2,
        "limit_test_batches": 2,
        "num_sanity_val_steps": 1,
        "logger": False,
        "enable_progress_bar": False,
        **trainer,
    }
    changed["trainer"]["callbacks"].append({"class_path": kind, "init_args": arguments})
    return write(changed, path)


@pytest.mark.parametrize("kind", ["EarlyStopping", "ModelCheckpoint"])
def test_a_misnamed_number_of_validation_ends_a_fit_before_it_begins(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: ClassificationTask, *_: Any) -> None:
        pytest.fail("a step was made")

    monkeypatch.setattr(ClassificationTask, "training_step", step)
    said = refused("fit", "--config", config(tmp_path / "run.yaml", kind, {"monitor": "val/acc2"}))
    assert said.startswith(f"{kind} looks at val/acc2, which validation does not log: ")
    assert "(val/acc, val/acc_top5, val/loss)" in said
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["run.yaml"]


@pytest.mark.parametrize(
    ("monitor", "trainer"),
    [
        ("val/acc2", {"num_sanity_val_steps": 0}),
        ("val/acc2", {"num_sanity_val_steps": 0, "val_check_interval": 1}),
        ("train/acc2", {}),
        ("acc", {}),
    ],
)
def test_any_other_is_told_as_soon_as_it_is_looked_at(
    monitor: str, trainer: dict[str, Any], tmp_path: Path
) -> None:
    path = config(tmp_path / "run.yaml", "EarlyStopping", {"monitor": monitor}, **trainer)
    said = refused("fit", "--config", path)
    assert said.startswith(f"EarlyStopping looks at {monitor}, which was not logged: ")
    assert "val/acc, val/acc_top5, val/loss" in said


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("EarlyStopping", {"monitor": "val/acc", "mode": "max"}),
        ("EarlyStopping", {"monitor": "val/acc2", "strict": False, "verbose": False}),
        ("EarlyStopping", {"monitor": "train/loss"}),
        ("ModelCheckpoint", {"monitor": "val/loss"}),
        ("ModelCheckpoint", {}),
    ],
)
def test_what_there_is_may_be_looked_at(
    kind: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    succeed("fit", "--config", config(tmp_path / "run.yaml", kind, arguments))


class Logs(Callback):
    """Logs a number of its own that the check before a fit does not have."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val/gap", 1.0)


def log_gap(trainer: Trainer, pl_module: LightningModule) -> None:
    pl_module.log("val/gap", 1.0)


class Own(ClassificationTask):
    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.log("val/gap", 1.0)


@pytest.mark.parametrize(
    ("callbacks", "task"),
    [
        ([Logs()], ClassificationTask),
        ([LambdaCallback(on_train_epoch_end=log_gap)], ClassificationTask),
        ([], Own),
    ],
)
def test_what_code_of_ones_own_logs_later_may_be_looked_at(
    callbacks: list[Callback], task: Any
) -> None:
    stops = EarlyStopping("val/gap", check_on_train_epoch_end=True)
    trainer = quiet_trainer(
        callbacks=[*callbacks, stops], num_sanity_val_steps=1, limit_val_batches=1
    )
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 10))
    network.num_classes = 10
    data = DataLoader(batches(1, torch.float32), batch_size=None)
    trainer.fit(task(network), data, data)
    assert float(stops.best_score) == 1.0


def test_an_error_of_another_kind_is_left_alone() -> None:
    class Fails(EarlyStopping):
        def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
            raise RuntimeError("of one's own")

    trainer = quiet_trainer(callbacks=[Fails("val/loss")])
    with pytest.raises(RuntimeError, match="of one's own") as raised:
        trainer.fit(Reader(), DataLoader(batches(1, torch.float32), batch_size=None))
    explain_monitor(raised.value, trainer)
    explain_monitor(ValueError("never raised"), trainer)
