"""Read one image file, upright and in 8 bits."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.ExifTags import Base
from PIL.Image import Transpose
from torch import Tensor

from wiring_lightning.data._find_files import UNREAD_ENDINGS

_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""The operation that turns an image upright, by its EXIF orientation."""


class ImageFileError(RuntimeError):
    """An image file that cannot be read."""


def read_image(path: str, in_color: bool = True, on_white: bool = True) -> Image.Image:
    """Read one image file, upright by its EXIF orientation.

    Args:
        path: The file.
        in_color: Whether to convert to 8 bits each of red, green and blue. Otherwise the numbers in
            the file are returned, except for a GIF file: saving it renumbers its colours, so its
            grey levels or colours are returned.
        on_white: Whether colours show what is transparent on white paper; otherwise transparency
            is left out, and the colours are those in the file.

    Raises:
        ImageFileError: If it is damaged, not an image, not a regular file, or has numbers of
            unknown range where colours are needed.
    """
    try:
        if not Path(path).is_file() and Path(path).exists():
            raise OSError(0, "it is a folder, a pipe, a socket or a device")
        with Image.open(path) as image:
            image.load()
            turn = _UPRIGHT.get(image.getexif().get(Base.Orientation, 1))
            picture = image if turn is None else image.transpose(turn)
            if in_color:
                return _eight_bit_color(picture, path, image.format, on_white)
            return _without_palette(picture) if image.format == "GIF" else picture.copy()
    except ImageFileError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many classes
        # Only errors of the operating system have a readable text.
        reason = getattr(error, "strerror", None) or "it is damaged or no image"
        if isinstance(error, Image.DecompressionBombError):
            reason = "it has too many pixels"
        if path.lower().endswith(UNREAD_ENDINGS):
            raise ImageFileError(
                f"The image file '{path}' is of a kind that cannot be read; save it as PNG or JPEG."
            ) from error
        raise ImageFileError(
            f"The image file '{path}' cannot be read ({reason}); replace it with an intact copy."
        ) from error


def pixels(image: Image.Image) -> Tensor:
    """Return the bytes of an image in colour, uint8 of shape [3, H, W].

    Example:
        >>> pixels(Image.new("RGB", (2, 1), (7, 8, 9))).tolist()
        [[[7, 7]], [[8, 8]], [[9, 9]]]
    """
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _eight_bit_color(
    image: Image.Image, path: str, kind: str | None, on_white: bool
) -> Image.Image:
    """The image in 8 bits each of red, green and blue; ``kind`` is the format of its file."""
    if image.mode.startswith("I"):  # 16 bits, in some files stored as 32
        return _upper_bits(image, path, kind, on_white).convert("RGB")
    if image.mode == "F":
        raise ImageFileError(
            f"The image file '{path}' holds floating-point numbers, whose range is not known; "
            "save it with 8 or 16 bits per channel."
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if on_white:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _upper_bits(image: Image.Image, path: str, kind: str | None, on_white: bool) -> Image.Image:
    """The grey levels of an image with 16 bits, in 8."""
    numbers = np.asarray(image)
    highest = int(numbers.max())
    if numbers.min() < 0 or highest >= 2**16:
        raise ImageFileError(
            f"The image file '{path}' holds numbers from {numbers.min()} to {highest}, outside 0 "
            "to 65535; save it with 8 or 16 bits per channel."
        )
    # A PGM file tells its white. Of others, 8 bits would leave nothing of such a picture but black.
    if kind != "PPM" and 0 < highest < 2**8:
        bits = "more than 16 bits" if kind == "TIFF" and image.mode == "I" else "16 bits"
        raise ImageFileError(
            f"The image file '{path}' holds numbers up to {highest} in {bits}, so white may be 255 "
            "or 65535; save it with 8 bits per channel, or brighten it if it is so dark."
        )
    levels = (numbers >> 8).astype(np.uint8)  # as Pillow does it with 16-bit colours
    transparent = image.info.get("transparency")
    if on_white and isinstance(transparent, int):  # one level of a PNG file
        levels[numbers == transparent] = 255
    return Image.fromarray(levels)


def _without_palette(image: Image.Image) -> Image.Image:
    """The grey levels of an image, or its colours if it has any."""
    colors = image.convert("RGB")
    red, green, blue = colors.split()
    return red if red == green == blue else colors
