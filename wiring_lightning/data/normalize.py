"""From bytes to network inputs: scale to [0, 1], then centre with training-set statistics."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Normalization = Literal["pixel_mean", "channel_mean_std", "symmetric"]
"""``pixel_mean`` subtracts the mean image; ``channel_mean_std`` standardises each channel;
``symmetric`` maps black to -1 and white to 1.
"""


def pixel_mean(images: Tensor) -> Tensor:
    """Return the mean image of a set, in units of [0, 1].

    Args:
        images: Bytes, shape [N, C, H, W].

    Returns:
        Mean of each pixel position and channel, float32 of shape [C, H, W]. The sums are integers,
        so the result does not depend on the order of the images.

    Example:
        >>> pixel_mean(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
        tensor([[[0.5000]]])
    """
    # 32 bits suffice for the sum of 8 million bytes, and are eight times as fast as 64.
    total = images.sum(dim=0, dtype=torch.int32)
    return (total.double() / (255 * len(images))).float()


def channel_mean_std(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each colour channel, in units of [0, 1].

    Args:
        images: Bytes, shape [N, C, H, W].

    Returns:
        Mean and population standard deviation, both float32 of shape [C, 1, 1].

    Example:
        >>> mean, std = channel_mean_std(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
        >>> mean.item(), std.item()
        (0.5, 0.5)
    """
    levels = torch.arange(256, dtype=torch.float64, device="cpu") / 255
    # From histograms, which need no float copy of the whole set.
    counts = torch.stack(
        [torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]
    ).cpu()
    weights = counts.double() / counts.sum(dim=1, keepdim=True)
    mean = weights @ levels
    variance = (weights * (levels - mean[:, None]) ** 2).sum(dim=1)
    return mean.float().view(-1, 1, 1), variance.sqrt().float().view(-1, 1, 1)


@dataclass(frozen=True, eq=False)
class Normalizer:
    """Turn bytes into centred floats: ``(images / 255 - mean) / std``.

    It works on any device: mean and deviation are copied to it once.

    Args:
        mean: Subtracted after scaling to [0, 1]; broadcasts against [C, H, W].
        std: Divisor after that, or None.

    Example:
        >>> images = torch.tensor([51, 102], dtype=torch.uint8).view(2, 1, 1, 1)
        >>> normalizer = Normalizer.fit(images, "pixel_mean")
        >>> normalizer(images).flatten()
        tensor([-0.1000,  0.1000])
    """

    mean: Tensor
    std: Tensor | None = None
    _copies: dict[torch.device, "Normalizer"] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def fit(cls, images: Tensor, kind: Normalization) -> "Normalizer":
        """Measure the statistics of a training set.

        Args:
            images: The training images only, bytes of shape [N, C, H, W].
            kind: Which statistics to use.

        Raises:
            ValueError: If ``kind`` is not a known normalization.
        """
        if kind == "pixel_mean":
            return cls(pixel_mean(images))
        if kind == "channel_mean_std":
            mean, std = channel_mean_std(images)
            # A constant channel has a deviation of zero; it becomes zero, not NaN.
            return cls(mean, std.clamp_min(1e-6))
        if kind == "symmetric":
            half = torch.full((1, 1, 1), 0.5, device=images.device)
            return cls(half, half)
        raise ValueError(
            f"normalization must be 'pixel_mean', 'channel_mean_std' or 'symmetric', got {kind!r}."
        )

    def to(self, device: torch.device) -> "Normalizer":
        """Return a normalizer whose tensors are on ``device``, the same one each time."""
        if device == self.mean.device:
            return self
        if device not in self._copies:
            # Training may use tensors that were copied during an evaluation.
            with torch.inference_mode(False):
                std = None if self.std is None else self.std.to(device)
                self._copies[device] = Normalizer(self.mean.to(device), std)
        return self._copies[device]

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise bytes of shape [B, C, H, W] to new floats, float32 of the same shape."""
        own = self.to(images.device)
        # Only the copy is changed in place: floats would be the caller's own.
        floats = images.to(torch.float32, copy=True).div_(255).sub_(own.mean)
        return floats if own.std is None else floats.div_(own.std)
