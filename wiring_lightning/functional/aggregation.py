"""Summing the sources that a target listens to, with a gradient for every gate."""

import math

import torch
from torch import Tensor


def straight_through(value: Tensor, scores: Tensor) -> Tensor:
    """Equal `value` in the forward pass; send its whole gradient to `scores`, chosen or not.

    This is the papers' modified back-propagation: the network computes with binary gates, and the
    gradient with respect to each gate updates the real-valued score behind it.

    Args:
        value: `[targets, candidates]` gates of this forward pass (booleans or numbers).
        scores: `[targets, candidates]` real-valued scores.

    Example:
        >>> scores = torch.tensor([0.9, 0.1], requires_grad=True)
        >>> gates = straight_through(torch.tensor([False, True]), scores)
        >>> gates.tolist()
        [0.0, 1.0]
        >>> (gates * torch.tensor([3.0, 5.0])).sum().backward()
        >>> scores.grad
        tensor([3., 5.])
    """
    return value.to(scores.dtype) + (scores - scores.detach())


# Features of one part of a long dot product.
_PART = 1024


def products_of_pairs(left: Tensor, right: Tensor) -> Tensor:
    """The dot product of every row of `left` with every row of `right`, summed over the batch.

    A few rows times many thousand columns leave a core idle, so the features go in parts.

    Args:
        left: `[batch, a, features]`.
        right: `[batch, b, features]`.

    Returns:
        `[a, b]`, float32 or better.

    Example:
        >>> products_of_pairs(torch.ones(2, 1, 3), torch.tensor([[[1.0, 2.0, 3.0]]] * 2))
        tensor([[12.]])
    """
    features = left.shape[2]
    parts = features // _PART if features % _PART == 0 else 1
    dtype = torch.promote_types(left.dtype, torch.float32)
    total = left.new_zeros(parts, left.shape[1], right.shape[1], dtype=dtype)
    rows = left.unflatten(2, (parts, -1)).transpose(1, 2)
    columns = right.unflatten(2, (parts, -1)).permute(0, 2, 3, 1)
    for mine, yours in zip(rows, columns, strict=True):
        total += torch.bmm(mine, yours.to(mine.dtype))
    return total.sum(0)


def gated_sum(gates: Tensor, sources: Tensor) -> Tensor:
    """Sum the sources of every target (Equation 2 of GateConnect, Equation 1 of MaskConnect).

    One batched product serves all targets, and one more gives the gradient of all gates.

    Args:
        gates: `[targets, candidates]`.
        sources: `[batch, candidates, *features]`.

    Returns:
        `[batch, targets, *features]`.

    Example:
        >>> sources = torch.arange(6.0).view(1, 3, 2)
        >>> gated_sum(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), sources)
        tensor([[[4., 6.],
                 [2., 3.]]])
    """
    batch, candidates, *features = sources.shape
    targets = gates.shape[0]
    # bmm rather than matmul: with a gradient for the gates, matmul folds the batch into one
    # dimension and copies the transposed sources, at more than three times the cost.
    stacked = gates.expand(batch, *gates.shape)
    size = math.prod(features)
    summed = torch.bmm(stacked, sources.reshape(batch, candidates, size))
    # No view where none is needed: an in-place activation behind a view costs copies in backward.
    return summed if len(features) == 1 else summed.view(batch, targets, *features)
