"""Choosing K candidates per target from scores: the best ones, or a random draw.

Rows are targets, columns are candidates. Rows of different lengths share one tensor: a **negative**
score marks a slot that is no candidate, and such a slot is never chosen.
"""

import torch
from torch import Tensor

# Log of a score of zero: below the log of every positive float by more than any Gumbel noise.
_LOG_ZERO = -1e4


def topk_mask(scores: Tensor, k: int | Tensor) -> Tensor:
    """Mark the `k` highest scores of every row; the last of equal scores wins, on every device.

    The last, because later candidates are nearer: with all scores equal and K = 1, a network whose
    blocks choose among all earlier ones is the plain chain.

    Args:
        scores: `[..., candidates]`; negative entries are not candidates.
        k: how many to mark, one number or one per row `[...]`. A row with fewer candidates marks
            all of them.

    Returns:
        A boolean mask shaped like `scores`.

    Example:
        >>> topk_mask(torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.4, -1.0]]), 1).int()
        tensor([[0, 1, 0],
                [0, 1, 0]], dtype=torch.int32)
    """
    keys = scores.masked_fill(scores < 0, -torch.inf).flip(-1)
    return _mask_best(keys, k).flip(-1) & (scores >= 0)


def normalize_scores(scores: Tensor) -> Tensor:
    """Scale every row's candidates to sum to one (Algorithm 1, first line, of both papers).

    A row whose candidates are all zero becomes uniform: it says nothing about any of them.

    Example:
        >>> normalize_scores(torch.tensor([[0.2, 0.2, 0.4], [0.0, 0.0, -1.0]]))
        tensor([[ 0.2500,  0.2500,  0.5000],
                [ 0.5000,  0.5000, -1.0000]])
    """
    candidate = scores >= 0
    total = scores.clamp_min(0).sum(-1, keepdim=True)
    uniform = 1 / candidate.sum(-1, keepdim=True).clamp_min(1)
    normalized = torch.where(total > 0, scores / total, uniform)
    return torch.where(candidate, normalized, scores)


def sample_k_distinct(
    scores: Tensor, k: int | Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw `k` distinct candidates per row, in proportion to the scores, without replacement.

    The law is that of drawing one candidate after another from Mult(scores), each time among those
    that are left (Algorithm 1 of both papers). All rows are drawn at once with Gumbel top-k keys.
    Candidates with a score of zero are drawn, uniformly, only when no positive one is left, where
    `torch.multinomial` would silently return the last index.

    Args:
        scores: `[..., candidates]`, need not sum to one; negative entries are not candidates.
        k: how many to draw, one number or one per row `[...]`.
        generator: the source of randomness, on the device of `scores`.

    Returns:
        A boolean mask shaped like `scores` with min(k, candidates) true entries per row.

    Example:
        >>> scores = torch.tensor([[0.0, 0.7, 0.3, 0.0]]).expand(1000, 4)
        >>> drawn = sample_k_distinct(scores, 2, torch.Generator().manual_seed(0))
        >>> drawn.sum(0).tolist()
        [0, 1000, 1000, 0]
    """
    dtype = torch.promote_types(scores.dtype, torch.float32)
    noise = torch.empty_like(scores, dtype=dtype).exponential_(generator=generator)
    gumbel = -noise.clamp_min(torch.finfo(dtype).tiny).log()
    log_scores = torch.where(scores > 0, scores.to(dtype).log(), _LOG_ZERO)
    keys = (log_scores + gumbel).masked_fill(scores < 0, -torch.inf)
    return _mask_best(keys, k) & (scores >= 0)


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


def _mask_best(keys: Tensor, k: int | Tensor) -> Tensor:
    """Mark the `k` largest keys of every row; stable, so ties are broken alike everywhere."""
    order = keys.sort(dim=-1, descending=True, stable=True).indices
    rank = torch.arange(keys.shape[-1], device=keys.device)
    limit = k.unsqueeze(-1) if isinstance(k, Tensor) else k
    chosen = (rank < limit).expand_as(order)
    return torch.zeros_like(keys, dtype=torch.bool).scatter(-1, order, chosen)
