"""What a module costs, for the nodes of a wiring."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from torch import nn


class StoredLayer(nn.Module, ABC):
    """A layer that keeps its weight in another form, such as one of `nn.store_sparse`.

    It is counted as the plain layer, because the form is no part of the network.
    """

    @abstractmethod
    def dense(self) -> nn.Linear | nn.Conv2d:
        """The plain layer that computes the same."""


def plain_layer(layer: nn.Module) -> nn.Module:
    """A layer as a plain one, for code that looks at weights; most layers are plain."""
    return layer.dense() if isinstance(layer, StoredLayer) else layer


def plain_layers(*modules: nn.Module) -> Iterator[nn.Module]:
    """All modules inside some modules, stored layers as plain ones."""
    return (plain_layer(layer) for module in modules for layer in module.modules())


def count_parameters(*modules: nn.Module) -> int:
    """Number of parameters of some modules.

    Example:
        >>> count_parameters(nn.Linear(6, 7), nn.BatchNorm2d(7))
        63
    """
    stored = [one for module in modules for one in module.modules() if isinstance(one, StoredLayer)]
    counted = [*modules, *(layer.dense() for layer in stored)]  # stored ones have no parameters
    return sum(parameter.numel() for module in counted for parameter in module.parameters())


def count_multiply_adds(*modules: nn.Module, side: int) -> int:
    """Multiply-adds of a chain of modules, for one example of `side` x `side`.

    Convolutions and linear layers (of one position) are counted; layers without weights and norms
    cost nothing. Every module reads the one before it: a block with branches of other sizes, such
    as a shortcut with a stride, is no chain.

    Raises:
        ValueError: if a layer has weights that are counted in another way, such as an LSTM.

    Example:
        >>> first, second = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 1)
        >>> count_multiply_adds(first, nn.ReLU(), second, side=32)  # (3 * 9 + 8) * 8 * 16 * 16
        71680
    """
    total, sides = 0, [side, side]
    for layer in plain_layers(*modules):
        before, sides = sides, [_side_after(layer, axis, sides[axis]) for axis in (0, 1)]
        if isinstance(layer, nn.Conv2d):
            total += layer.weight.numel() * prod(sides)
        elif isinstance(layer, nn.ConvTranspose2d):
            total += layer.weight.numel() * prod(before)
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel()
        elif any("weight" in n and p.dim() > 1 for n, p in layer.named_parameters(recurse=False)):
            raise ValueError(
                f"the multiply-adds of {type(layer).__name__} are not counted here: add it by "
                "`add_node` with its numbers, such as those of `costs.sparse_multiply_adds`."
            )
    return total


def _side_after(layer: nn.Module, axis: int, side: int) -> int:
    """The height (axis 0) or width (axis 1) of what a layer returns."""
    if isinstance(layer, nn.Upsample):
        if layer.size is not None:
            return int(_of_axis(layer.size, axis))
        return int(side * _of_axis(layer.scale_factor, axis))
    if isinstance(layer, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        given = _of_axis(layer.output_size, axis)
        return side if given is None else given
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.MaxPool2d | nn.AvgPool2d):
        return side
    if layer.padding == "same":
        return side
    padding = 0 if layer.padding == "valid" else _of_axis(layer.padding, axis)
    stride = _of_axis(layer.stride, axis)
    reach = _of_axis(getattr(layer, "dilation", 1), axis) * (_of_axis(layer.kernel_size, axis) - 1)
    if isinstance(layer, nn.ConvTranspose2d):
        more = _of_axis(layer.output_padding, axis)
        return int((side - 1) * stride - 2 * padding + reach + more + 1)
    rest = side + 2 * padding - reach - 1
    if getattr(layer, "ceil_mode", False):
        rest += stride - 1
        rest -= stride * (rest // stride * stride >= side + padding)  # windows begin in the image
    return max(int(rest // stride) + 1, 0)


def _of_axis(value: Any, axis: int) -> Any:
    return value[axis] if isinstance(value, tuple | list) else value


def count_by_source(
    layer: nn.Module, channels: Sequence[int], side: int
) -> tuple[list[int], list[int]]:
    """Parameters and multiply-adds of each source in a layer that concatenates its sources.

    The layer is a convolution, maybe with a batch norm before it; `channels` has one entry for each
    source, and `side` is their height and width. A bias belongs to no source and is not counted.

    Example:
        >>> count_by_source(nn.Conv2d(6, 5, 3, padding=1, bias=False), [4, 2], side=8)
        ([180, 90], [11520, 5760])
    """
    convs = [part for part in plain_layers(layer) if isinstance(part, nn.Conv2d)]
    biases = sum(conv.bias.numel() for conv in convs if conv.bias is not None)
    parameters = (count_parameters(layer) - biases) // sum(channels)
    multiply_adds = count_multiply_adds(layer, side=side) // sum(channels)
    return [parameters * own for own in channels], [multiply_adds * own for own in channels]
