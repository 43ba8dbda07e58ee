"""Every network in every format computes the same logits, for any number of images."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from tests.export.networks import TRACED, images_for, made
from tests.methods import Method, over
from wiring_lightning.export import export_network, load_exported, tracing, writing
from wiring_lightning.nn import SparseEdges

FAST = ("rigl", "conv-fabric", "discrete-graph")
# torch itself writes the traced program, so one of each kind is enough: learned wirings, plain
# layers, and graphs, whose products of sparse matrices and loops of a solver stay what they are.
AS_PT2 = (
    "resnext-learned", "rigl", "neural-graph", "discrete-graph", "rectified-graph",
    "small-mobilenet-dnw",
)  # fmt: skip


@pytest.fixture(autouse=True)
def traced_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes longest, and a network is made with the same weights for all formats."""
    name = request.getfixturevalue("method").name
    monkeypatch.setattr(writing, "trace", _tracer(name))


@cache
def _tracer(_name: str) -> Callable[..., ExportedProgram]:
    """As `trace`, for one network only."""
    programs: dict[bool, ExportedProgram] = {}

    def trace(network: nn.Module, image: Tensor, sparse: bool = False) -> ExportedProgram:
        # Only a graph has products of sparse matrices, which one format keeps as they are.
        sparse = sparse and any(isinstance(module, SparseEdges) for module in network.modules())
        if sparse not in programs:
            programs[sparse] = tracing.trace(network, image, sparse)
        return programs[sparse]

    return trace


def _check(method: Method, suffix: str, folder: Path) -> nn.Module:
    """Export a network, read it, and compare with the compact network; give what was read."""
    network, images = made(method), images_for(method)
    path = folder / f"net{suffix}"
    export_network(network, path, images)
    loaded = load_exported(path, trust=True)
    plain = network.eval().compact() if hasattr(network, "compact") else network.eval()
    for count in (1, 2, 5):
        found, expected = _logits(loaded, images[:count]), _logits(plain, images[:count])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        if method.name != "rectified-graph":  # fewer states change the steps of the solver
            source = _logits(network, images[:count])
            torch.testing.assert_close(found, source, atol=1e-5, rtol=1e-5)
    assert _logits(loaded, images).std() > 1e-3  # the comparison says something
    return loaded


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images)


@over([method for method in TRACED if method.name in FAST])
def test_safetensors_of_some_networks(method: Method, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    loaded = _check(method, ".safetensors", tmp_path)
    assert type(loaded).__name__ == "DescribedNetwork"


@pytest.mark.slow
@over([method for method in TRACED if method.name not in FAST])
def test_safetensors_of_the_others(method: Method, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    _check(method, ".safetensors", tmp_path)


@over([method for method in TRACED if method.name == "conv-fabric"])
def test_pt2_of_some_networks(method: Method, tmp_path: Path) -> None:
    _check(method, ".pt2", tmp_path)


@pytest.mark.slow
@over([method for method in TRACED if method.name in AS_PT2])
def test_pt2_of_the_others(method: Method, tmp_path: Path) -> None:
    loaded = _check(method, ".pt2", tmp_path)
    # Whoever runs the program need not have this package.
    assert "wiring_lightning" not in str(loaded.program.graph)


@over([method for method in TRACED if method.name == "rigl"])
def test_onnx_of_one_network(method: Method, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    _check(method, ".onnx", tmp_path)


@pytest.mark.slow
@over(TRACED)
def test_onnx_of_every_network(method: Method, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    _check(method, ".onnx", tmp_path)
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    for value, name in ((model.graph.input[0], "images"), (model.graph.output[0], "logits")):
        assert value.name == name
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
