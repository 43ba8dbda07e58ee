"""Covering wirings against the list of all of them."""

from collections import Counter
from itertools import combinations, product
from math import comb, factorial

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from wiring_lightning.functional import sample_covering

Wiring = tuple[tuple[int, ...], ...]

ALL = torch.ones(8, 8, dtype=torch.bool)
EARLIER = ALL.tril()
FEWER = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0], [0, 1, 1, 1]]).bool()  # in no order
NOBODY = torch.tensor([[1, 0, 1, 1], [1, 0, 1, 1]]).bool()  # no target may read the second source
CASES = {
    "K T = C": (ALL[:2, :4], 2),
    "permutations": (ALL[:4, :4], 1),
    "K = 1, more targets": (ALL[:4, :3], 1),
    "K = 2": (ALL[:3, :4], 2),
    "K = C": (ALL[:2, :3], 3),
    "one source": (ALL[:3, :1], 1),
    "earlier ones": (EARLIER[:5, :5], 2),
    "earlier ones, K = 1": (EARLIER[:5, :5], 1),
    "candidates of their own": (FEWER, 2),
    "a source for nobody": (NOBODY, 2),
}


def read_by(drawn: Tensor) -> Wiring:
    """The sources of every target."""
    return tuple(tuple(row.nonzero().flatten().tolist()) for row in drawn)


def all_covering(usable: Tensor, k: int) -> set[Wiring]:
    """Every wiring in which all sources are read that some target may read."""
    choices = [
        list(combinations(row.nonzero().flatten().tolist(), min(k, int(row.sum()))))
        for row in usable
    ]
    wanted = set(usable.any(0).nonzero().flatten().tolist())
    return {one for one in product(*choices) if {s for row in one for s in row} == wanted}


@pytest.mark.parametrize("name", CASES)
def test_every_covering_wiring_is_drawn_as_often_as_every_other(name: str) -> None:
    usable, k = CASES[name]
    wirings = all_covering(usable, k)
    draws = 10 * len(wirings)
    generator = torch.Generator().manual_seed(0)
    seen = Counter(read_by(sample_covering(usable, k, generator)) for _ in range(draws))
    assert set(seen) <= wirings  # K distinct sources a target, every source read
    statistic = sum((seen[one] - 10) ** 2 / 10 for one in wirings)
    assert chi2.sf(statistic, len(wirings) - 1) > 0.01 if len(wirings) > 1 else statistic == 0


def test_the_list_of_this_test_is_complete() -> None:
    """Its lengths, by the principle of inclusion and exclusion."""
    assert len(all_covering(*CASES["permutations"])) == factorial(4)
    surjections = sum((-1) ** j * comb(4, j) * comb(4 - j, 2) ** 3 for j in range(3))
    assert len(all_covering(*CASES["K = 2"])) == surjections
    assert len(all_covering(*CASES["earlier ones, K = 1"])) == 1  # the chain


@pytest.mark.parametrize(("usable", "k"), [(ALL, 1), (ALL, 2), (ALL[:6], 3)])
def test_no_source_has_more_readers_than_the_others(usable: Tensor, k: int) -> None:
    draws, (targets, sources) = 300, usable.shape
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([sample_covering(usable, k, generator) for _ in range(draws)]).double()
    assert (drawn.sum(2) == k).all()
    assert drawn.any(1).all()
    # Every edge is as likely as every other; its draws are independent of each other.
    share = k / sources
    spread = (share * (1 - share) / draws) ** 0.5
    assert ((drawn.mean(0) - share).abs() < 4.5 * spread).all()
    readers = drawn.sum(1)
    error = readers.std(0) / draws**0.5
    assert ((readers.mean(0) - targets * share).abs() <= 4 * error + 1e-12).all()


def test_a_seed_draws_the_same_and_another_seed_something_else() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 3, 4)]
    first, again, other = (sample_covering(ALL, 2, one) for one in generators)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_large_wirings_are_covered_too() -> None:
    for usable, k in ((torch.ones(64, 64).bool(), 1), (torch.ones(200, 200).bool().tril(), 10)):
        drawn = sample_covering(usable, k)
        assert drawn.any(0).all()
        assert not (drawn & ~usable).any()
        assert torch.equal(drawn.sum(1), usable.sum(1).clamp_max(k))


@pytest.mark.parametrize(
    ("usable", "k"),
    [(ALL[:3], 2), (ALL[:5], 1), (torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1]]).bool(), 2)],
)
def test_too_few_edges_are_refused(usable: Tensor, k: int) -> None:
    assert not all_covering(usable, k)
    said = f"{len(usable)} targets with K = {k} cannot read all of {usable.shape[1]} sources"
    with pytest.raises(ValueError, match=said):
        sample_covering(usable, k)


def test_candidates_that_only_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="one must be able to read all that the other can"):
        sample_covering(torch.tensor([[1, 1, 0], [0, 1, 1]]).bool(), 2)
