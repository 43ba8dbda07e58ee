"""How far two answers of networks are apart, and how large one is."""

from torch import Tensor

_SMALLEST = 1e-6  # of what is taken for the size of an answer


def largest_difference(one: Tensor, other: Tensor) -> float:
    """The largest difference of two entries; equal ones, also infinite ones, differ by 0.

    Example:
        >>> import torch
        >>> masked = torch.tensor([1.0, -torch.inf])
        >>> largest_difference(masked, masked + 2)
        2.0
    """
    one, other = one.double(), other.double()
    return float((one - other).abs().masked_fill(one == other, 0).max())


def largest_size(answer: Tensor) -> float:
    """The size of the largest finite entry, which an allowed difference is a share of.

    Example:
        >>> import torch
        >>> largest_size(torch.tensor([0.5, -4.0, -torch.inf])), largest_size(torch.zeros(2))
        (4.0, 1e-06)
    """
    sizes = answer.double().abs()
    return max(_SMALLEST, float(sizes.masked_fill(~sizes.isfinite(), 0).max()))
