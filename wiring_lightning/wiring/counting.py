"""What a module costs, for the nodes of a wiring."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

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

    Convolutions (padded by half their kernel) and linear layers (of one position) are counted.
    Other layers cost nothing. Pooling must come after the last convolution.

    Example:
        >>> first, second = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 1)
        >>> count_multiply_adds(first, nn.ReLU(), second, side=32)  # (3 * 9 + 8) * 8 * 16 * 16
        71680
    """
    total = 0
    for layer in plain_layers(*modules):
        if isinstance(layer, nn.Conv2d):
            side = -(-side // layer.stride[0])
            total += layer.weight.numel() * side**2
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel()
        elif isinstance(layer, nn.Upsample):
            assert isinstance(layer.scale_factor, float)
            side = int(side * layer.scale_factor)
    return total


def count_by_source(
    layer: nn.Module, channels: Sequence[int], side: int
) -> tuple[list[int], list[int]]:
    """Parameters and multiply-adds of each source in a layer that concatenates its sources.

    The layer is a convolution, maybe with a batch norm before it; `channels` has one entry for each
    source, and `side` is their height and width. A bias belongs to no source and is not counted.

    Example:
        >>> count_by_source(nn.Conv2d(6, 5, 3, bias=False), channels=[4, 2], side=8)
        ([180, 90], [11520, 5760])
    """
    convs = [part for part in plain_layers(layer) if isinstance(part, nn.Conv2d)]
    biases = sum(conv.bias.numel() for conv in convs if conv.bias is not None)
    parameters = (count_parameters(layer) - biases) // sum(channels)
    multiply_adds = count_multiply_adds(layer, side=side) // sum(channels)
    return [parameters * own for own in channels], [multiply_adds * own for own in channels]
