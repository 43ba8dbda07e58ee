"""Scores and wirings in which every source has about as many readers as every other.

Rows are targets, columns are candidates; a negative score marks a slot without a candidate.
"""

import math

import torch
from torch import Tensor

# Scores below it would make Sinkhorn's iteration slow; none of them is ever among the best.
FLOOR = 1e-4
_TINY = 1e-30


def balance_scores(scores: Tensor, rounds: int = 10) -> Tensor:
    """Scale the scores of a gate so that targets and sources both have equal sums (Sinkhorn).

    Columns and rows are scaled in turn. At the end every target's scores sum to one, and every
    source's to T / C nearly (the more rounds, the nearer). Candidates with a score below 0.0001 are
    raised to it first: what is zero cannot be scaled.

    Args:
        scores: `[..., targets, candidates]`; negative entries are not candidates. A row or a column
            without any is left as it is, so gates of different sizes can share one tensor.
        rounds: how often rows and columns are scaled.

    Returns:
        The balanced scores, shaped like `scores`.

    Example:
        >>> scores = balance_scores(torch.tensor([[0.9, 0.1], [0.9, 0.1]]))
        >>> scores.tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    candidate = scores >= 0
    targets = candidate.any(-1).sum(-1)
    sources = candidate.any(-2).sum(-1)
    share = (targets / sources.clamp_min(1)).to(scores.dtype)[..., None, None]
    values = torch.where(candidate, scores.clamp_min(FLOOR), 0.0)
    for _ in range(rounds):
        values = values * (share / values.sum(-2, keepdim=True).clamp_min(_TINY))
        values = values / values.sum(-1, keepdim=True).clamp_min(_TINY)
    return torch.where(candidate, values, scores)


def balanced_mask(scores: Tensor, k: int) -> Tensor:
    """Mark K candidates of every target so that no source has too many readers.

    Of all such choices it is one with the largest sum of scores. No source is marked more than
    `ceil(T * K / C)` times, the smallest limit that can be kept. The choice is a linear program
    whose vertices are whole numbers, and is solved on the CPU.

    Args:
        scores: `[targets, candidates]`; negative entries are not candidates.
        k: how many to mark for each target; one with fewer candidates marks all of them.

    Returns:
        A boolean mask shaped like `scores`, on its device.

    Raises:
        ValueError: if some slots are no candidates, and what is left cannot be balanced.

    Example:
        >>> balanced_mask(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), 1).int()
        tensor([[1, 0],
                [0, 1]], dtype=torch.int32)
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    on_cpu = scores.detach().cpu().double()
    rows, columns = (on_cpu >= 0).nonzero().numpy().T
    wanted = (on_cpu >= 0).sum(1).clamp_max(k).numpy()
    sources = int((on_cpu >= 0).any(0).sum())
    limit = math.ceil(wanted.sum() / max(sources, 1))
    edges = range(len(rows))
    ones = [1.0] * len(rows)
    targets, candidates = on_cpu.shape
    solved = linprog(
        -on_cpu[rows, columns].numpy(),
        A_eq=coo_array((ones, (rows, edges)), shape=(targets, len(rows))),
        b_eq=wanted,
        A_ub=coo_array((ones, (columns, edges)), shape=(candidates, len(rows))),
        b_ub=[limit] * candidates,
        bounds=(0, 1),
        method="highs-ds",  # the simplex method ends in a vertex
    )
    if solved.x is None:
        raise ValueError(
            f"no choice of {k} candidates a target gives every source at most {limit} readers: "
            "too few slots are candidates."
        )
    chosen = torch.zeros_like(on_cpu, dtype=torch.bool)
    chosen[rows, columns] = torch.from_numpy(solved.x > 0.5)
    return chosen.to(scores.device)
