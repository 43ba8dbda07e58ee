"""Image files: which ones are in a folder, and reading one of them."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of :class:`torchvision.datasets.ImageFolder`."""

# What Pillow's decoders raise on files that are not as they should be.
_DAMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def image_files(folder: Path) -> list[str]:
    """Return the paths of the images in a folder and below, sorted within each folder."""
    folders = sorted(os.walk(folder, followlinks=True))
    paths = (Path(parent, name) for parent, _, names in folders for name in sorted(names))
    return [str(path) for path in paths if path.suffix.lower() in IMAGE_ENDINGS]


class DamagedImageError(RuntimeError):
    """An image file that cannot be read."""


def read_image(path: str, in_color: bool = True) -> Image.Image:
    """Read one image file.

    Args:
        path: The file.
        in_color: Whether to return red, green and blue whatever is in the file.

    Raises:
        DamagedImageError: If it is damaged, no image, or cannot be opened.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB") if in_color else image.copy()
    except _DAMAGE as error:
        # Only the operating system's errors come with a text of their own.
        reason = getattr(error, "strerror", None) or "it is damaged or no image"
        raise DamagedImageError(
            f"The image file '{path}' cannot be read ({reason}); replace it with an intact copy."
        ) from error


def pixels(image: Image.Image) -> Tensor:
    """Return the bytes of an image in colour, uint8 of shape [3, H, W].

    Example:
        >>> pixels(Image.new("RGB", (2, 1), (7, 8, 9))).tolist()
        [[[7, 7]], [[8, 8]], [[9, 9]]]
    """
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
