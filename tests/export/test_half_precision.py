"""Networks in half precision are compared by its rounding, or a sentence says what to do."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.export.networks import images_for, made
from tests.methods import named
from wiring_lightning.backbones import MobileNetV1DNW, ResNet
from wiring_lightning.export import ExportError, export_network, load_exported, writing
from wiring_lightning.nn import SparseEdges

HALF = (torch.bfloat16, torch.float16)
SMALL = {"width": 0.4, "stem_channels": 2, "small": True, "in_channels": 1, "image_size": 8}


def _images(channels: int) -> Tensor:
    return torch.randn(6, channels, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("fold", [False, True])
def test_a_compact_graph_computes_and_learns_in_half_precision(
    dtype: torch.dtype, small: bool, fold: bool
) -> None:
    torch.manual_seed(0)
    network = MobileNetV1DNW(**SMALL | {"small": small}).to(dtype).eval()
    images = _images(1).to(dtype)
    compact = network.compact(fold_batch_norm=fold)
    found, expected = compact(images), network(images)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
    found.sum().backward()
    graphs = [module for module in compact.modules() if isinstance(module, SparseEdges)]
    assert any(graph.values.grad is not None for graph in graphs)


@pytest.mark.parametrize("small", [False, True])
def test_autocast_gives_the_precision_that_a_convolution_gives(small: bool) -> None:
    network = MobileNetV1DNW(**SMALL | {"small": small}).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert network.compact()(_images(1)).dtype == network(_images(1)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        (".safetensors", torch.bfloat16),
        pytest.param(".pt2", torch.float16, marks=pytest.mark.slow),
    ],
)
def test_a_sparse_graph_is_exported_in_half_precision(
    suffix: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    method = named("discrete-graph")
    network, images = made(method).to(dtype), images_for(method).to(dtype)
    export_network(network, tmp_path / f"net{suffix}", images)
    assert load_exported(tmp_path / f"net{suffix}", trust=True)(images).dtype == dtype


@pytest.mark.slow
def test_float16_becomes_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = ResNet(8, fan_in=2, image_size=8).half()
    done = export_network(network, tmp_path / "net.onnx", _images(3).half())
    assert 1e-5 < done.difference < 1e-2


def test_bfloat16_has_no_onnx_form_and_that_is_said(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    network = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()).bfloat16()
    with pytest.raises(ExportError, match=r"does not compute in bfloat16 .*\.float\(\)"):
        export_network(network, tmp_path / "net.onnx", _images(1).bfloat16())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("dtypes", "bound"),
    [
        ([torch.float32], 1e-4),
        ([torch.float64, torch.float32], 1e-4),
        ([torch.float32, torch.bfloat16], 16 / 128),
        ([torch.float16], 16 / 1024),
    ],
)
def test_the_bound_is_that_of_the_least_precise_number(
    dtypes: list[torch.dtype], bound: float
) -> None:
    layers = nn.Sequential(*(nn.Linear(1, 1).to(dtype) for dtype in dtypes))
    assert writing._rounding(layers, torch.zeros(1)) == bound


class Failing(MobileNetV1DNW):
    """A network whose compact form cannot run."""

    def compact(self, fold_batch_norm: bool = False) -> nn.Module:
        return nn.Linear(3, 3)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2"])
def test_a_compact_form_that_fails_is_one_sentence(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^The compact form of Failing cannot compute") as said:
        export_network(Failing(**SMALL), tmp_path / f"net{suffix}", _images(1))
    assert "\n" not in str(said.value)


def test_a_file_that_cannot_be_read_again_has_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(writing._WRITERS, ".pt2", lambda _program: b"hello")
    network = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    with pytest.raises(ExportError, match=r"net\.pt2 was not written: .* another format") as said:
        export_network(network, tmp_path / "net.pt2", _images(1))
    assert "/." not in str(said.value)
    assert not list(tmp_path.iterdir())
