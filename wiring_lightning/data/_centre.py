"""The centre of a picture, as evaluation shows it."""

from dataclasses import dataclass

from PIL.Image import Image, Resampling

_THIN = 8  # how many times as long as wide


@dataclass(frozen=True)
class CentreOfThin:
    """Resize the centre of a thin picture, and leave all other pictures as they are.

    Resizing all of it could take any amount of time and memory: a picture of 1x20000 pixels becomes
    one of 256x5120000. What comes out is what torchvision's ``Resize`` and ``CenterCrop`` would
    cut out of that, up to a rounding, and these two leave it as it is.

    Args:
        resize: Length of the shorter side that ``Resize`` makes.
        size: Length of the sides that ``CenterCrop`` leaves.
    """

    resize: int
    size: int

    def __call__(self, image: Image) -> Image:
        """Return the centre, a square with sides of length ``resize``."""
        width, height = image.size
        short, long = min(image.size), max(image.size)
        if long < _THIN * short:
            return image
        resized = int(self.resize * long / short)
        # Rounded as torchvision does it, for the whole crop and for the one that follows.
        start = round((resized - self.size) / 2.0) - round((self.resize - self.size) / 2.0)
        scale = long / resized
        first, last = start * scale, (start + self.resize) * scale
        # A new pixel is made of old ones up to `scale` away, or of the nearest two. They are cut
        # out first because Pillow takes places on a picture as numbers of seven digits.
        margin = max(scale, 1.0) + 1
        begin, end = max(0, int(first - margin)), min(long, int(last + margin) + 1)
        if width >= height:
            part, box = (begin, 0, end, height), (first - begin, 0.0, last - begin, float(height))
        else:
            part, box = (0, begin, width, end), (0.0, first - begin, float(width), last - begin)
        return image.crop(part).resize((self.resize, self.resize), Resampling.BILINEAR, box=box)
