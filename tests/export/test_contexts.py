"""What is exported, loaded or compacted inside of autocast or inference mode is as outside."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

import wiring_lightning as wl
from tests.export.networks import images_for, made
from tests.methods import named
from wiring_lightning.export import SUFFIXES, export_network, load_exported, plain_network, trace
from wiring_lightning.tasks import ClassificationTask

CONTEXTS = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
}


def _images() -> Tensor:
    return images_for(named("resnext-learned"))


def _network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)
    return nn.Sequential(*layers).eval()


def _check_that_it_learns(network: nn.Module) -> None:
    network.train()(_images()).square().sum().backward()
    assert all(weight.grad is not None for weight in network.parameters() if weight.requires_grad)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_that_of_the_network(suffix: str, context: str, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    network, path = _network(), tmp_path / f"net{suffix}"
    with CONTEXTS[context]():
        done = export_network(network, path, _images())
        loaded = load_exported(path, trust=True)
    with torch.no_grad():
        expected = network(_images())
        torch.testing.assert_close(loaded(_images()), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(load_exported(path, trust=True)(_images()), loaded(_images()))
    assert done.difference < 1e-5
    if suffix != ".onnx":
        _check_that_it_learns(loaded)


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_traced_network_is_that_network(context: str) -> None:
    network = plain_network(_network())
    with CONTEXTS[context]():
        program = trace(network, _images()[0])
    with torch.no_grad():
        found = program.module()(_images())
        torch.testing.assert_close(found, network(_images()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["resnext-learned", "mobilenet-dnw", "conv-fabric", "sparsenet"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_a_compact_network_is_that_network(context: str, name: str) -> None:
    network = made(named(name)).eval()
    if name == "sparsenet":  # computed by products of matrices, which autocast rounds
        orthogonal(network.get_submodule("classifier"))
    with CONTEXTS[context]():
        small = network.compact()
    with torch.no_grad():
        torch.testing.assert_close(small(_images()), network(_images()), atol=1e-5, rtol=1e-5)
    _check_that_it_learns(small)


def test_a_task_that_is_loaded_in_inference_mode_learns(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    trainer = Trainer(logger=False, barebones=True)
    trainer.strategy.connect(ClassificationTask(made(named("resnet-learned"))))
    trainer.save_checkpoint(path)
    with torch.inference_mode():
        tasks = [ClassificationTask.load_from_checkpoint(path), wl.load(path)]
    for task in tasks:
        _check_that_it_learns(task.backbone)
