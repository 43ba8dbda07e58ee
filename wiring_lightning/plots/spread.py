"""How far the scores of several runs lie apart."""

from collections.abc import Sequence
from math import isfinite, nan
from statistics import stdev


def spread(values: Sequence[float]) -> float:
    """The sample standard deviation; NaN of a single value.

    Raises:
        ValueError: if a value is NaN or infinite.

    Example:
        >>> spread([1.0, 2.0, 3.0])
        1.0
    """
    for value in values:
        if not isfinite(value):
            raise ValueError(f"A score is {value}: a picture has no place for it, leave it out.")
    return stdev(values) if len(values) > 1 else nan
