"""The front of accuracy and cost, and its picture."""

from math import inf, nan

import pytest

from tests.plots.wirings import is_inside
from wiring_lightning.plots import Candidate, draw_pareto, select

GOOD = [Candidate("a", "worse", 1, 0.79, 0.8), Candidate("a", "better", 1, 0.8, 0.81),
        Candidate("a", "dear", 2, 0.9, 0.9)]  # fmt: skip
ODD = [Candidate("a", "nan", 1, nan, nan), Candidate("a", "inf", 0, inf, 1.0),
       Candidate("a", "-inf", 1, -inf, 0.0), Candidate("a", "cost", nan, 0.9, 0.9)]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=lambda one: one.name)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_no_number_changes_the_front_of_others(odd: Candidate, place: int) -> None:
    candidates = [*GOOD[:place], odd, *GOOD[place:]]
    assert [one.name for one in select(candidates)] == ["better", "dear"]
    assert select([odd]) == []
    (axes,) = draw_pareto(candidates, "parameters").axes
    (before,) = draw_pareto(GOOD, "parameters").axes
    assert (axes.get_xlim(), axes.get_ylim()) == (before.get_xlim(), before.get_ylim())
    with pytest.raises(ValueError, match="no candidate"):
        draw_pareto([odd], "parameters")


@pytest.mark.parametrize("name", ["Net", "SomeNetwork, some pattern, searched", "word " * 30])
def test_many_families_are_told_apart(name: str) -> None:
    """By colour and marks, and by names that are inside the picture."""
    one = [Candidate(f"{name}{n}", "run", n + 1, n / 20, n / 20) for n in range(13)]
    figure = draw_pareto(one, "parameters")
    figure.canvas.draw()
    (axes,) = figure.axes
    fronts = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert len({(line.get_color(), line.get_marker()) for line in fronts}) == 13
    assert is_inside(figure.legends[0], figure)
    assert axes.get_window_extent().height > 150
