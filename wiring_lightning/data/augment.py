"""Crop-and-mirror augmentation of whole batches, with the random numbers passed in."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


def random_crop_flip(images: Tensor, offsets: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Pad every image with zeros, cut a window of the old size out of it, and mirror some.

    Call it on *normalised* images: a zero is then the mean colour, so the frame that a shifted
    window uncovers is neutral instead of black.

    Args:
        images: Normalised images, shape [B, C, H, W].
        offsets: Row and column of each window's upper left corner in the padded image, in pixels
            from 0 to ``2 * padding``, integers of shape [B, 2]. ``padding`` means "not shifted".
        flips: Whether to mirror each window left to right, booleans of shape [B].
        padding: Width of the zero frame in pixels.

    Returns:
        The windows, same shape and dtype as ``images``, in contiguous memory.

    Example:
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> random_crop_flip(image, torch.tensor([[0, 1]]), torch.tensor([True]), padding=1)
        tensor([[[[0., 0.],
                  [2., 1.]]]])
    """
    batch, channels, height, width = images.shape
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
    """The usual augmentation of small images: shift by a few pixels and mirror half of them.

    Drawing the random numbers is kept apart from using them, so that a loader can draw them for
    a whole epoch at once and every sample gets the same ones however the epoch is cut up.

    Args:
        padding: Largest shift in each direction, in pixels; 0 turns shifting off.
        flip: Whether to mirror each image left to right with probability one half.

    Raises:
        ValueError: If ``padding`` is negative.

    Example:
        >>> augment = CropFlip(padding=4)
        >>> offsets, flips = augment.draw(2, torch.Generator().manual_seed(0))
        >>> augment(torch.zeros(2, 3, 32, 32), offsets, flips).shape
        torch.Size([2, 3, 32, 32])
    """

    padding: int
    flip: bool = True

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.padding < 0:
            raise ValueError(f"padding must be at least 0 pixels, got {self.padding}.")

    def draw(self, num_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the random numbers for ``num_samples`` images.

        Args:
            num_samples: How many images, N.
            generator: Source of the random numbers; the result lives on its device.

        Returns:
            Window offsets, int64 of shape [N, 2], and mirror flags, bool of shape [N].
        """
        device = generator.device
        offsets = torch.randint(
            2 * self.padding + 1, (num_samples, 2), generator=generator, device=device
        )
        flips = torch.rand(num_samples, generator=generator, device=device) < 0.5
        return offsets, flips & self.flip

    def __call__(self, images: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
        """Apply drawn numbers to normalised images, see :func:`random_crop_flip`."""
        return random_crop_flip(images, offsets, flips, self.padding)
