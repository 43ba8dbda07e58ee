"""Files that are read, or not; files that stay; and networks that cannot be exported."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wiring_lightning.export.writing as writing
from tests.cli.commands import ROOT
from tests.outside import TwoLayers
from wiring_lightning.backbones import NeuralGraph, ResNeXt
from wiring_lightning.export import (
    DescribedNetwork,
    ExportError,
    describe,
    export_network,
    load_exported,
    plain_network,
    trace,
)
from wiring_lightning.nn import Gate


class Tiny(nn.Module):
    """A convolution and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = nn.Conv2d(1, 4, 3)  # a name that torch's own graphs use
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.graph(images)).relu().mean((2, 3))


IMAGES = torch.randn(6, 1, 6, 6)


def test_a_pt2_file_is_read_only_if_it_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    export_network(Tiny(), path, IMAGES)
    with pytest.raises(ExportError, match="trust=True"):
        load_exported(path)
    loaded = load_exported(path, trust=True)
    assert not loaded.eval().training
    assert loaded.train().training
    content = path.read_bytes()
    assert str(ROOT).encode() not in content  # no paths of this machine
    (tmp_path / "bad.pt2").write_bytes(content[: len(content) // 2])
    with pytest.raises(ExportError, match="is damaged or is none"):
        load_exported(tmp_path / "bad.pt2", trust=True)


def test_names_and_ends_of_files_are_checked(tmp_path: Path) -> None:
    for path in ("net.ckpt", "net"):
        with pytest.raises(ExportError, match="must end in"):
            load_exported(tmp_path / path)
        with pytest.raises(ExportError, match="must end in"):
            export_network(Tiny(), tmp_path / path, IMAGES)
    with pytest.raises(ExportError, match="There is no file"):
        load_exported(tmp_path / "net.onnx")
    with pytest.raises(ExportError, match="images must be"):
        export_network(Tiny(), tmp_path / "net.pt2", IMAGES[0])


def test_a_file_that_is_wrong_does_not_replace_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"an earlier network")

    def double(program: Any) -> bytes:
        weight = program.state_dict["network.graph.weight"]
        program.state_dict["network.graph.weight"] = nn.Parameter(2 * weight)
        return write(program)

    def full(program: Any) -> bytes:
        raise OSError(28, "No space left on device")

    write = writing._WRITERS[".pt2"]
    for writer, error in ((double, ExportError), (full, OSError)):
        monkeypatch.setitem(writing._WRITERS, ".pt2", writer)
        with pytest.raises(error, match=r"logits differ by|No space left"):
            export_network(Tiny().eval(), path, IMAGES)
        assert path.read_bytes() == b"an earlier network"
        assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]


class Branches(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) if float(images.sum()) > 0 else images.sum((2, 3))


class OneSize(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) * float(len(images))


@pytest.mark.parametrize("network", [Branches(), OneSize()])
def test_what_cannot_be_traced_is_said(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"{type(network).__name__} cannot be exported"):
        export_network(network, tmp_path / "net.pt2", IMAGES)
    assert not list(tmp_path.iterdir())


class Wrong(TwoLayers):
    """A network whose compact form is another function."""

    def compact(self) -> Any:
        small = super().compact()
        small.classifier.bias.data += 1
        return small


def test_a_compact_form_that_is_another_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"compact\(\) is not the same function"):
        export_network(Wrong(), tmp_path / "net.pt2", torch.randn(6, 1, 8, 8))
    assert not list(tmp_path.iterdir())


def test_states_that_are_rectified_depend_on_the_steps_of_the_solver(tmp_path: Path) -> None:
    torch.manual_seed(0)
    kinds = {"nodes": 30, "inputs": 4, "outputs": 6, "edges": 30, "strides": (1, 1)}
    network = NeuralGraph("continuous", image_size=8, rectify_states=True, **kinds).eval()
    small, images = network.compact(), torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        answers = small(images), network(images), tmp_path / "net.pt2", 1e-4
    with pytest.raises(ExportError, match=r"with rectify_states they depend on the steps .*\.$"):
        writing._check_source(network, *answers)


def test_a_network_inside_another_one_becomes_compact_and_stays_as_it_was() -> None:
    network = nn.Sequential(nn.Identity(), ResNeXt(11, 2, 2, 1, in_channels=1))
    before = network.train().state_dict()
    plain = plain_network(network)
    assert not any(isinstance(module, Gate) for module in plain.modules())
    assert any(isinstance(module, Gate) for module in network.modules())
    assert network[1].training
    assert not plain.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@cache
def _plain_text() -> tuple[str, dict[str, Tensor]]:
    description, weights = describe(trace(Tiny(), IMAGES[0], sparse=True))
    return json.dumps(description), weights


def _described() -> tuple[dict[str, Any], dict[str, Tensor]]:
    text, weights = _plain_text()
    return json.loads(text), {name: value.clone() for name, value in weights.items()}


def test_a_described_network_can_be_trained_further() -> None:
    network = DescribedNetwork(*_described())
    names = [name for name, _ in network.named_parameters()]
    assert names == [
        "weights.graph.weight", "weights.graph.bias", "weights.norm.weight", "weights.norm.bias"
    ]  # fmt: skip
    network(IMAGES).sum().backward()
    assert all(value.grad is not None for value in network.parameters())
    double = network.double()
    torch.testing.assert_close(double(IMAGES.double()).float(), network.float()(IMAGES))
    with pytest.raises(ValueError, match=r"exported for images \['batch', 1, 6, 6\]"):
        network(IMAGES[:, :, :5])


def _first_step(description: dict[str, Any]) -> dict[str, Any]:
    step: dict[str, Any] = description["graphs"]["main"]["steps"][0]
    return step


EVIL = {
    "an operator that reads files": lambda d: _first_step(d).update(op="aten.from_file.default"),
    "a function of Python": lambda d: _first_step(d).update(op="os.system"),
    "a function of operator": lambda d: _first_step(d).update(op="operator.attrgetter"),
    "an attribute of torch.ops": lambda d: _first_step(d).update(op="aten.__class__.__init__"),
    "another namespace": lambda d: _first_step(d).update(op="prim.device.default"),
    "a value from later": lambda d: _first_step(d).update(args=[{"value": 99}]),
    "a weight that is not there": lambda d: _first_step(d).update(args=[{"weight": "x"}]),
    "an object": lambda d: _first_step(d).update(args=[{"module": "os"}]),
    "a type that is none": lambda d: _first_step(d).update(args=[{"dtype": "load"}]),
    "no graph": lambda d: d.update(graphs={}),
    "a later version": lambda d: d.update(version=2),
    "something else": lambda d: d.update(format="x"),
}


@pytest.mark.parametrize("case", EVIL)
def test_a_description_runs_nothing_else(case: str) -> None:
    description, weights = _described()
    DescribedNetwork(description, weights)
    EVIL[case](description)
    with pytest.raises(ExportError):
        DescribedNetwork(description, weights)


def test_damaged_safetensors_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / "net.safetensors"
    export_network(Tiny(), path, IMAGES)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-3] ^= 1  # one bit of one weight
    other = re.sub(rb"wiring_lightning.network", b"wiring_lightning.notwork", content)
    for damaged in (content[:-4], bytes(flipped), other, b"", b"hello", content[:100]):
        path.write_bytes(damaged)
        with pytest.raises(ExportError, match=re.escape(str(path))):
            load_exported(path)
    path.write_bytes(content)
    load_exported(path)


@pytest.mark.slow
def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    code = """
import sys
for name in ("onnxruntime", "safetensors", "safetensors.torch"):
    sys.modules[name] = None
import torch, wiring_lightning as wl
for suffix in ("onnx", "safetensors"):
    try:
        wl.export.export_network(torch.nn.ReLU(), f"net.{suffix}", torch.ones(2, 1, 4, 4))
    except wl.export.ExportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                          text=True, env={"PYTHONPATH": str(ROOT)})  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    for line, name in zip(lines, ("onnxruntime", "safetensors"), strict=True):
        assert name in line
        assert line.endswith("pip install 'wiring_lightning[export]'")
    assert not list(tmp_path.iterdir())


class NeverRun(nn.Module):
    """A network that takes long."""

    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError("it was run")


@pytest.mark.parametrize("place", ["taken/net.pt2", "folder.pt2", "taken/deeper/net.onnx"])
def test_a_place_that_cannot_be_written_is_found_before_the_work(
    place: str, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_bytes(b"mine")
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(OSError, match=r"cannot be written: .*(no folder|is no file)"):
        export_network(NeverRun(), tmp_path / place, torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 2, 2)])
def test_images_that_a_network_cannot_compute_are_named(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    said = re.escape(f"Tiny cannot compute images of shape {list(shape[1:])}: ")
    with pytest.raises(ExportError, match=said) as caught:
        export_network(Tiny(), tmp_path / "net.pt2", torch.zeros(shape))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
