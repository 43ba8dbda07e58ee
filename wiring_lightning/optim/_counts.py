"""How many entries of some tensors are there, or can be."""

from collections.abc import Sequence

from torch import Tensor


def count_usable(weights: Sequence[Tensor], usable: Sequence[Tensor | None]) -> int:
    """The number of entries that the masks of some tensors mark; `None` marks all.

    Example:
        >>> import torch
        >>> count_usable([torch.zeros(2), torch.zeros(3)], [torch.tensor([True, False]), None])
        4
    """
    return sum(
        weight.numel() if mask is None else int(mask.sum())
        for weight, mask in zip(weights, usable, strict=True)
    )


def count_present(values: Sequence[Tensor]) -> int:
    """The number of entries of some tensors that are not zero.

    Example:
        >>> import torch
        >>> count_present([torch.tensor([0.0, 0.5]), torch.tensor([-1.0])])
        2
    """
    return sum(int(value.count_nonzero()) for value in values)
