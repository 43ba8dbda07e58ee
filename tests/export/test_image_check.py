"""Images unlike those that a file was exported with: it computes them, or says so in a sentence."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from wiring_lightning.export import export_network, load_exported
from wiring_lightning.export.image_check import check_images

IMAGES = torch.randn(6, 3, 8, 9, generator=torch.Generator().manual_seed(1))
HWC = IMAGES.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # as from an array of pixels


class Flat(nn.Module):
    """Flattens its images, and what a convolution makes of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([images.flatten(1), self.conv(images).flatten(1)], 1)


@pytest.fixture(scope="module", params=[".safetensors", ".pt2", ".onnx"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == ".onnx":
        pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("flat") / f"net{request.param}"
    export_network(Flat(), path, HWC)
    return path


@pytest.fixture
def loaded(path: Path) -> nn.Module:
    return load_exported(path, trust=True)


def test_another_shape_is_named(loaded: nn.Module) -> None:
    assert loaded(IMAGES[:1]).shape == (1, 300)
    for other in (IMAGES[..., :8], IMAGES[:, :1], IMAGES[0], IMAGES[None]):
        with pytest.raises(ValueError, match=r"exported for images \['batch', 3, 8, 9\], got"):
            loaded(other)


def test_images_may_be_in_any_layout(loaded: nn.Module, path: Path) -> None:
    wanted = Flat()(IMAGES)
    layouts = IMAGES, HWC, IMAGES.flip(3).flip(3), IMAGES.mT.contiguous().mT, IMAGES[:1], HWC[:1]
    for images in layouts:
        torch.testing.assert_close(loaded(images), wanted[: len(images)], atol=1e-5, rtol=1e-5)
    if path.suffix == ".pt2":  # also without this package
        again = torch.export.load(path).module()(HWC)
        torch.testing.assert_close(again, wanted, atol=1e-5, rtol=1e-5)


def test_weights_may_be_in_any_layout(tmp_path: Path) -> None:
    class Permuted(Flat):
        def forward(self, images: Tensor) -> Tensor:
            return self.conv(images).permute(0, 2, 3, 1).flatten(1)

    for network in (Flat(), Permuted()):
        wanted, path = network(IMAGES), tmp_path / "net.safetensors"
        export_network(network.to(memory_format=torch.channels_last), path, IMAGES)
        loaded = load_exported(path)
        for layout in (torch.contiguous_format, torch.channels_last):
            found = loaded.to(memory_format=layout)(HWC)
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_another_dtype_is_named(loaded: nn.Module, path: Path) -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.uint8):
        with pytest.raises(ValueError, match=f"images of torch.float32, got {dtype}: convert"):
            loaded(IMAGES.to(dtype))
    if path.suffix == ".safetensors":
        wanted = Flat().double()(IMAGES.double())
        torch.testing.assert_close(loaded.double()(IMAGES.double()), wanted)
        with pytest.raises(ValueError, match=r"images of torch\.float64, got torch\.float32"):
            loaded(IMAGES)


@pytest.mark.slow
def test_bytes_can_be_the_images(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")

    class Bytes(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1).float() / 255

    images = torch.randint(256, IMAGES.shape).byte()
    export_network(Bytes(), tmp_path / "net.onnx", images)
    with pytest.raises(ValueError, match=r"images of torch\.uint8, got torch\.float32: convert"):
        load_exported(tmp_path / "net.onnx")(images.float())


def test_a_size_that_is_free_can_be_any() -> None:
    check_images(IMAGES, (3, "height", None), torch.float32)
    with pytest.raises(ValueError, match="got"):
        check_images(IMAGES[:, :2], (3, "height", None))
