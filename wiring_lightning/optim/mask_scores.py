"""Scores of sparse weights: which of them go, and which absent ones come."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

# By what present weights stay, and by what absent ones come.
Drop = Literal["magnitude", "sensitivity", "random"]
Grow = Literal["gradient", "random", "momentum"]
DROPS, GROWS = get_args(Drop), get_args(Grow)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a score is computed from, for one parameter.

    Args:
        weight: the sparse weights, zero where they are absent.
        gradient: the dense gradient of the last step, also of absent weights.
        noise: draws a tensor of this shape, uniform in [0, 1), the same on all ranks.
        average: the average of dense gradients over steps; only where growth is by momentum.
    """

    weight: Tensor
    gradient: Tensor
    noise: Callable[[], Tensor]
    average: Tensor | None = None


Score = Callable[[Seen], Tensor]


def magnitude(seen: Seen) -> Tensor:
    """`|w|`."""
    return seen.weight.abs()


def sensitivity(seen: Seen) -> Tensor:
    """`|g w|`, the change of the loss without the weight, to first order (SNIP, Equation 6)."""
    return (seen.gradient * seen.weight).abs()


def gradient(seen: Seen) -> Tensor:
    """`|g|`, also of absent weights (RigL, Algorithm 1)."""
    return seen.gradient.abs()


def momentum(seen: Seen) -> Tensor:
    """The size of the averaged gradient, also of absent weights."""
    if seen.average is None:
        raise ValueError("growth by momentum needs the averaged gradient: give `average`, below 1.")
    return seen.average.abs()


def random(seen: Seen) -> Tensor:
    """A random rank."""
    return seen.noise()


SCORES: dict[str, Score] = {
    "magnitude": magnitude,
    "sensitivity": sensitivity,
    "gradient": gradient,
    "momentum": momentum,
    "random": random,
}
