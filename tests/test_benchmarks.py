"""What the benchmarks say of their numbers."""

import re

import pytest
from scipy.stats import binom

from benchmarks.steps import ratio


@pytest.mark.parametrize("rounds", [6, 15, 31, 41])
def test_the_interval_of_a_ratio_covers_the_median_in_95_of_100_runs(rounds: int) -> None:
    ranks = [float(rank) for rank in range(rounds, 0, -1)]
    found = re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", ratio(ranks, [1.0] * rounds))
    assert found is not None
    median, low, high = map(float, found.groups())
    assert median == (rounds + 1) / 2
    assert low + high == rounds + 1
    # The true median lies between two ranks if neither too few nor too many ratios are below it.
    covered = binom.cdf(high - 1, rounds, 0.5) - binom.cdf(low - 1, rounds, 0.5)
    narrower = binom.cdf(high - 2, rounds, 0.5) - binom.cdf(low, rounds, 0.5)
    assert narrower < 0.95 <= covered
