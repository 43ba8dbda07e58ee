"""Images that a file was not exported for: each format says so in one sentence."""

from pathlib import Path

import pytest
import torch
from torch import nn

from wiring_lightning.export import export_network, load_exported
from wiring_lightning.export.image_check import check_images

IMAGES = torch.randn(6, 3, 8, 9, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[".safetensors", ".pt2", ".onnx"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> nn.Module:
    if request.param == ".onnx":
        pytest.importorskip("onnxruntime")
    path = tmp_path / f"net{request.param}"
    export_network(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), path, IMAGES)
    return load_exported(path, trust=True)


def test_another_shape_is_named(loaded: nn.Module) -> None:
    assert loaded(IMAGES[:1]).shape == (1, 84)
    for other in (IMAGES[..., :8], IMAGES[:, :1], IMAGES[0], IMAGES[None]):
        with pytest.raises(ValueError, match=r"exported for images \['batch', 3, 8, 9\], got"):
            loaded(other)


def test_another_dtype_is_named_where_there_is_only_one(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    export_network(nn.Conv2d(3, 2, 3), tmp_path / "net.onnx", IMAGES)
    loaded = load_exported(tmp_path / "net.onnx")
    for dtype in (torch.float64, torch.bfloat16, torch.uint8):
        with pytest.raises(ValueError, match=f"images of torch.float32, got {dtype}: convert"):
            loaded(IMAGES.to(dtype))


def test_a_size_that_is_free_can_be_any() -> None:
    check_images(IMAGES, (3, "height", None), torch.float32)
    with pytest.raises(ValueError, match="got"):
        check_images(IMAGES[:, :2], (3, "height", None))
