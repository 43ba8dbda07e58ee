"""The best networks at every cost: which are selected, and their picture."""

import random

import pytest

from wiring_lightning.plots import Candidate, draw_pareto, select

# The choice


def test_nothing_beats_what_is_selected_and_something_beats_the_rest() -> None:
    for seed in range(200):
        dice = random.Random(seed)
        candidates = [
            Candidate(dice.choice("ab"), str(i), dice.randint(1, 6), dice.randint(1, 6) / 10, None)
            for i in range(dice.randint(1, 12))
        ]
        chosen = select(candidates)
        for one in candidates:
            beaten = any(
                other.family == one.family
                and other.cost <= one.cost
                and other.validation >= one.validation
                and (other.cost, other.validation) != (one.cost, one.validation)
                for other in candidates
            )
            twins = [
                other
                for other in candidates
                if (other.family, other.cost, other.validation)
                == (one.family, one.cost, one.validation)
            ]
            assert (one in chosen) == (not beaten and one is twins[0])


def test_the_test_accuracy_has_no_part_in_the_choice() -> None:
    first = [Candidate("a", str(i), i, (i * 7 % 5) / 5, i / 10) for i in range(8)]
    second = [Candidate(c.family, c.name, c.cost, c.validation, 1 - c.validation) for c in first]
    assert [c.name for c in select(first)] == [c.name for c in select(second)]


# The picture


def test_the_picture_shows_every_network_and_the_tests_of_the_selected() -> None:
    candidates = [
        Candidate("a", "1", 10, 0.50, 0.40),
        Candidate("a", "2", 20, 0.45, 0.99),
        Candidate("a", "3", 30, 0.60, None),
        Candidate("b", "4", 900, 0.55, 0.52),
    ]
    (axes,) = draw_pareto(candidates, "steps", "DATA").axes
    others, front, tests, others_b, front_b, tests_b = (
        list(map(tuple, line.get_xydata().tolist())) for line in axes.lines
    )
    assert (others, front, tests) == ([(20, 45)], [(10, 50), (30, 60)], [(10, 40)])
    assert (others_b, front_b, tests_b) == ([], [(900, pytest.approx(55))], [(900, 52)])
    assert axes.get_xscale() == "log"  # from 10 to 900
    assert axes.get_title(loc="left") == "DATA"
    with pytest.raises(ValueError, match="no candidate"):
        draw_pareto([], "steps")
