"""Selecting channels of a layer."""

from itertools import chain
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from wiring_lightning.nn.checks import check_weights_exist
from wiring_lightning.nn.store_sparse import store_dense
from wiring_lightning.nn.weights import INPUTS_FIRST

T = TypeVar("T", bound=nn.Module)

_CONVOLUTIONS = nn.Conv1d, nn.Conv2d, nn.Conv3d
# Layers with one channel for each entry of the first dimension. Others of torch mix their channels,
# or have other things there.
_BY_CHANNEL = (
    *_CONVOLUTIONS, nn.Linear, nn.Bilinear, _NormBase, nn.PReLU, nn.ParameterList, nn.ParameterDict
)  # fmt: skip
# They divide by what all channels have in common, with parameters or without.
MIXING_NORMS = nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.CrossMapLRN2d
_SIZES = "out_channels", "out_features", "num_features", "num_parameters"


@torch.no_grad()
def select_channels(layer: T, kept: Tensor) -> T:
    """A copy of a layer with some of its output channels.

    A layer that computes every channel from one of its inputs, such as a norm, reads only the
    inputs of these channels. A convolution with groups keeps whole groups, and reads their inputs.

    Args:
        layer: a convolution, a linear layer, a batch norm or an instance norm; or a module of your
            own, or a chain of layers, whose parameters and buffers all have the same channels as
            first dimension. In a chain only the first layer may read other channels than its own.
        kept: `[channels]` a mask, or the numbers of the channels.

    Raises:
        ValueError: if it has no weights yet, its channels cannot be selected in this way, or parts
            of groups are to be kept.

    Example:
        >>> smaller = select_channels(nn.Conv2d(3, 4, 1), torch.tensor([True, False, True, False]))
        >>> smaller(torch.randn(1, 3, 5, 5)).shape
        torch.Size([1, 2, 5, 5])
    """
    check_weights_exist(layer)
    smaller = cast(T, store_dense(layer))
    _check(smaller)
    numbers = kept.nonzero().flatten() if kept.dtype == torch.bool else kept
    for part in smaller.modules():
        if isinstance(part, _CONVOLUTIONS) and part.groups > 1:
            _keep_groups(part, numbers)
    for value in [*smaller.parameters(), *smaller.buffers()]:
        if value.dim():  # not a norm's counter of batches
            value.data = value.data[kept.to(value.device)]
    for part in smaller.modules():
        for size in _SIZES:
            if hasattr(part, size):
                setattr(part, size, len(numbers))
    return smaller


def _check(layer: nn.Module) -> None:
    """Refuse a layer in which the first dimensions are not the channels."""
    for part in layer.modules():
        if _has_other_channels(part):
            raise ValueError(
                f"the channels of {type(part).__name__} cannot be selected: give a convolution "
                "that is not transposed, a linear layer, or a norm of each channel by itself."
            )
        inner = [p for p in part.modules() if p is not part and _has_tensors(p)]
        mixing = [p for p in inner[1:] if _reads_all(p)]
        if isinstance(part, nn.Sequential) and mixing:
            raise ValueError(
                f"the channels of {type(layer).__name__} cannot be selected, since its "
                f"{type(mixing[0]).__name__} reads those of another layer: select them layer by "
                "layer."
            )
    tensors = [*layer.named_parameters(), *layer.named_buffers()]
    counts: dict[int, str] = {}
    for name, value in tensors:
        if value.dim():
            counts.setdefault(len(value), name)
    if len(counts) > 1:
        first, second = [f"{name} has {count}" for count, name in counts.items()][:2]
        raise ValueError(
            f"the channels of {type(layer).__name__} cannot be selected, since {first} and "
            f"{second}: all its parameters and buffers must have the channels as first dimension."
        )


def _has_tensors(part: nn.Module) -> bool:
    return any(True for _ in chain(part.parameters(recurse=False), part.buffers(recurse=False)))


def _has_other_channels(part: nn.Module) -> bool:
    """Whether it is a layer of torch's whose channels are elsewhere, or depend on each other."""
    if type(part).__module__.startswith("torch.ao."):  # quantised: its weight is no parameter
        return True
    ours = not type(part).__module__.startswith("torch.nn.") or isinstance(part, _BY_CHANNEL)
    inputs_first = any(kind.__name__ in INPUTS_FIRST for kind in type(part).__mro__)
    return isinstance(part, MIXING_NORMS) or inputs_first or (_has_tensors(part) and not ours)


def _reads_all(part: nn.Module) -> bool:
    """Whether a channel of a layer reads more than one other channel."""
    if isinstance(part, _CONVOLUTIONS):
        return not part.groups == part.in_channels == part.out_channels
    return isinstance(part, nn.Linear | nn.Bilinear)


def _keep_groups(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, numbers: Tensor) -> None:
    """Set the sizes of a convolution that keeps whole groups of output channels."""
    size = layer.out_channels // layer.groups
    whole = len(numbers) % size == 0
    if whole:
        groups = numbers.view(-1, size)
        whole = bool(
            (
                groups == groups[:, :1] // size * size + torch.arange(size, device=groups.device)
            ).all()
        )
    if not whole:
        raise ValueError(
            f"a convolution with {layer.groups} groups of {size} channels keeps whole groups only: "
            "give the channels of each group one after another."
        )
    layer.in_channels = layer.in_channels // layer.groups * len(groups)
    layer.groups = len(groups)
