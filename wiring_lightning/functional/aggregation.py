"""Summing the sources that a target listens to, with a gradient for every gate."""

import math
from itertools import cycle

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


# A few rows times more columns than this leave a core idle, so they are multiplied in parts.
_LONG, _PART = 2**14, 2**10


class PairProducts:
    """Adds up the dot products of every row of one tensor with every row of another.

    All views are prepared at once, because they take as long as small products do.

    Args:
        left: `[count, a, features]`, memory through which all examples pass, `count` at a time.
        right: `[batch, b, features]`.

    Example:
        >>> left = torch.empty(1, 1, 3)
        >>> products = PairProducts(left, torch.tensor([[[1.0] * 3], [[2.0] * 3]]))
        >>> for chunk in range(2):
        ...     _ = left.fill_(chunk + 1)
        ...     products.add(chunk)
        >>> products.total()
        tensor([[15.]])
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        count, rows, features = left.shape
        batch, columns, _ = right.shape
        dtype = torch.promote_types(left.dtype, torch.float32)
        self._alike = left.dtype == right.dtype == dtype
        if left.device.type == "cpu" and features > _LONG and features % _PART == 0:
            parts = features // _PART
            self._sums = left.new_zeros(parts, rows, columns, dtype=dtype)
            lefts = left.view(count, rows, parts, _PART).transpose(1, 2).unbind()
            rights = right.view(batch, columns, parts, _PART).permute(0, 2, 3, 1).unbind()
            pairs = list(zip(cycle(lefts), rights, strict=False))
            starts = range(0, max(1, batch), count)
            self._chunks = [pairs[start : start + count] for start in starts]
        else:
            self._sums = left.new_zeros(count, rows, columns, dtype=dtype)
            self._chunks = [[(left, piece)] for piece in right.transpose(1, 2).split(count)]

    def add(self, chunk: int) -> None:
        """Add the products of what `left` holds now with the chunk of `right` of that number."""
        for mine, yours in self._chunks[chunk]:
            sums = self._sums
            if len(yours) < len(sums):  # the last examples are fewer
                sums, mine = sums[: len(yours)], mine[: len(yours)]
            if self._alike:
                sums.baddbmm_(mine, yours)
            else:
                sums.baddbmm_(mine.to(sums.dtype), yours.to(sums.dtype))

    def total(self) -> Tensor:
        """`[a, b]`, float32 or better."""
        return self._sums.sum(0)


def products_of_pairs(left: Tensor, right: Tensor) -> Tensor:
    """The dot product of every row of `left` with every row of `right`, summed over the batch.

    Args:
        left: `[batch, a, features]`.
        right: `[batch, b, features]`.

    Returns:
        `[a, b]`, float32 or better.

    Example:
        >>> products_of_pairs(torch.ones(2, 1, 3), torch.tensor([[[1.0, 2.0, 3.0]]] * 2))
        tensor([[12.]])
    """
    products = PairProducts(left, right)
    products.add(0)
    return products.total()


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
