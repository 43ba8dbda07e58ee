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
