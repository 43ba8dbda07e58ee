"""How many weights each layer keeps: densities of layers, and their rounding to whole numbers."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

# How a density is shared out among layers.
Distribution = Literal["uniform", "erdos_renyi", "erk", "global"]
DISTRIBUTIONS = get_args(Distribution)


def erdos_renyi_densities(
    shapes: Sequence[Sequence[int]], density: float, kernel: bool = True
) -> list[float]:
    """Densities of layers that follow a sparse random graph (RigL, Section 3; SET, Equation 1).

    A layer of `n_out` times `n_in` channels and a kernel of `k_w` times `k_h` has a density in
    proportion to `(n_in + n_out + k_w + k_h) / (n_in n_out k_w k_h)`, so small layers stay denser.
    All layers together have the density that is asked for. A layer whose density would be above 1
    is dense, and the factor is computed again for the others.

    Args:
        shapes: shape of the weights of every layer, `[n_out, n_in, ...]`.
        density: share of all weights, above 0 and up to 1.
        kernel: whether the size of the kernel counts (ERK); otherwise only channels (ER).

    Returns:
        The density of every layer, at most 1.

    Example:
        >>> small, large = erdos_renyi_densities([(10, 10), (100, 100)], 0.1)
        >>> round(small, 3), round(large, 3)
        (0.918, 0.092)
    """
    sizes = [math.prod(shape) for shape in shapes]
    axes = [shape if kernel else shape[:2] for shape in shapes]
    raw = [sum(own) / math.prod(own) for own in axes]
    dense: set[int] = set()
    while len(dense) < len(shapes):
        others = [i for i in range(len(shapes)) if i not in dense]
        wanted = density * sum(sizes) - sum(sizes[i] for i in dense)
        factor = wanted / sum(raw[i] * sizes[i] for i in others)
        highest = max(raw[i] for i in others)
        if factor * highest <= 1:
            return [1.0 if i in dense else factor * raw[i] for i in range(len(shapes))]
        # Several at a time only if they are alike: each dense layer changes the factor.
        dense |= {i for i in others if raw[i] == highest}
    return [1.0] * len(shapes)


def round_counts(
    shares: Sequence[float], counts: Sequence[int], least: int = 1, exact: bool = False
) -> list[int]:
    """Whole numbers of weights from densities.

    Args:
        shares: density of every layer.
        counts: number of weights of every layer.
        least: how many weights a layer keeps at least, if it has as many.
        exact: whether the numbers sum to the rounded sum of all shares, or to more where `least`
            asks for it; those whose rounding loses most are then rounded up. Otherwise each is
            rounded by itself.

    Example:
        >>> round_counts([0.25, 0.25], [5, 5]), round_counts([0.25, 0.25], [5, 5], exact=True)
        ([1, 1], [1, 1])
        >>> round_counts([0.28, 0.28], [5, 5]), round_counts([0.28, 0.28], [5, 5], exact=True)
        ([1, 1], [2, 1])
    """
    wanted = [share * count for share, count in zip(shares, counts, strict=True)]
    floors = [min(least, count) for count in counts]
    if not exact:
        pairs = zip(wanted, floors, counts, strict=True)
        return [min(count, max(floor, round(one))) for one, floor, count in pairs]
    kept = [max(math.floor(one), floor) for one, floor in zip(wanted, floors, strict=True)]
    missing = round(sum(wanted)) - sum(kept)
    # Of equal remainders the first is rounded up.
    order = sorted(range(len(kept)), key=lambda i: (kept[i] - wanted[i], i))
    for index in order[: max(missing, 0)]:
        kept[index] = min(kept[index] + 1, counts[index])
    return kept
