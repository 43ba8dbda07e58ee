"""Draw accuracy over cost, with the models that the validation accuracy selects."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wiring_lightning.plots import style

# Marks of validation and of test accuracies, for as many families as there are colours each.
_MARKS = (("o", "x"), ("s", "+"), ("^", "1"), ("D", "2"), ("v", "3"), ("P", "4"))


@dataclass(frozen=True)
class Candidate:
    """A trained network that could be chosen.

    Args:
        family: networks that are compared with each other, such as `"ResNetFabric, searched"`.
        name: name of the run.
        cost: cost of the network.
        validation: accuracy on the validation images, 0 to 1.
        test: accuracy on the test images, 0 to 1; `None` if it was not measured.
    """

    family: str
    name: str
    cost: float
    validation: float
    test: float | None


def select(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The Pareto front of every family by cost and validation accuracy.

    Test accuracies are not used. Of equal candidates the first one is kept. The selected ones of a
    family are in order of their cost. A cost or validation accuracy that is NaN or infinite is
    that of no candidate.

    Example:
        >>> runs = [Candidate("a", "cheap", 1, 0.7, 0.6), Candidate("a", "good", 3, 0.9, 0.8),
        ...         Candidate("a", "beaten", 2, 0.6, 0.9), Candidate("b", "alone", 9, 0.1, 0.1)]
        >>> [one.name for one in select(runs)]
        ['cheap', 'good', 'alone']
    """
    families: dict[str, list[Candidate]] = defaultdict(list)
    for one in _finite(candidates):
        families[one.family].append(one)
    chosen = []
    for family in families.values():
        best = float("-inf")
        for one in sorted(family, key=lambda one: (one.cost, -one.validation)):
            if one.validation > best:
                best = one.validation
                chosen.append(one)
    return chosen


def draw_pareto(candidates: Sequence[Candidate], unit: str, title: str | None = None) -> Figure:
    """Draw accuracy over cost (BSN, Figures 2 and 7).

    Circles are validation accuracies; those of the Pareto front are filled and joined by a line.
    Crosses are test accuracies of the front. Every family has its own colour, and other marks where
    colours begin anew.

    Args:
        candidates: in any order.
        unit: unit of the cost, the label of the horizontal axis.
        title: a headline.

    Raises:
        ValueError: if there is no candidate with a finite cost and validation accuracy.

    Example:
        >>> runs = [Candidate("a", "cheap", 1e6, 0.7, 0.6), Candidate("a", "good", 3e6, 0.9, 0.8)]
        >>> draw_pareto(runs, "multiply-adds").axes[0].get_xlabel()
        'multiply-adds'
    """
    candidates = _finite(candidates)
    if not candidates:
        raise ValueError("There is no candidate to draw.")
    chosen = select(candidates)
    figure, axes = style.new_axes(6.4, 4.2, title)
    for number, family in enumerate(dict.fromkeys(one.family for one in candidates)):
        color, _ = style.series(number)
        mark, cross = _MARKS[number // len(style.SERIES) % len(_MARKS)]
        own = [one for one in candidates if one.family == family]
        front = [one for one in chosen if one.family == family]
        rest = [one for one in own if one not in front]
        axes.plot([one.cost for one in rest], [100 * one.validation for one in rest], mark,
                  color=color, markerfacecolor="white", markersize=5, alpha=0.7)  # fmt: skip
        axes.plot([one.cost for one in front], [100 * one.validation for one in front], f"-{mark}",
                  color=color, markersize=5, linewidth=1.2, label=family)  # fmt: skip
        tested = [(one.cost, 100 * one.test) for one in front if one.test is not None]
        axes.plot([cost for cost, _ in tested], [test for _, test in tested], cross,
                  color=color, markersize=7, markeredgewidth=1.8)  # fmt: skip
    costs = [one.cost for one in candidates]
    if min(costs) > 0 and max(costs) > 20 * min(costs):
        axes.set_xscale("log")
    axes.margins(0.06, 0.1)
    style.use_sizes(axes.xaxis)
    style.set_axes(axes, unit, "accuracy (%)", grid="both")
    marks = [
        Line2D([], [], color=style.INK, marker="o", linestyle="-", label="validation, selected"),
        Line2D([], [], color=style.INK, marker="o", linestyle="", markerfacecolor="white",
               label="validation, others"),
        Line2D([], [], color=style.INK, marker="x", linestyle="", markeredgewidth=1.8, markersize=7,
               label="test, selected"),
    ]  # fmt: skip
    style.legend_below(figure, [*marks, *axes.get_legend_handles_labels()[0]])
    return figure


def _finite(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those whose cost and validation accuracy are numbers that can be compared."""
    return [one for one in candidates if isfinite(one.cost) and isfinite(one.validation)]
