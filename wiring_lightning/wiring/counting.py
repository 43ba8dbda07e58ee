"""What a module costs, for the nodes of a wiring."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from math import prod

from torch import nn

from wiring_lightning.wiring.sizes import COMPUTED, first_shape, shape_after


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
    """Number of parameters of some modules; what they share counts once.

    Example:
        >>> count_parameters(nn.Linear(6, 7), nn.BatchNorm2d(7))
        63
    """
    return sum(parameter_sizes(*modules).values())


def parameter_sizes(*modules: nn.Module) -> dict[object, int]:
    """How many numbers each parameter of some modules has.

    A stored layer, which has no parameters, stands for those of the plain one.
    """
    sizes: dict[object, int] = {}
    for layer in (layer for module in modules for layer in module.modules()):
        if isinstance(layer, StoredLayer):
            sizes[layer] = sum(parameter.numel() for parameter in layer.dense().parameters())
        for parameter in layer.parameters(recurse=False):
            sizes[parameter] = parameter.numel()
    return sizes


def count_multiply_adds(*modules: nn.Module, side: int) -> int:
    """Multiply-adds of a chain of modules, for one example of `side` x `side`.

    Convolutions and linear layers (of one position) are counted; layers without weights and norms
    cost nothing. Every module reads the one before it: a block with branches of other sizes, such
    as a shortcut with a stride, is no chain. Layers of your own are asked for the size of what they
    return.

    Raises:
        ValueError: if a layer has weights that are counted in another way, such as an LSTM, or a
            convolution reads what has no known size.

    Example:
        >>> first, second = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 1)
        >>> count_multiply_adds(first, nn.ReLU(), second, side=32)  # (3 * 9 + 8) * 8 * 16 * 16
        71680
    """
    layers = list(plain_layers(*modules))
    computed = [layer for layer in layers if isinstance(layer, COMPUTED)]
    inside = {part for layer in computed for part in layer.modules()} - set(computed)
    total, shape, changed = 0, first_shape(layers, side), ""
    for layer in layers:
        before = shape
        if layer not in inside:
            shape = shape_after(layer, shape)
        if len(before) == 4 != len(shape):
            changed = type(layer).__name__
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            if len(shape) != 4:
                raise ValueError(
                    f"the multiply-adds of {type(layer).__name__} are not counted here, because "
                    f"the size of what {changed} returns is not known: add it by `add_node` with "
                    "its numbers, such as those of `costs.sparse_multiply_adds`."
                )
            read = before if isinstance(layer, nn.ConvTranspose2d) else shape
            total += layer.weight.numel() * prod(read[-2:])
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel()
        elif any("weight" in n and p.dim() > 1 for n, p in layer.named_parameters(recurse=False)):
            raise ValueError(
                f"the multiply-adds of {type(layer).__name__} are not counted here: add it by "
                "`add_node` with its numbers, such as those of `costs.sparse_multiply_adds`."
            )
    return total


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
