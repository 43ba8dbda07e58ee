"""Writing small folders of images, one subfolder per class, as a user's disk would hold them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from PIL import Image
from torch import Tensor

from wiring_lightning.data import ImageFolder

COUNTS = {"ant": 10, "bee": 5, "cat": 6}


def pixels_of(name: str, size: tuple[int, int]) -> Tensor:
    """What the image file of that name shows, uint8 of shape [3, height, width]."""
    generator = torch.Generator().manual_seed(crc32(name.encode()))
    return torch.randint(256, (3, *size), generator=generator).to(torch.uint8)


def write_image(path: Path, size: tuple[int, int] = (84, 84)) -> None:
    """Write the image that belongs to the name of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_of(path.name, size).permute(1, 2, 0).numpy()).save(path)


def write_classes(
    folder: Path, counts: Mapping[str, int], size: tuple[int, int] = (84, 84), start: int = 0
) -> Path:
    """Write `counts[name]` images for each class, numbered from `start`."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(start, start + count):
            write_image(folder / name / f"{name}{number:02}.png", size)
    return folder


def make(root: Path, stage: str = "fit", **options: Any) -> ImageFolder:
    options = {"batch_size": 4, "num_workers": 0, "image_size": 8, "resize": 12, **options}
    data = ImageFolder(str(root), **options)
    data.setup(stage)
    return data


def names(data: ImageFolder) -> list[list[str]]:
    return [
        [Path(path).relative_to(data.root).as_posix() for path in paths]
        for paths, _ in data._ready()
    ]
