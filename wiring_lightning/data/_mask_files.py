"""Read masks: image files with the class of each pixel, as a number or as a colour."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

IGNORED = 255
"""The label of pixels without a class, in files and in tensors."""

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


def classes_of_numbers(image: Image, num_classes: int, path: str) -> Tensor:
    """Return the numbers in an image of one channel.

    Args:
        image: The mask. If the image has its own palette, its indices are used.
        num_classes: Number of classes.
        path: Path of its file, for the error messages.

    Returns:
        The class of each pixel or :data:`IGNORED`, uint8 of shape [H, W].

    Raises:
        RuntimeError: If it has colours, numbers with a fraction, or a number that is no class.

    Example:
        >>> from PIL import Image
        >>> classes_of_numbers(Image.new("L", (3, 1), 2), num_classes=3, path="mask.png")
        tensor([[2, 2, 2]], dtype=torch.uint8)
    """
    if image.mode == "F":
        raise RuntimeError(
            f"The mask '{path}' holds floating-point numbers, where the number of each pixel's "
            "class is needed; save it with whole numbers."
        )
    if len(image.getbands()) > 1:
        raise RuntimeError(
            f"The mask '{path}' has colours (mode {image.mode}), where one channel with the number "
            "of each pixel's class is needed; convert it, or name the colours (--data.palette)."
        )
    numbers = torch.from_numpy(np.array(image).astype(np.int64))
    wrong = ((numbers < 0) | (numbers >= num_classes)) & (numbers != IGNORED)
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        raise RuntimeError(
            f"The mask '{path}' holds the number {int(numbers[row, column])} in row {row}, column "
            f"{column}, but there are classes 0 to {num_classes - 1}, and {IGNORED} for pixels "
            "without a class; correct the mask or the list of classes."
        )
    return numbers.to(torch.uint8)


def classes_of_colors(
    image: Image, palette: Sequence[Color], path: str, ignored: Color | None = None
) -> Tensor:
    """Return the classes of the colours of an image.

    Args:
        image: The mask, in colour.
        palette: The colour of each class.
        path: Path of its file, for the error messages.
        ignored: The colour of pixels without a class, if there is one.

    Returns:
        The class of each pixel or :data:`IGNORED`, uint8 of shape [H, W].

    Raises:
        RuntimeError: If it has a colour that is none of these.

    Example:
        >>> from PIL import Image
        >>> green = Image.new("RGB", (2, 1), (0, 255, 0))
        >>> classes_of_colors(green, [(255, 0, 0), (0, 255, 0)], "mask.png")
        tensor([[1, 1]], dtype=torch.uint8)
    """
    channels = np.array(image).astype(np.int32)
    colors = torch.from_numpy(channels @ np.array(_PLACES, dtype=np.int32))
    classes = torch.full(colors.shape, IGNORED, dtype=torch.uint8, device="cpu")
    unknown = torch.ones(colors.shape, dtype=torch.bool, device="cpu")
    named = [*enumerate(palette), *([] if ignored is None else [(IGNORED, ignored)])]
    for number, color in named:
        here = colors == sum(value * place for value, place in zip(color, _PLACES, strict=True))
        classes[here] = number
        unknown &= ~here
    if unknown.any():
        row, column = unknown.nonzero()[0].tolist()
        raise RuntimeError(
            f"The mask '{path}' has the colour {tuple(channels[row, column].tolist())} in row "
            f"{row}, column {column}, which stands for no class; the classes are "
            f"{', '.join(map(str, palette))}."
        )
    return classes


# Factors of red, green and blue that turn a colour into one number.
_PLACES = (1 << 16, 1 << 8, 1)
