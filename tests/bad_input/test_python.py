"""The same mistakes from Python raise what is documented."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule
from torch.optim import SGD

from tests.trainers import quiet_trainer
from wiring_lightning.backbones import ConvFabric, ResNeXt
from wiring_lightning.callbacks import MaskConnect, Phase, PhaseSchedule, RigL
from wiring_lightning.checkpoints import CheckpointError, load_weights
from wiring_lightning.data import CIFAR10, Digits
from wiring_lightning.tasks import ClassificationTask


def net(**arguments: Any) -> ResNeXt:
    sizes = {"depth": 11, "width": 1, "cardinality": 4, "fan_in": 2, "in_channels": 1}
    return ResNeXt(**{**sizes, "image_size": 8, **arguments})


def fit(task: LightningModule, *callbacks: Callback, **settings: Any) -> None:
    settings.setdefault("limit_train_batches", 2)
    quiet_trainer(callbacks=list(callbacks), **settings).fit(task, Digits(batch_size=8))


IN_PYTHON: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "K above the cardinality": (lambda: net(fan_in=5), ValueError, r"\(C = 4\), got 5"),
    "K below 1": (lambda: net(fan_in=-1), ValueError, "got -1"),
    "depth without a plan": (lambda: net(depth=21), ValueError, "2 . 9n .* got 21"),
    "nobody learns": (
        lambda: fit(ClassificationTask(net())),
        MisconfigurationException,
        "no callback learns it",
    ),
    "a rule for weights learns no gates": (
        lambda: fit(ClassificationTask(net()), RigL(density=0.3)),
        MisconfigurationException,
        r"no callback learns it.* add MaskConnect",
    ),
    "a rule for weights searches no fabric": (
        lambda: fit(
            ClassificationTask(ConvFabric(2, 4, 2, in_channels=1, image_size=8)), RigL(density=0.3)
        ),
        MisconfigurationException,
        r"no callback learns it.* add BudgetedSearch",
    ),
    "nobody learns real gates": (
        lambda: fit(ClassificationTask(net(wiring="real")), PhaseSchedule([Phase(1)])),
        MisconfigurationException,
        "no callback learns it",
    ),
    "number of classes": (
        lambda: fit(ClassificationTask(net(num_classes=3)), MaskConnect()),
        MisconfigurationException,
        "10 classes, but the backbone ends in 3",
    ),
    "no classes at all": (
        lambda: ClassificationTask(torch.nn.Flatten()),
        MisconfigurationException,
        "Flatten has neither a `num_classes` attribute nor a linear layer",
    ),
    "missing data": (
        lambda: CIFAR10(root="nowhere").setup("fit"),
        FileNotFoundError,
        "nowhere/cifar-10-batches-py",
    ),
    "no gate": (
        lambda: fit(ClassificationTask(net(wiring="full")), MaskConnect()),
        MisconfigurationException,
        "found no gate to learn in ClassificationTask",
    ),
    "missing checkpoint": (
        lambda: load_weights(net(), "nowhere.ckpt"),
        CheckpointError,
        "no checkpoint at nowhere.ckpt",
    ),
}


@pytest.mark.parametrize("name", IN_PYTHON)
def test_python_raises_what_is_documented(name: str) -> None:
    act, error, message = IN_PYTHON[name]
    with pytest.raises(error, match=message):
        act()


def test_a_frozen_wiring_may_be_trained_without_a_learner() -> None:
    task = ClassificationTask(net(), optimizer=partial(SGD, lr=0.1))
    for gate in task.backbone.connections.values():
        gate.freeze()
    fit(task)
