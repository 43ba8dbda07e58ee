"""A task may be fitted, validated and tested in any order: every call measures anew."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from torch.utils.data import DataLoader

from tests.trainers import quiet_trainer
from wiring_lightning.backbones import GatedHeads
from wiring_lightning.callbacks import MaskConnect
from wiring_lightning.data import DigitSums
from wiring_lightning.tasks import ClassificationTask, SegmentationTask, WiringComparison
from wiring_lightning.tasks._supervised import SupervisedTask

Batches = list[tuple[Tensor, Tensor]]
pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches")


class Data(LightningDataModule):
    """The same batches for all that a trainer does."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> Any:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = train_dataloader


def _batches(classes: int, shape: tuple[int, ...], labels: tuple[int, ...]) -> Batches:
    """Batches of unequal size: a mean over batches is not the mean over examples."""
    return [
        (torch.randn(size, *shape), torch.randint(classes, (size, *labels))) for size in (5, 2, 3)
    ]


def classify() -> tuple[SupervisedTask, Batches]:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 7))
    return ClassificationTask(network), _batches(7, (3, 4, 4), ())


def segment() -> tuple[SupervisedTask, Batches]:
    return SegmentationTask(nn.Conv2d(3, 4, 1)), _batches(4, (3, 5, 5), (5, 5))


def compare() -> tuple[SupervisedTask, Batches]:
    data = DigitSums(batch_size=4, size=16)
    data.setup("fit")
    return WiringComparison(GatedHeads()), list(data.train_dataloader())[:3]


TASKS: dict[str, Callable[[], tuple[SupervisedTask, Batches]]] = {
    "ClassificationTask": classify,
    "SegmentationTask": segment,
    "WiringComparison": compare,
}
each_task = pytest.mark.parametrize("name", TASKS)


def right_numbers(task: SupervisedTask, batches: Batches) -> tuple[float, float]:
    """Loss and accuracy of the network, by all examples together."""
    images, labels = map(torch.cat, zip(*batches, strict=True))
    with torch.no_grad():
        logits = task.backbone.eval()(images)
    task.backbone.train()
    accuracy = (logits.argmax(1) == labels).double().mean()
    return float(functional.cross_entropy(logits, labels)), float(accuracy)


def learners(task: SupervisedTask) -> list[Callback]:
    return [MaskConnect()] if isinstance(task, WiringComparison) else []


def call(task: SupervisedTask, batches: Batches, does: str, **options: Any) -> dict[str, Any]:
    """Fit, validate or test with a new trainer; what it measured."""
    settings = {"limit_val_batches": 3, "callbacks": learners(task), **options}
    trainer = quiet_trainer(**settings)
    getattr(trainer, does)(task, datamodule=Data(batches))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def check(task: SupervisedTask, batches: Batches, numbers: dict[str, Any], does: str) -> None:
    stage = "test" if does == "test" else "val"
    accuracy = "pixel_acc" if isinstance(task, SegmentationTask) else "acc"
    loss, share = right_numbers(task, batches)
    assert numbers[f"{stage}/loss"] == pytest.approx(loss, rel=1e-5)
    assert numbers[f"{stage}/{accuracy}"] == pytest.approx(share, abs=1e-6)


@each_task
@pytest.mark.parametrize(
    "order",
    ["validate fit", "fit validate fit", "test fit test", "test validate validate fit"],
)
def test_every_call_measures_what_is_there(name: str, order: str) -> None:
    torch.manual_seed(0)
    task, batches = TASKS[name]()
    for does in order.split():
        check(task, batches, call(task, batches, does), does)


@each_task
@pytest.mark.parametrize("does", ["validate", "test"])
def test_so_it_is_without_inference_mode_after_one_with_it(name: str, does: str) -> None:
    task, batches = TASKS[name]()
    for mode in (True, False, True):
        check(task, batches, call(task, batches, does, inference_mode=mode), does)


@each_task
def test_one_trainer_may_do_all(name: str) -> None:
    task, batches = TASKS[name]()
    trainer = quiet_trainer(limit_val_batches=3, callbacks=learners(task))
    trainer.validate(task, datamodule=Data(batches))
    trainer.fit(task, datamodule=Data(batches))
    trainer.validate(task, datamodule=Data(batches))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(task, datamodule=Data(batches))
    measured = {key: float(value) for key, value in trainer.callback_metrics.items()}
    check(task, batches, measured, "fit")


class Interrupted(Exception):  # noqa: N818 - it is no error of the program
    """What a user did."""


class Interrupt(Callback):
    """Ends a call after its second batch."""

    def _end(self, *arguments: Any) -> None:
        if arguments[4] == 1:
            raise Interrupted

    on_train_batch_end = on_validation_batch_end = on_test_batch_end = _end


def interrupt(task: SupervisedTask, batches: Batches, does: str) -> None:
    with pytest.raises(Interrupted):
        call(task, batches, does, callbacks=[*learners(task), Interrupt()])


@each_task
@pytest.mark.parametrize("does", ["validate", "test"])
def test_what_an_interrupted_call_has_counted_does_not_count_again(name: str, does: str) -> None:
    task, batches = TASKS[name]()
    interrupt(task, batches, does)
    check(task, batches, call(task, batches, does), does)


@pytest.mark.parametrize(
    ("name", "accuracy"), [("ClassificationTask", "acc"), ("SegmentationTask", "pixel_acc")]
)
def test_nor_does_an_interrupted_training(name: str, accuracy: str) -> None:
    task, batches = TASKS[name]()
    task.optimizer = partial(SGD, lr=0.0)  # the answers stay
    interrupt(task, batches, "fit")
    measured = call(task, batches[2:], "fit", limit_val_batches=0)
    _, share = right_numbers(task, batches[2:])
    assert measured[f"train/{accuracy}"] == pytest.approx(share, abs=1e-6)
