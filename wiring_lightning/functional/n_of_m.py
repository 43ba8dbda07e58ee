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
    magnitude = weight.detach().abs().unflatten(axis, (-1, m)).movedim(axis + 1, 0).contiguous()
    # The rank of an entry is the number of those of its block that go before it: at first all that
    # come later in the block.
    number = torch.int8 if m <= 128 else torch.int32
    ranks = torch.arange(m - 1, -1, -1, dtype=number, device=weight.device)
    ranks = ranks.view(-1, *[1] * weight.dim()).repeat(1, *magnitude.shape[1:])
    for gap in range(1, m):
        first = torch.ge(magnitude[:-gap], magnitude[gap:]).view(torch.int8)
        ranks[gap:] += first
        ranks[:-gap] -= first
    return ranks.lt(n).movedim(0, axis + 1).flatten(axis, axis + 1)
