"""Crop and mirror augmentation of whole batches, with given random numbers."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad


def random_crop_flip(
    images: Tensor, offsets: Tensor, flips: Tensor, padding: int, margin: int = 0
) -> Tensor:
    """Pad every image with zeros, cut a window out of it, and mirror some of the windows.

    Call it on *normalised* images: there zero is the mean colour, so the padding has a neutral
    colour.

    Args:
        images: Normalised images, shape [B, C, H, W].
        offsets: Row and column of each window's upper left corner in the padded image, in pixels
            from 0 to ``2 * (padding + margin)``, integers of shape [B, 2]. ``padding + margin``
            is the centre.
        flips: Whether to mirror each window left to right, booleans of shape [B].
        padding: Width of the zero frame in pixels.
        margin: Number of pixels to cut off each side of ``images``.

    Returns:
        The windows [B, C, H - 2 * margin, W - 2 * margin], same dtype, in contiguous memory.

    Example:
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> random_crop_flip(image, torch.tensor([[0, 1]]), torch.tensor([True]), padding=1)
        tensor([[[[0., 0.],
                  [2., 1.]]]])
    """
    batch, channels = images.shape[:2]
    height, width = (size - 2 * margin for size in images.shape[2:])
    device = images.device
    rows = offsets[:, :1] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(batch, width)
    columns = offsets[:, 1:] + torch.where(flips[:, None], columns.flip(1), columns)
    return pad(images, [padding] * 4)[
        torch.arange(batch, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


@dataclass(frozen=True)
class CropFlip:
    """The usual augmentation of small images: a random crop, and half of the images are mirrored.

    With ``padding`` the images keep their size and are shifted by a few pixels; with ``margin`` a
    smaller window is cut out of them.

    A loader calls :meth:`draw` once for a whole epoch, so the random numbers of a sample do not
    depend on the batches.

    Args:
        padding: Width of the padding in pixels.
        flip: Whether to mirror each image left to right with probability one half.
        margin: Number of pixels to cut off each side.
        shift: Whether to place the window at random; otherwise it is in the centre.

    Raises:
        ValueError: If ``padding`` or ``margin`` is negative.

    Example:
        >>> augment = CropFlip(padding=4)
        >>> offsets, flips = augment.draw(2, torch.Generator().manual_seed(0))
        >>> augment(torch.zeros(2, 3, 32, 32), offsets, flips).shape
        torch.Size([2, 3, 32, 32])
        >>> augment = CropFlip(padding=0, margin=10)
        >>> augment(torch.zeros(2, 3, 84, 84), offsets, flips).shape
        torch.Size([2, 3, 64, 64])
    """

    padding: int
    flip: bool = True
    margin: int = 0
    shift: bool = True

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name, value in (("padding", self.padding), ("margin", self.margin)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0 pixels, got {value}.")

    def centred(self) -> "CropFlip":
        """Return a copy that is not random: the window is in the centre and never mirrored."""
        return replace(self, flip=False, shift=False)

    def draw(self, num_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the random numbers for ``num_samples`` images.

        Args:
            num_samples: How many images, N.
            generator: Random generator; the result is on its device.

        Returns:
            Window offsets, int64 of shape [N, 2], and mirror flags, bool of shape [N].
        """
        device = generator.device
        centre = self.padding + self.margin
        offsets = torch.randint(
            2 * centre + 1, (num_samples, 2), generator=generator, device=device
        )
        flips = torch.rand(num_samples, generator=generator, device=device) < 0.5
        return offsets if self.shift else torch.full_like(offsets, centre), flips & self.flip

    def __call__(self, images: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
        """Crop and mirror normalised images, see :func:`random_crop_flip`."""
        return random_crop_flip(images, offsets, flips, self.padding, self.margin)


@dataclass(frozen=True)
class Mirror:
    """Mirror half of the images left to right, and their masks with them.

    As with :class:`CropFlip`, a loader calls :meth:`draw` once for a whole epoch.

    Example:
        >>> mirror = Mirror()
        >>> mirror(torch.tensor([[[1, 2]], [[3, 4]]]), torch.tensor([True, False])).tolist()
        [[[2, 1]], [[3, 4]]]
    """

    def draw(self, num_samples: int, generator: torch.Generator) -> tuple[Tensor]:
        """Draw which of ``num_samples`` images to mirror, bool of shape [N]."""
        return (torch.rand(num_samples, generator=generator, device=generator.device) < 0.5,)

    def __call__(self, images: Tensor, flips: Tensor) -> Tensor:
        """Mirror the images [B, C, H, W], or masks [B, H, W], where ``flips`` is true."""
        flips = flips.view(-1, *[1] * (images.dim() - 1))
        return torch.where(flips, images.flip(-1), images)
