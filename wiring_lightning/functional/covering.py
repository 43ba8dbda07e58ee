"""Random wirings in which every source is read.

Rows are targets, columns are sources.
"""

from itertools import pairwise

import torch
from torch import Tensor


def sample_covering(usable: Tensor, k: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw `k` distinct sources per target, so that every source has at least one reader.

    All such wirings are equally likely. The targets choose one after another. How many sources
    that nobody reads yet are among the next K is drawn in proportion to the number of wirings that
    can follow; which ones they are is drawn uniformly.

    Args:
        usable: `[targets, sources]` which sources a target may read. Of two targets, one may read
            all that the other may: all sources, or all earlier ones. A source that no target may
            read does not count.
        k: how many a target reads; one with fewer usable sources reads all of them.
        generator: the source of randomness, on the CPU; by default torch's own.

    Returns:
        A boolean mask shaped like `usable`, on its device. It is drawn on the CPU.

    Raises:
        ValueError: if the targets read too few sources to cover all, or two of them may read
            sources of which neither has all of the other's.

    Example:
        >>> drawn = sample_covering(torch.ones(3, 6, dtype=torch.bool), 2)
        >>> drawn.sum(1).tolist(), drawn.sum(0).tolist()
        ([2, 2, 2], [1, 1, 1, 1, 1, 1])
    """
    if usable.is_meta:
        return torch.empty_like(usable)
    device, usable = usable.device, usable.cpu()
    order = usable.sum(1).argsort(stable=True).tolist()
    counts = [int(usable[row].sum()) for row in order]
    if any((usable[a] & ~usable[b]).any() for a, b in pairwise(order)):
        raise ValueError(
            "a wiring in which every source is read cannot be drawn here: of two targets, one must "
            "be able to read all that the other can."
        )
    following = _following(counts, k)
    drawn = torch.zeros_like(usable)
    for row, ways in zip(order, following, strict=True):
        unread = usable[row] & ~drawn.any(0)
        chances = ways[int(unread.sum())]
        if not bool((chances > -torch.inf).any()):  # so in the first row, or never
            raise ValueError(
                f"{len(usable)} targets with K = {k} cannot read all of {counts[-1]} sources: "
                "raise fan_in (K), or take a random wiring that may leave some unread."
            )
        new = int(torch.multinomial(chances.softmax(0), 1, generator=generator))
        keys = torch.rand(usable.shape[1], generator=generator, device="cpu")
        for group, some in ((unread, new), (usable[row] & ~unread, len(chances) - 1 - new)):
            drawn[row, keys.masked_fill(~group, -1.0).topk(some).indices] = True
    return drawn.to(device)


def _following(counts: list[int], k: int) -> list[Tensor]:
    """For each target: the logarithm of the number of wirings of itself and all after it.

    Args:
        counts: usable sources of each target, ascending.
        k: how many a target reads.

    Returns:
        For each target `[unread + 1, read + 1]`, by the number of its usable sources that no target
        before it reads, and by how many of them it reads itself.
    """
    tables: list[Tensor] = []
    after = torch.tensor([0.0], dtype=torch.float64, device="cpu")  # one way, if all are read
    grown = counts[-1]
    for count in reversed(counts):
        fan_in = min(k, count)
        unread = torch.arange(count + 1, device="cpu")[:, None]
        new = torch.arange(fan_in + 1, device="cpu")
        left = unread - new + grown - count  # unread for the next target
        possible = (left >= 0) & (left < len(after))
        later = after[left.clamp(0, len(after) - 1)].masked_fill(~possible, -torch.inf)
        own = _log_choose(unread, new) + _log_choose(count - unread, fan_in - new)
        tables.append(own + later)
        after, grown = tables[-1].logsumexp(1), count
    return tables[::-1]


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    """The logarithm of the binomial coefficient, minus infinity where it is zero."""
    whole, part = n.double(), k.double()
    value = (whole + 1).lgamma() - (part + 1).lgamma() - (whole - part + 1).lgamma()
    return value.masked_fill((k < 0) | (k > n), -torch.inf)
