"""Whether a convolution is one that a faster way can compute."""

from torch import nn


def convolves(conv: nn.Module, size: int, stride: int = 1, groups: int = 1) -> bool:
    """Whether a convolution has a square kernel and keeps height and width, but for its stride.

    Others may have its class: with another kernel, dilation, padding or number of groups.

    Args:
        conv: any module.
        size: height and width of the kernel, odd.
        stride: in both directions.
        groups: of the channels.

    Example:
        >>> convolves(nn.Conv2d(4, 4, 3, padding=1), size=3)
        True
        >>> convolves(nn.Conv2d(4, 4, 3, padding=2, dilation=2), size=3)
        False
    """
    if not isinstance(conv, nn.Conv2d):
        return False
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    own = ((size, size), (stride, stride), (size // 2, size // 2), (1, 1))
    zeros = conv.padding_mode == "zeros" or size == 1
    return shape == own and conv.groups == groups and zeros
