"""The registry: one line a method, and every generic suite runs over it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import pytest
from lightning.pytorch import Callback, LightningModule
from torch import nn
from torch.optim import SGD, AdamW

from tests.outside import LargestWeights, TwoLayers
from wiring_lightning.backbones import (
    ConvFabric,
    DenseNet,
    MobileNetV1,
    MobileNetV1DNW,
    NeuralGraph,
    ResNet,
    ResNetFabric,
    ResNeXt,
    SparseNet,
    SparseResNet,
)
from wiring_lightning.callbacks import (
    ACDC,
    DNW,
    SET,
    SNIP,
    BudgetedSearch,
    GradualPruning,
    L1Anneal,
    MaskConnect,
    MaskSchedule,
    NMSparsity,
    NoUpdateRule,
    PruneAndRetrain,
    PruneAtStart,
    RandomEdges,
    RigL,
    TargetedDropout,
)
from wiring_lightning.data import Digits
from wiring_lightning.tasks import ClassificationTask

# A class, and what it is given besides the network.
Made = tuple[Callable[..., Any], dict[str, Any]]

Learns = Literal["nothing", "scores", "weights"]
# What a row can be without: training to a good accuracy; one graph for torch.compile; the same
# result however batches are cut, for ranks or accumulation; the same after a skipped step; scores
# that a freeze leaves as they are; and what tests a network with masks, whatever changes them:
# compiling, exporting, mixed precision, memory formats, addresses, resuming on another device.
Suite = Literal["accuracy", "compile", "cut batches", "skipped steps", "frozen scores", "network"]


@dataclass(frozen=True)
class Method:
    """A way to learn (or fix) a wiring, with a network small enough for a test.

    Args:
        name: what the suites call it.
        backbone: class of the network, of this package or any other.
        arguments: what the network is made with.
        callbacks: classes and arguments of the callbacks, the learner first.
        learns: what decides which edges there are. `"scores"`: parameters that the callback keeps
            from the user's optimizer and moves itself. `"weights"`: weights of the network, which
            the user's optimizer moves. `"nothing"`: the edges never change.
        without: suites that make no sense for it, each with the reason.
        epochs: how many epochs show all that it does.
        optimizer: class and arguments of the user's optimizer.
        slow: its tests are slow ones, because most of its code is that of another row, or because
            its steps take long.
    """

    name: str
    backbone: Callable[..., nn.Module]
    arguments: dict[str, Any]
    callbacks: Sequence[Made] = ()
    learns: Learns = "nothing"
    without: Mapping[Suite, str] = field(default_factory=dict)
    epochs: int = 1
    optimizer: Made = (SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4})
    slow: bool = False

    @property
    def lr(self) -> float:
        """The rate of the user's optimizer."""
        return self.optimizer[1]["lr"]

    def task(
        self, optimizer: Callable[..., Any] | None = None, **kwargs: Any
    ) -> ClassificationTask:
        make, arguments = self.optimizer
        optimizer = optimizer or partial(make, **arguments)
        return ClassificationTask(self.backbone(**self.arguments), optimizer=optimizer, **kwargs)

    def new_callbacks(self) -> list[Callback]:
        return [make(**arguments) for make, arguments in self.callbacks]

    def config(self) -> dict[str, Any]:
        """The `model` and `callbacks` of a config file, with full import paths."""
        parts = {
            "backbone": _config(self.backbone, self.arguments),
            "optimizer": _config(*self.optimizer),
        }
        callbacks = [_config(make, arguments) for make, arguments in self.callbacks]
        return {"model": _config(ClassificationTask, parts), "callbacks": callbacks}


def _config(make: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    path = f"{make.__module__}.{make.__qualname__}"
    return {"class_path": path, "init_args": arguments}


_DIGITS: dict[str, Any] = {"in_channels": 1, "image_size": 8}
_RESNEXT = {"depth": 11, "width": 4, "cardinality": 4, "fan_in": 2} | _DIGITS
_RESNET = {"depth": 14, "fan_in": 2} | _DIGITS
_DENSENET = {"depth": 13, "growth": 4, "fan_in": 2} | _DIGITS
_RESNET_FABRIC = {"width": 1} | _DIGITS
_CONV_FABRIC = {"columns": 2, "channels": 16, "scales": 3} | _DIGITS
_SPARSENET = {"depth": 16, "growth": 4, "bottleneck": True} | _DIGITS
_GRAPH = {"nodes": 80, "inputs": 8, "outputs": 24, "depth": 4, "edges": 500,
          "strides": [1, 1]} | _DIGITS  # fmt: skip
_DISCRETE = {"dynamics": "discrete", "nodes": 40, "inputs": 8, "outputs": 16, "depth": 3,
             "edges": 300, "strides": [1, 1]} | _DIGITS  # fmt: skip
_CONTINUOUS = {"dynamics": "continuous", "nodes": 20, "inputs": 6, "outputs": 10, "edges": 100,
               "strides": [2, 1], "tolerance": 0.01} | _DIGITS  # fmt: skip

_PER_EXAMPLE: dict[Suite, str] = {
    "compile": "every example draws its wiring outside the graph",
    "cut batches": "every example draws a wiring of its own",
    "skipped steps": "draws follow the number of the batch",
}
_SOLVER: dict[Suite, str] = {
    "compile": "the solver chooses its steps by the data",
    "cut batches": "the solver chooses its steps by the whole batch",
}
_LIKE_RIGL: dict[Suite, str] = {"network": "the network, the hooks and the rule are those of rigl"}
_PRUNED: dict[Suite, str] = {
    "network": "the network is that of neural-graph, the rule that of rigl"
}
_VARIANT: dict[Suite, str] = {
    "network": "the network is that of resnext-learned, and only its scores move in another way"
}
_LIKE_GRAPH: dict[Suite, str] = {
    "network": "the network is that of neural-graph, and the rule never acts inside of it"
}
# Few steps, so that the masks of every run that a suite cuts short have the same times.
_SPARSE: dict[str, Any] = {"density": 0.3, "layers": ["backbone.second"], "total_steps": 12}

METHODS = [
    Method("resnext-learned", ResNeXt, _RESNEXT, [(MaskConnect, {"lr": 0.5})], "scores"),
    Method(
        "resnext-projected",
        ResNeXt,
        _RESNEXT,
        [(MaskConnect, {"lr": 0.5, "update": "project", "draw_every": 2})],
        "scores",
        _VARIANT,
        slow=True,
    ),
    Method(
        "resnext-swap",
        ResNeXt,
        _RESNEXT,
        [(MaskConnect, {"lr": 0.9, "explore": "swap", "anneal_steps": 100})],
        "scores",
        _VARIANT,
        slow=True,
    ),
    Method(
        "resnext-balanced",
        ResNeXt,
        _RESNEXT,
        [(MaskConnect, {"lr": 0.5, "balance": True, "center": True})],
        "scores",
        {"frozen scores": "the freeze chooses again, and the scores say what it chose"} | _VARIANT,
        slow=True,
    ),
    Method(
        "resnext-real",
        ResNeXt,
        _RESNEXT | {"wiring": "real"},
        [(MaskConnect, {"lr": 5.0})],
        "scores",
        slow=True,
    ),
    Method("resnext-random", ResNeXt, _RESNEXT | {"wiring": "random", "fan_in": 1}),
    Method("resnext-full", ResNeXt, _RESNEXT | {"wiring": "full"}, slow=True),
    Method("resnet-learned", ResNet, _RESNET, [(MaskConnect, {"lr": 0.5})], "scores"),
    Method(
        "resnet-weighted",
        ResNet,
        _RESNET | {"weighted": True},
        [(MaskConnect, {"lr": 0.5})],
        "scores",
        slow=True,
    ),
    Method("resnet-random", ResNet, _RESNET | {"wiring": "random"}, slow=True),
    Method("resnet-previous", ResNet, _RESNET | {"wiring": "previous"}),
    Method("densenet-learned", DenseNet, _DENSENET, [(MaskConnect, {"lr": 0.5})], "scores"),
    Method("neural-graph", NeuralGraph, _GRAPH, [(DNW, {})], "weights"),
    Method("discrete-graph", NeuralGraph, _DISCRETE, [(DNW, {})], "weights"),
    Method(
        "continuous-graph", NeuralGraph, _CONTINUOUS, [(DNW, {})], "weights", _SOLVER, slow=True
    ),
    Method(
        "random-edges",
        NeuralGraph,
        _GRAPH,
        [(RandomEdges, {"seed": 3})],
        without=_LIKE_GRAPH,
        slow=True,
    ),
    Method(
        "no-update-rule",
        NeuralGraph,
        _GRAPH,
        [(NoUpdateRule, {})],
        "weights",
        _LIKE_GRAPH,
        optimizer=(AdamW, {"lr": 0.01, "weight_decay": 0.1}),
        slow=True,
    ),
    Method(
        "l1-anneal",
        NeuralGraph,
        _GRAPH,
        [(L1Anneal, {"penalty": 1e-4, "freeze_epoch": 1})],
        "weights",
        epochs=2,
    ),
    Method("targeted-dropout", NeuralGraph, _GRAPH, [(TargetedDropout, {"rho": 0.5})], "weights"),
    Method(
        "prune-and-retrain",
        NeuralGraph,
        _GRAPH,
        [(PruneAndRetrain, {"dense_epochs": 1, "rewind": True})],
        "weights",
        _LIKE_GRAPH,
        epochs=2,
        slow=True,
    ),
    Method(
        "sparse-layers",
        ResNeXt,
        _RESNEXT | {"wiring": "full"},
        [(DNW, {"density": 0.3, "first_dense": True})],
        "weights",
    ),
    Method(
        "rigl",
        TwoLayers,
        {},
        [(RigL, {"density": 0.3, "distribution": "erk", "delta_t": 2, "total_steps": 12})],
        "weights",
    ),
    Method(
        "set",
        TwoLayers,
        {},
        [(SET, _SPARSE | {"every": 2, "unit": "step"})],
        "weights",
        without=_LIKE_RIGL,
        slow=True,
    ),
    Method(
        "mask-schedule",
        TwoLayers,
        {},
        [
            (
                MaskSchedule,
                _SPARSE | {"every": 2, "fraction": 0.2, "drop": "sensitivity", "grow": "momentum"},
            )
        ],
        "weights",
        slow=True,
    ),
    Method(
        "gradual-pruning",
        NeuralGraph,
        _GRAPH,
        [(GradualPruning, {"every": 1, "total_steps": 12})],
        "weights",
        without=_PRUNED,
        slow=True,
    ),
    Method(
        "ac-dc",
        TwoLayers,
        {},
        [(ACDC, _SPARSE | {"every": 2, "unit": "step"})],
        "weights",
        without=_LIKE_RIGL,
        slow=True,
    ),
    Method("n-of-m", TwoLayers, {}, [(NMSparsity, {})], "weights", slow=True),
    Method("prune-at-start", NeuralGraph, _GRAPH, [(PruneAtStart, {})], without=_PRUNED, slow=True),
    Method("snip", NeuralGraph, _GRAPH, [(SNIP, {})], without=_PRUNED, slow=True),
    Method(
        "mobilenet-dnw",
        MobileNetV1DNW,
        {"width": 0.5, "stem_channels": 2} | _DIGITS,
        [(DNW, {})],
        "weights",
    ),
    Method(
        "mobilenet",
        MobileNetV1,
        {"width": 0.1} | _DIGITS,
        without={"accuracy": "four of its strides are too many for 8 x 8 pixels"},
        slow=True,
    ),
    Method("sparsenet", SparseNet, _SPARSENET),
    Method("sparse-resnet", SparseResNet, {"depth": 20} | _DIGITS),
    Method(
        "resnet-fabric",
        ResNetFabric,
        _RESNET_FABRIC,
        [(BudgetedSearch, {"budget": 1e6, "relative_penalty": 10.0, "lr": 3.0})],
        "scores",
        _PER_EXAMPLE,
    ),
    Method(
        "conv-fabric",
        ConvFabric,
        _CONV_FABRIC,
        [(BudgetedSearch, {"budget": 8, "cost": "sequential_steps", "machines": 2, "lr": 3.0})],
        "scores",
        _PER_EXAMPLE,
    ),
    Method(
        "outside",
        TwoLayers,
        {},
        [(LargestWeights, {"layer": "backbone.second", "k": 2550})],
        "weights",
    ),
]
# One method for each network, for tests that never train.
NETWORKS = list({str((m.backbone, m.arguments)): m for m in reversed(METHODS)}.values())
# One method for each learner, and one without, for tests of what learners do in any network.
LEARNERS = list({str(m.callbacks): m for m in reversed(METHODS)}.values())
LEARNING = [method for method in METHODS if method.learns != "nothing"]
# In the other learning ones the weights are the scores, and the user's optimizer moves them.
SCORED = [method for method in METHODS if method.learns == "scores"]


def over(
    methods: Sequence[Method], *suites: Suite, slow: Collection[str] = ()
) -> pytest.MarkDecorator:
    """Run a test for each of some methods; where a suite makes no sense, skip and say why.

    Rows of the names in `slow` are slow ones in this test.
    """
    rows = []
    for method in methods:
        reasons = [reason for suite, reason in method.without.items() if suite in suites]
        marks = [pytest.mark.slow] if method.slow or method.name in slow else []
        if reasons:
            marks.append(pytest.mark.skip(reason=f"{method.name}: {reasons[0]}"))
        rows.append(pytest.param(method, id=method.name, marks=marks))
    return pytest.mark.parametrize("method", rows)


def named(name: str) -> Method:
    """The method of a name."""
    return next(method for method in METHODS if method.name == name)


def digits(batch_size: int = 64, augment: bool = True) -> Digits:
    return Digits(batch_size=batch_size, augment=augment)


def freeze_batch_norm(module: LightningModule) -> None:
    """Statistics of a batch differ between one process and two; without them results must not."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.eval()
