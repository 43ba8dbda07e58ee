"""Wirings that are planted in data."""

from collections import Counter
from itertools import combinations

import pytest
import torch

from wiring_lightning.functional import planted_edges, planted_sources


def test_every_set_of_sources_is_drawn_equally_often() -> None:
    counts = Counter(map(tuple, planted_sources(60_000, 5, 2).tolist()))
    assert counts.keys() == set(combinations(range(5), 2))
    expected = 60_000 / 10
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 30  # 9 degrees of freedom: 30 has a probability below 0.001


def test_a_draw_depends_on_its_arguments_only() -> None:
    first = planted_sources(8, 8, 2, seed=3)
    state = torch.get_rng_state()
    torch.rand(5)
    assert torch.equal(planted_sources(8, 8, 2, seed=3), first)
    torch.set_rng_state(state)
    planted_sources(8, 8, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(planted_sources(8, 8, 2, seed=4), first)


def test_the_mask_has_the_edges_and_no_others() -> None:
    chosen = planted_sources(6, 9, 4)
    mask = planted_edges(chosen, 9)
    assert [row.nonzero().flatten().tolist() for row in mask] == chosen.tolist()


@pytest.mark.parametrize("fan_in", [0, 4])
def test_a_target_has_a_source_and_not_more_than_there_are(fan_in: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and .* 3 here, got {fan_in}"):
        planted_sources(2, 3, fan_in)
