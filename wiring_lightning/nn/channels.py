"""Selecting channels of a layer."""

from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from wiring_lightning.nn.store_sparse import store_dense

T = TypeVar("T", bound=nn.Module)


@torch.no_grad()
def select_channels(layer: T, kept: Tensor) -> T:
    """A copy of a layer with some of its output channels.

    Args:
        layer: a module whose parameters and buffers all have the channels as first dimension, such
            as a convolution or a batch norm.
        kept: `[channels]` a mask, or the numbers of the channels.

    Example:
        >>> smaller = select_channels(nn.Conv2d(3, 4, 1), torch.tensor([True, False, True, False]))
        >>> smaller(torch.randn(1, 3, 5, 5)).shape
        torch.Size([1, 2, 5, 5])
    """
    smaller = cast(T, store_dense(layer))
    for value in [*smaller.parameters(), *smaller.buffers()]:
        if value.dim():  # not a norm's counter of batches
            value.data = value.data[kept.to(value.device)]
    count = int(kept.sum()) if kept.dtype == torch.bool else len(kept)
    for part in smaller.modules():
        for size in ("out_channels", "num_features"):
            if hasattr(part, size):
                setattr(part, size, count)
    return smaller
