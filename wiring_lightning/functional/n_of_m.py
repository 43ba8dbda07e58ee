"""N weights of every M consecutive ones, the pattern that sparse tensor cores compute with."""

import torch
from torch import Tensor


@torch.no_grad()
def mask_n_of_m(weight: Tensor, n: int, m: int, axis: int = 1) -> Tensor:
    """Mark the n largest magnitudes of every m consecutive entries along an axis.

    Of equal magnitudes the first ones are marked.

    Args:
        weight: a tensor whose axis has a multiple of `m` entries.
        n: how many of each block to mark, from 1 to `m`.
        m: length of a block.
        axis: the axis of the inputs.

    Raises:
        ValueError: if `n` is out of range, or the axis cannot be cut into such blocks.

    Example:
        >>> mask_n_of_m(torch.tensor([[0.1, -0.9, 0.3, 0.2]]), 2, 4)
        tensor([[False,  True,  True, False]])
    """
    if not 1 <= n <= m:
        raise ValueError(f"n must be between 1 and m = {m}, got {n}.")
    if weight.shape[axis] % m:
        raise ValueError(f"an axis of {weight.shape[axis]} entries has no blocks of {m}.")
    magnitude = weight.detach().abs().unflatten(axis, (-1, m)).movedim(axis + 1, 0)
    # The rank of an entry is the number of those of its block that go before it.
    ranks = [torch.zeros_like(one, dtype=torch.int8) for one in magnitude]
    for later in range(m):
        for earlier in range(later):
            first = magnitude[earlier] >= magnitude[later]
            ranks[later] += first
            ranks[earlier] += ~first
    marked = torch.stack(ranks).lt(n).movedim(0, axis + 1)
    return marked.flatten(axis, axis + 1)
