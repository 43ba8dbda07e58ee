"""What evaluation shows of pictures of any shape: what torchvision's own transforms show."""

from typing import Any

import pytest
import torch
from PIL import Image
from torchvision import transforms

from tests.data.image_folders import pixels_of
from wiring_lightning.data import ImageFolder, ImageNet


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(pixels_of("any", (height, width)).permute(1, 2, 0).numpy())


def expected(image: Image.Image, resize: int, size: int) -> torch.Tensor:
    steps = [transforms.Resize(resize), transforms.CenterCrop(size), transforms.PILToTensor()]
    return transforms.Compose(steps)(image)


@pytest.mark.parametrize("shape", [(8, 8), (9, 61), (60, 9), (500, 375), (33, 250), (7, 7), (1, 7)])
@pytest.mark.parametrize("grey", [False, True])
def test_ordinary_pictures_are_those_of_torchvision(shape: tuple[int, int], grey: bool) -> None:
    image = picture(*shape)
    data = ImageFolder("any", image_size=21, resize=24, grey=grey)
    seen = data.transform(train=False)(image)
    assert torch.equal(seen, expected(image.convert("L") if grey else image, 24, 21))


# Smaller and larger than what is made of them, with sides whose centre lies between two pixels.
@pytest.mark.parametrize("shape", [(1, 8), (1, 900), (2, 311), (3, 1000), (40, 700), (100, 3001)])
@pytest.mark.parametrize(("resize", "size"), [(24, 21), (24, 24), (9, 4), (10, 7)])
def test_thin_pictures_are_those_of_torchvision(
    shape: tuple[int, int], resize: int, size: int
) -> None:
    data = ImageFolder("any", image_size=size, resize=resize)
    for width, height in (shape, shape[::-1]):
        image = picture(width, height)
        seen = data.transform(train=False)(image)
        wanted = expected(image, resize, size)
        assert seen.shape == wanted.shape
        assert (seen.int() - wanted.int()).abs().max() <= 1


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (3, 70_000)])
def test_a_thin_picture_takes_no_more_memory_than_others(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], train: bool
) -> None:
    made = []
    resize = Image.Image.resize

    def noted(image: Image.Image, size: Any, *arguments: Any, **options: Any) -> Image.Image:
        made.append(size)
        assert size[0] * size[1] < 10 * 256 * 256, "it would take long"
        return resize(image, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", noted)
    seen = ImageNet("any").transform(train)(picture(*shape))
    assert seen.shape == (3, 224, 224)
    assert made
