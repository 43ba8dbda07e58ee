"""A checkpoint of another network is refused, also if all shapes agree; one of the same loads."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from tests.trainers import quiet_trainer, same_state
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
from wiring_lightning.callbacks import DNW, WarmStart
from wiring_lightning.checkpoints import CheckpointError, load_weights
from wiring_lightning.data import Digits
from wiring_lightning.nn import Adjacency, BernoulliGate, Described, Gate
from wiring_lightning.tasks import ClassificationTask

Build = Callable[..., nn.Module]


def resnext(**arguments: Any) -> ResNeXt:
    sizes = {"depth": 11, "width": 1, "cardinality": 4, "fan_in": 2, "in_channels": 1}
    return ResNeXt(**{**sizes, "image_size": 8, **arguments})


def resnet(**arguments: Any) -> ResNet:
    return ResNet(**{"depth": 20, "fan_in": 3, **arguments})


def dense_net(**arguments: Any) -> DenseNet:
    return DenseNet(**{"depth": 16, "growth": 2, "fan_in": 2, **arguments})


def sparse_net(**arguments: Any) -> SparseNet:
    return SparseNet(**{"depth": 13, "growth": 4, **arguments})


def sparse_resnet(**arguments: Any) -> SparseResNet:
    return SparseResNet(**{"depth": 29, **arguments})


def graph(**arguments: Any) -> NeuralGraph:
    sizes = {"nodes": 60, "inputs": 8, "outputs": 10, "edges": 300, "in_channels": 1, "depth": 3}
    return NeuralGraph(**{**sizes, "strides": (1, 1), "image_size": 8, **arguments})


def channels(**arguments: Any) -> MobileNetV1DNW:
    return MobileNetV1DNW(**{"width": 0.2, "stem_channels": 2, "in_channels": 1, **arguments})


def mobile_net(**arguments: Any) -> MobileNetV1:
    return MobileNetV1(**{"width": 0.1, **arguments})


def conv_fabric(**arguments: Any) -> ConvFabric:
    return ConvFabric(
        **{"columns": 3, "channels": 4, "scales": 2, "in_channels": 1, "image_size": 8, **arguments}
    )


def resnet_fabric(**arguments: Any) -> ResNetFabric:
    return ResNetFabric(**{"width": 1, "in_channels": 1, "image_size": 8, **arguments})


SOME_EDGES = ["stage1.block1.residual", "stage2.block1.residual", "stage2.block1.shortcut",
              "stage3.block1.residual", "stage3.block1.shortcut"]  # fmt: skip

# The builder, what the checkpoint has, what the config has, and what the sentence says.
OTHERS: list[tuple[Build, dict[str, Any], dict[str, Any], str]] = [
    (resnext, {}, {"fan_in": 3}, "fan_in is 2 there and 3 here"),
    (resnext, {}, {"identity": "sum"}, "identity is mean there and sum here"),
    (resnext, {"wiring": "full"}, {"wiring": "full", "identity": "sum"}, "identity is mean there"),
    (resnext, {}, {"wiring": "random"}, "wiring is learned there and random here"),
    (resnext, {"wiring": "real"}, {"wiring": "random"}, "wiring is real there and random here"),
    (resnext, {"stem": "mini_imagenet"}, {}, "stem is mini_imagenet there and cifar here"),
    (resnext, {"cardinality": 5}, {}, "cardinality is 5 there and 4 here"),
    (resnext, {}, {"depth": 20}, "depth is 11 there and 20 here"),
    (resnext, {}, {"fan_in": 3, "identity": "sum"}, "identity is mean there and sum here; fan_in"),
    (resnet, {}, {"fan_in": 5}, "fan_in is 3 there and 5 here"),
    (resnet, {"identity": "sum"}, {}, "identity is sum there and mean here"),
    (resnext, {"wiring": "random"}, {"wiring": "covered"}, "is random there and covered here"),
    (resnet, {}, {"wiring": "previous"}, "wiring is learned there and previous here"),
    (dense_net, {}, {"fan_in": 3}, "fan_in is 2 there and 3 here"),
    (dense_net, {}, {"wiring": "dense"}, "wiring is learned there and dense here"),
    (sparse_net, {}, {"pattern": "dense"}, "pattern is log there and dense here"),
    (sparse_net, {"base": 3}, {"base": 4}, "base is 3 there and 4 here"),
    (sparse_resnet, {}, {"pattern": "dense"}, "pattern is log there and dense here"),
    (sparse_resnet, {}, {"base": 3}, "base is 2 there and 3 here"),
    (graph, {"dynamics": "discrete"}, {"dynamics": "continuous"}, "dynamics is discrete there"),
    (graph, {}, {"edges": 200}, "edges is 300 there and 200 here"),
    (graph, {"wiring": "random"}, {}, "wiring is random there and learned here"),
    (graph, {}, {"strides": (2, 2)}, "strides is [1, 1] there and [2, 2] here"),
    (graph, {}, {"rank_all": True}, "rank_all is False there and True here"),
    (channels, {}, {"width": 0.3}, "width is 0.2 there and 0.3 here"),
    (channels, {}, {"stem": "imagenet"}, "stem is cifar there and imagenet here"),
    (mobile_net, {}, {"stem": "imagenet"}, "stem is cifar there and imagenet here"),
    (conv_fabric, {}, {"doubling": "last"}, "doubling is first there and last here"),
    (conv_fabric, {}, {"columns": 4}, "columns is 3 there and 4 here"),
    (resnet_fabric, {"architecture": "resnet"}, {"architecture": SOME_EDGES}, "edges is not the"),
]  # fmt: skip

# What does not change the function may differ.
ALIKE: list[tuple[Build, dict[str, Any], dict[str, Any]]] = [
    (resnext, {}, {"image_size": 32}),
    (resnext, {"wiring": "full"}, {"wiring": "full", "fan_in": 1}),
    (resnet, {"wiring": "previous"}, {"wiring": "previous", "fan_in": 1, "identity": "sum"}),
    (dense_net, {"wiring": "dense"}, {"wiring": "dense", "fan_in": 3}),
    (sparse_net, {}, {"growth": [4, 4, 4], "checkpointing": True, "shared_statistics": False}),
    (sparse_net, {"pattern": "dense"}, {"pattern": "dense", "base": 3}),
    (sparse_resnet, {"pattern": "dense"}, {"pattern": "dense", "base": 3}),
    (graph, {"dynamics": "continuous"}, {"dynamics": "continuous", "tolerance": 1e-2, "depth": 7}),
    (graph, {}, {"strides": [1, 1], "adjoint": True}),
    (channels, {}, {"image_size": 64}),
    (conv_fabric, {}, {"initial": 1.0}),
    (conv_fabric, {}, {"counting": "printed", "statistics": "batch"}),
    (resnet_fabric, {"architecture": "full"}, {"architecture": resnet_fabric().fabric.names}),
]


def saved(module: nn.Module, path: Path) -> Path:
    torch.save({"state_dict": module.state_dict()}, path)
    return path


@pytest.mark.parametrize(("build", "there", "here", "said"), OTHERS)
def test_a_checkpoint_of_another_network_is_refused(
    build: Build, there: dict[str, Any], here: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = saved(ClassificationTask(build(**there)), tmp_path / "other.ckpt")
    task = ClassificationTask(build(**here))
    before = deepcopy(task.state_dict())
    with pytest.raises(CheckpointError, match="belongs to another network") as error:
        load_weights(task, path)
    assert said in str(error.value)
    assert same_state(task.state_dict(), before)  # nothing was loaded
    load_weights(ClassificationTask(build(**there)), path)


@pytest.mark.parametrize(("build", "there", "here"), ALIKE)
def test_what_does_not_change_the_function_may_differ(
    build: Build, there: dict[str, Any], here: dict[str, Any], tmp_path: Path
) -> None:
    first, second = build(**there), build(**here)
    load_weights(second, saved(first, tmp_path / "same.ckpt"))
    assert same_state(first.state_dict(), second.state_dict())


@pytest.mark.parametrize("build", [resnext, resnet, dense_net, sparse_net, sparse_resnet, graph,
                                   channels, mobile_net, conv_fabric, resnet_fabric])  # fmt: skip
def test_a_description_adds_no_key_and_older_checkpoints_load(build: Build, tmp_path: Path) -> None:
    network = build()
    plain = dict(network.state_dict())
    parameters = {name for name, _ in network.named_parameters()}
    assert plain.keys() - {name for name, _ in network.named_buffers()} == parameters
    path = tmp_path / "old.ckpt"
    torch.save(plain, path)
    again = build()
    load_weights(again, path)
    assert same_state(again.state_dict(), plain)
    again.load_state_dict(torch.load(path, weights_only=True))


# What the weights themselves say, without any description

IMPOSSIBLE: list[tuple[Build, dict[str, Any], dict[str, Any], str]] = [
    (resnext, {}, {"fan_in": 3}, "has a target with 2 connections there and 3 here"),
    (resnext, {}, {"fan_in": 1}, "has a target with 2 connections there and 1 here"),
    (resnext, {"fan_in": 1, "wiring": "random"}, {"wiring": "random"}, "with 1 connections there"),
    (resnext, {"wiring": "real"}, {}, "has a target with 4 connections there and 2 here"),
    (resnext, {}, {"wiring": "real"}, "does not use all candidates"),
    (resnet, {}, {"fan_in": 5}, "has a target with 3 connections there and 4 here"),
    (dense_net, {"fan_in": 3}, {}, "has a target with 3 connections there and 2 here"),
    (graph, {}, {"edges": 299}, "has 300 edges there and 299 here"),
    (graph, {"wiring": "random"}, {"wiring": "random", "edges": 100}, "300 edges there and 100"),
    (graph, {"dynamics": "discrete"}, {}, "has an edge there where none can be here"),
    (channels, {"width": 0.3}, {}, "edges there and"),
]


@pytest.mark.parametrize(("build", "there", "here", "said"), IMPOSSIBLE)
def test_weights_that_a_network_cannot_have_are_refused_everywhere(
    build: Build, there: dict[str, Any], here: dict[str, Any], said: str, tmp_path: Path
) -> None:
    plain = dict(build(**there).state_dict())
    with pytest.raises(RuntimeError, match="in loading state_dict") as error:
        build(**here).load_state_dict(plain)
    assert said in str(error.value)
    torch.save(plain, tmp_path / "old.ckpt")
    with pytest.raises(CheckpointError, match="belongs to another network") as error:
        load_weights(build(**here), tmp_path / "old.ckpt")
    assert said in str(error.value)


@pytest.mark.parametrize("mode", ["learned", "random", "covered", "real"])
def test_gates_take_their_own_wiring_in_every_state(mode: str) -> None:
    allowed = torch.ones(4, 4, dtype=torch.bool).tril()
    for frozen in (False, True):
        gate = Gate(4, 4, 2, mode, allowed)
        if frozen:
            gate.freeze()
        plain = dict(gate.state_dict())
        Gate(4, 4, 2, mode, allowed).load_state_dict(plain)
        with pytest.raises(RuntimeError, match="for other candidates"):
            Gate(4, 4, 2, mode).load_state_dict(plain)
        with pytest.raises(RuntimeError, match="what is no candidate"):
            gate.load_state_dict({**plain, "active": torch.ones(4, 4, dtype=torch.bool)})


def test_layers_of_ones_own_network_are_described(tmp_path: Path) -> None:
    usable = torch.ones(6, 6, dtype=torch.bool).tril(-1)
    pairs: list[tuple[nn.Module, nn.Module, str]] = [
        (Gate(3, 4, 2), Gate(3, 4, 2, mode="random"), "mode is learned there and random here"),
        (Adjacency(usable, 5), Adjacency(usable, 4), "edges is 5 there and 4 here"),
        (Adjacency(usable, 5), Adjacency(usable, 5, rank_all=True), "rank_all is False there"),
        (BernoulliGate(3, [0, 0, 1], [1, 2, 2]), BernoulliGate(3, [0, 0, 0], [1, 2, 2]), "source"),
    ]
    for there, here, said in pairs:
        path = saved(nn.Sequential(nn.Identity(), there), tmp_path / "own.ckpt")
        with pytest.raises(CheckpointError, match="another network") as error:
            load_weights(nn.Sequential(nn.Identity(), here), path)
        assert said in str(error.value)


class Scaled(Described):
    """A backbone of a user."""

    num_classes = 10

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.describe(factor=factor)
        self.layer = nn.Linear(64, 10)
        self.factor = factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1)) * self.factor


class Renamed(Scaled):
    """It adds nothing to the function."""


def test_a_subclass_reads_its_base_and_not_the_other_way_round(tmp_path: Path) -> None:
    load_weights(Renamed(2.0), saved(Scaled(2.0), tmp_path / "base.ckpt"))
    with pytest.raises(CheckpointError, match="class is Renamed there and Scaled here"):
        load_weights(Scaled(2.0), saved(Renamed(2.0), tmp_path / "derived.ckpt"))
    with pytest.raises(CheckpointError, match=r"factor is 2.0 there and 3.0 here"):
        load_weights(Renamed(3.0), saved(Scaled(2.0), tmp_path / "base.ckpt"))


# Through a trainer


class Averages(Callback):
    """Saves weights as Lightning's `WeightAveraging` does, in a plain dict."""

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["state_dict"] = dict(checkpoint["state_dict"])


@pytest.mark.parametrize("callbacks", [[], [Averages()]])
@pytest.mark.parametrize("act", ["fit", "validate", "test", "predict"])
def test_a_trainer_refuses_it(act: str, callbacks: list[Callback], tmp_path: Path) -> None:
    data, path = Digits(batch_size=64), tmp_path / "fit.ckpt"
    trainer = quiet_trainer(limit_train_batches=1, callbacks=callbacks)
    trainer.fit(ClassificationTask(Scaled(2.0)), data)
    trainer.save_checkpoint(path)
    other = quiet_trainer(limit_predict_batches=1, limit_test_batches=1, max_epochs=2)
    with pytest.raises(CheckpointError, match=r"fit.ckpt .*factor is 2.0 there and 3.0 here"):
        getattr(other, act)(ClassificationTask(Scaled(3.0)), datamodule=data, ckpt_path=path)
    other = quiet_trainer(limit_predict_batches=1, limit_test_batches=1, max_epochs=1)
    getattr(other, act)(ClassificationTask(Scaled(2.0)), datamodule=data, ckpt_path=path)


def test_a_warm_start_refuses_it(tmp_path: Path) -> None:
    path = saved(ClassificationTask(graph(edges=200)), tmp_path / "graph.ckpt")
    trainer = quiet_trainer(callbacks=[DNW(), WarmStart(str(path))], limit_train_batches=1)
    with pytest.raises(CheckpointError, match="edges is 200 there and 300 here"):
        trainer.fit(ClassificationTask(graph()), Digits(batch_size=64))
