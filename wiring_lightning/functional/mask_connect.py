"""Choose K candidates per target from scores: the highest ones, or a random sample.

Rows are targets, columns are candidates. Rows of different lengths share one tensor: a **negative**
score marks a slot without a candidate. Such a slot is never chosen.
"""

import torch
from torch import Tensor
from torch.nn import functional

from wiring_lightning.functional.transfer import send

# Replaces log(0): smaller than the log of any positive float, whatever Gumbel noise is added.
_LOG_ZERO = -1e4


def topk_mask(scores: Tensor, k: int | Tensor, usable: Tensor | None = None) -> Tensor:
    """Mark the `k` highest scores of every row; of equal scores the last wins, on every device.

    Later candidates are nearer. With equal scores and K = 1 a network is thus the plain chain.

    Args:
        scores: `[..., candidates]`; negative entries are not candidates.
        k: how many to mark, one number or one per row `[...]`. A row with fewer candidates marks
            all of them.
        usable: `[..., candidates]` which entries are candidates, if their sign does not tell.

    Returns:
        A boolean mask shaped like `scores`.

    Example:
        >>> topk_mask(torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.4, -1.0]]), 1).int()
        tensor([[0, 1, 0],
                [0, 1, 0]], dtype=torch.int32)
    """
    if usable is None:
        usable = scores >= 0
    keys = scores.masked_fill(~usable, -torch.inf).flip(-1)
    return mask_best(keys, k).flip(-1) & usable


def normalize_scores(scores: Tensor) -> Tensor:
    """Scale every row's candidates to sum to one (Algorithm 1, first line, of both papers).

    A row whose candidates are all zero becomes uniform.

    Args:
        scores: `[..., candidates]`; negative entries are not candidates, and stay as they are.

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


def project_scores(scores: Tensor) -> Tensor:
    """The nearest scores (Euclidean) that are not negative and sum to one in every row.

    All candidates of a row lose the same amount, and those that would fall below zero become zero:
    `max(score - theta, 0)`. So a part that all candidates share has no effect.

    Args:
        scores: `[..., candidates]` any numbers.

    Returns:
        The projection of every row onto the simplex. An entry of minus infinity is no candidate
        and becomes 0; a row needs at least one candidate.

    Example:
        >>> project_scores(torch.tensor([[0.5, 0.7, 0.2], [2.0, 0.0, -torch.inf]]))
        tensor([[0.3667, 0.5667, 0.0667],
                [1.0000, 0.0000, 0.0000]])
    """
    ordered = scores.sort(dim=-1, descending=True).values
    count = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
    excess = _running_sums(ordered.masked_fill(ordered == -torch.inf, 0.0)) - 1
    kept = (ordered * count > excess).sum(-1, keepdim=True).clamp_min(1)
    theta = excess.gather(-1, kept - 1) / kept
    return (scores - theta).clamp_min(0)


def swap_worst(active: Tensor, gradient: Tensor, usable: Tensor, chosen: Tensor) -> Tensor:
    """Exchange one edge of some targets: the worst one for the best candidate.

    To first order, switching an edge on changes the loss by the gradient of its gate. The worst
    edge has the largest gradient, and the best candidate has the smallest one. A target whose
    edges are all better than its best candidate keeps them.

    Args:
        active: `[targets, candidates]` the present edges.
        gradient: `[targets, candidates]` the gradient of the loss with respect to every gate.
        usable: `[targets, candidates]` which slots are candidates.
        chosen: `[targets]` the targets that may exchange an edge.

    Returns:
        The new edges, as many as before for every target.

    Example:
        >>> active = torch.tensor([[True, True, False, False]])
        >>> gradient = torch.tensor([[-1.0, 2.0, 0.5, -3.0]])
        >>> swap_worst(active, gradient, torch.ones_like(active), torch.tensor([True])).int()
        tensor([[1, 0, 0, 1]], dtype=torch.int32)
    """
    worst = gradient.masked_fill(~active, -torch.inf).max(-1, keepdim=True)
    best = gradient.masked_fill(active | ~usable, torch.inf).min(-1, keepdim=True)
    swapped = (worst.values > best.values) & chosen.unsqueeze(-1)
    changed = torch.zeros_like(active)
    changed = changed.scatter(-1, worst.indices, swapped).scatter(-1, best.indices, swapped)
    return active ^ changed


def score_entropy(scores: Tensor) -> Tensor:
    """`[..., targets]` entropy of every row's scores, as a share of the largest one possible.

    1 says that all candidates are alike, 0 that one has everything.

    Args:
        scores: `[..., targets, candidates]`; negative entries are not candidates.

    Example:
        >>> score_entropy(torch.tensor([[0.5, 0.5, -1.0], [0.0, 1.0, 0.0]]))
        tensor([1., 0.])
    """
    share = normalize_scores(scores).clamp_min(0)
    count = (scores >= 0).sum(-1)
    return torch.special.entr(share).sum(-1) / count.clamp_min(2).log()


def sample_k_distinct(
    scores: Tensor, k: int | Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Sample `k` distinct candidates per row, in proportion to the scores, without replacement.

    The distribution is that of Algorithm 1 of both papers: one candidate after another is drawn
    from Mult(scores) among those that are left. Gumbel top-k keys sample all rows at once.
    Candidates with a score of zero are sampled, uniformly, only if no positive one is left;
    `torch.multinomial` would silently return the last index there.

    Args:
        scores: `[..., candidates]`, need not sum to one; negative entries are not candidates.
        k: how many to draw, one number or one per row `[...]`.
        generator: the source of randomness, on any device: one on the CPU draws the same for
            scores on every device, and the noise is copied there. By default torch's own of the
            device of `scores`.

    Returns:
        A boolean mask shaped like `scores` with min(k, candidates) true entries per row.

    Example:
        >>> scores = torch.tensor([[0.0, 0.7, 0.3, 0.0]]).expand(1000, 4)
        >>> drawn = sample_k_distinct(scores, 2, torch.Generator().manual_seed(0))
        >>> drawn.sum(0).tolist()
        [0, 1000, 1000, 0]
    """
    dtype = torch.promote_types(scores.dtype, torch.float32)
    source = scores.device if generator is None else generator.device
    noise = torch.empty_like(scores, dtype=dtype, device=source).exponential_(generator=generator)
    noise = send(noise, scores.device)
    gumbel = -noise.clamp_min(torch.finfo(dtype).tiny).log()
    log_scores = torch.where(scores > 0, scores.to(dtype).log(), _LOG_ZERO)
    keys = (log_scores + gumbel).masked_fill(scores < 0, -torch.inf)
    return mask_best(keys, k) & (scores >= 0)


def straight_through(value: Tensor, scores: Tensor) -> Tensor:
    """Return `value`; in the backward pass `scores` get its gradient, chosen or not.

    This is the papers' modified back-propagation: the network uses binary gates, and the gradient
    of each gate updates its real-valued score.

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


def mask_best(keys: Tensor, k: int | Tensor) -> Tensor:
    """Mark the `k` largest keys of every row, of equal keys the first, on every device."""
    order = keys.sort(dim=-1, descending=True, stable=True).indices
    rank = torch.arange(keys.shape[-1], device=keys.device)
    limit = k.unsqueeze(-1) if isinstance(k, Tensor) else k
    chosen = (rank < limit).expand_as(order)
    return torch.zeros_like(keys, dtype=torch.bool).scatter(-1, order, chosen)


def _running_sums(values: Tensor) -> Tensor:
    """As `cumsum` over the last dimension, which has no deterministic kernel on a GPU."""
    shift = 1
    while shift < values.shape[-1]:
        values = values + functional.pad(values[..., :-shift], (shift, 0))
        shift *= 2
    return values
