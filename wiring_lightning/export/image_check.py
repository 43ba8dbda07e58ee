"""Whether images are of the kind that a network was exported for."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def check_images(images: Tensor, shape: Sequence[Any], dtype: torch.dtype | None = None) -> None:
    """Refuse images that an exported network cannot compute.

    Args:
        images: `[batch, channels, height, width]`.
        shape: channels, height and width of the network's images; what is no `int` is free.
        dtype: of the network's images, if there is only one.

    Raises:
        ValueError: if the images have another shape or dtype.

    Example:
        >>> check_images(torch.zeros(2, 3, 8, 9), (3, 8, 8))
        Traceback (most recent call last):
        ValueError: the network was exported for images ['batch', 3, 8, 8], got [2, 3, 8, 9].
    """
    sizes = images.shape[1:]
    alike = images.dim() == 1 + len(shape) and all(
        own == size for own, size in zip(shape, sizes, strict=True) if isinstance(own, int)
    )
    if not alike:
        raise ValueError(
            f"the network was exported for images {['batch', *shape]}, got {list(images.shape)}."
        )
    if dtype is not None and images.dtype != dtype:
        raise ValueError(
            f"the network takes images of {dtype}, got {images.dtype}: convert them with "
            f"images.to({dtype})."
        )


def dtype_of_images(traced: torch.dtype, network: nn.Module) -> torch.dtype:
    """What images an exported network takes now: `network.double()` and others convert weights.

    Args:
        traced: the dtype of the images that it was exported with.
        network: what was read.

    Example:
        >>> dtype_of_images(torch.float32, nn.Linear(2, 2).double())
        torch.float64
        >>> dtype_of_images(torch.uint8, nn.Linear(2, 2))
        torch.uint8
    """
    if not traced.is_floating_point:
        return traced
    weights = (weight for weight in network.parameters() if weight.is_floating_point())
    return next((weight.dtype for weight in weights), traced)
