"""What a module costs, for the nodes of a wiring."""

from collections.abc import Sequence

from torch import nn


def count_parameters(*modules: nn.Module) -> int:
    """Numbers in all parameters of some modules.

    Example:
        >>> count_parameters(nn.Linear(6, 7), nn.BatchNorm2d(7))
        63
    """
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def count_multiply_adds(*modules: nn.Module, side: int) -> int:
    """Multiply-adds of modules one behind the other, for one example of `side` x `side`.

    Counts convolutions, padded by half their kernel, and linear layers, which read one position.
    Other layers cost nothing; those that resize, such as a max-pool, must follow the convolutions.

    Example:
        >>> first, second = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 1)
        >>> count_multiply_adds(first, nn.ReLU(), second, side=32)  # (3 * 9 + 8) * 8 * 16 * 16
        71680
    """
    total = 0
    for layer in (layer for module in modules for layer in module.modules()):
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
    """Parameters and multiply-adds that each source has in a layer that concatenates sources.

    Args:
        layer: a convolution, maybe with a batch norm in front of it.
        channels: of every source.
        side: height and width of the sources.

    Example:
        >>> count_by_source(nn.Conv2d(6, 5, 3, bias=False), channels=[4, 2], side=8)
        ([180, 90], [11520, 5760])
    """
    parameters = count_parameters(layer) // sum(channels)
    multiply_adds = count_multiply_adds(layer, side=side) // sum(channels)
    return [parameters * own for own in channels], [multiply_adds * own for own in channels]
