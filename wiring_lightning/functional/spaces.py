"""Shapes of a network's stages, and how an output is brought from one to another."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional


class Space(NamedTuple):
    """The shape of a stage's outputs: channels, and the divisor of height and width."""

    channels: int
    reduction: int


def lift(x: Tensor, origin: Space, space: Space) -> Tensor:
    """Bring the output of a stage to the shape of a later stage, without parameters.

    Subsamples positions and pads channels with zeros, across any number of stages (MaskConnect,
    Section 3.2; option A of ResNet).

    Args:
        x: `[batch, channels, height, width]` in the shape of `origin`.
        origin: the stage that it comes from.
        space: the same stage or a later one, with as many channels or more.

    Example:
        >>> import torch
        >>> lift(torch.ones(1, 16, 32, 32), Space(16, 1), Space(64, 4)).shape
        torch.Size([1, 64, 8, 8])
    """
    step = space.reduction // origin.reduction
    if step > 1:
        x = x[..., ::step, ::step]
    if space.channels > origin.channels:
        x = functional.pad(x, (0, 0, 0, 0, 0, space.channels - origin.channels))
    return x
