"""The registry: one line a method, and every generic suite runs over it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule
from torch import nn
from torch.optim import SGD

from wiring_lightning.backbones import (
    ConvFabric,
    DenseNet,
    NeuralGraph,
    ResNet,
    ResNetFabric,
    ResNeXt,
    SparseNet,
    SparseResNet,
)
from wiring_lightning.callbacks import DNW, BudgetedSearch, MaskConnect
from wiring_lightning.data import Digits
from wiring_lightning.tasks import ClassificationTask


@dataclass(frozen=True)
class Method:
    """A way to learn (or fix) a wiring, with a network small enough for a test.

    `yaml` is the same as a config: class name and arguments of the backbone, and the callbacks.
    With `per_example` every example draws a wiring of its own, so batches that are cut in another
    way, for ranks or accumulation, draw other wirings.
    """

    name: str
    backbone: Callable[..., nn.Module]
    arguments: dict[str, Any]
    callbacks: tuple[tuple[Callable[..., Callback], dict[str, Any]], ...] = ()
    per_example: bool = False

    def task(
        self, optimizer: Callable[..., Any] | None = None, **kwargs: Any
    ) -> ClassificationTask:
        optimizer = optimizer or partial(SGD, lr=0.05, momentum=0.9, weight_decay=1e-4)
        return ClassificationTask(self.backbone(**self.arguments), optimizer=optimizer, **kwargs)

    def new_callbacks(self) -> list[Callback]:
        return [make(**arguments) for make, arguments in self.callbacks]

    def config(self) -> dict[str, Any]:
        """The `model` and `trainer.callbacks` of a config file."""
        backbone = {"class_path": self.backbone.__name__, "init_args": self.arguments}
        callbacks = [
            {"class_path": make.__name__, "init_args": arguments}
            for make, arguments in self.callbacks
        ]
        model = {"class_path": "ClassificationTask", "init_args": {"backbone": backbone}}
        return {"model": model, "callbacks": callbacks}


_RESNEXT = {"depth": 11, "width": 4, "cardinality": 4, "fan_in": 2, "in_channels": 1,
            "image_size": 8}  # fmt: skip
_RESNET = {"depth": 20, "fan_in": 3, "in_channels": 1, "image_size": 8}
_DENSENET = {"depth": 16, "growth": 4, "fan_in": 2, "in_channels": 1, "image_size": 8}
_RESNET_FABRIC = {"width": 1, "in_channels": 1, "image_size": 8}
_CONV_FABRIC = {"columns": 2, "channels": 16, "scales": 3, "in_channels": 1, "image_size": 8}
_NEURAL_GRAPH = {"nodes": 80, "inputs": 8, "outputs": 24, "depth": 4, "edges": 500,
                 "in_channels": 1, "strides": [1, 1], "image_size": 8}  # fmt: skip
_SPARSENET = {"depth": 22, "growth": 4, "bottleneck": True, "in_channels": 1, "image_size": 8}

METHODS = [
    Method("resnext-learned", ResNeXt, _RESNEXT, ((MaskConnect, {"lr": 0.5}),)),
    Method("resnext-real", ResNeXt, _RESNEXT | {"wiring": "real"}, ((MaskConnect, {"lr": 0.5}),)),
    Method("resnext-random", ResNeXt, _RESNEXT | {"wiring": "random"}),
    Method("resnext-full", ResNeXt, _RESNEXT | {"wiring": "full"}),
    Method("resnet-learned", ResNet, _RESNET, ((MaskConnect, {"lr": 0.5}),)),
    Method("resnet-weighted", ResNet, _RESNET | {"weighted": True}, ((MaskConnect, {"lr": 0.5}),)),
    Method("densenet-learned", DenseNet, _DENSENET, ((MaskConnect, {"lr": 0.5}),)),
    Method("neural-graph", NeuralGraph, _NEURAL_GRAPH, ((DNW, {}),)),
    Method(
        "sparse-layers",
        ResNeXt,
        _RESNEXT | {"wiring": "full"},
        ((DNW, {"density": 0.3, "first_dense": True}),),
    ),
    Method("resnet-random", ResNet, _RESNET | {"wiring": "random"}),
    Method("resnet-previous", ResNet, _RESNET | {"wiring": "previous"}),
    Method("sparsenet", SparseNet, _SPARSENET),
    Method("sparse-resnet", SparseResNet, {"depth": 29, "in_channels": 1, "image_size": 8}),
    Method(
        "resnet-fabric",
        ResNetFabric,
        _RESNET_FABRIC,
        ((BudgetedSearch, {"budget": 1e6, "lr": 0.3}),),
        per_example=True,
    ),
    Method(
        "conv-fabric",
        ConvFabric,
        _CONV_FABRIC,
        ((BudgetedSearch, {"budget": 8, "cost": "sequential_steps", "machines": 2, "lr": 0.3}),),
        per_example=True,
    ),
]
LEARNING = [method for method in METHODS if method.callbacks]
# In the others the weights are the scores, and the user's optimizer learns them.
SCORED = [method for method in LEARNING if method.callbacks[0][0] is not DNW]


def digits(batch_size: int = 64, augment: bool = True) -> Digits:
    return Digits(batch_size=batch_size, augment=augment)


def freeze_batch_norm(module: LightningModule) -> None:
    """Statistics of a batch differ between one process and two; without them results must not."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.eval()
