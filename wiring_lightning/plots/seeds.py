"""Draw what several runs of every method scored: a point for each run, the mean and deviation."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from textwrap import wrap

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wiring_lightning.plots import style
from wiring_lightning.plots.spread import spread

_LONGEST = 44  # letters of a name in one line
_MOST_LINES = 6  # of one name
_LINE = 0.17  # inches that a line more needs


def draw_seeds(
    scores: Mapping[str, Sequence[float]], unit: str, title: str | None = None
) -> Figure:
    """Draw a line for every method: its runs as circles, mean and deviation as a bar.

    Args:
        scores: the scores of the runs of every method, in the order from top to bottom.
        unit: what a score is, such as `"test/acc (%)"`.
        title: headline.

    Returns:
        A figure; the bar of a single run has no length.

    Raises:
        ValueError: if there is no score to draw, or one is NaN or infinite.

    Example:
        >>> figure = draw_seeds({"learned": [90.0, 92.0], "random": [80.0]}, "test/acc (%)")
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['learned', 'random']
    """
    if not scores or not all(map(len, scores.values())):
        raise ValueError("There is no score to draw: give at least one for every method.")
    names = [_wrapped(name, place) for place, name in enumerate(scores, start=1)]
    # Rows are equally high: as the one with most lines, of which three fit without more room.
    row = 0.55 + _LINE * max(0, max(name.count("\n") for name in names) - 2)
    figure, axes = style.new_axes(8.0, 1.5 + row * len(scores), title)
    for line, values in enumerate(scores.values()):
        color, _ = style.series(line)
        deviation = spread(values)
        axes.plot(values, [line] * len(values), "o", color=color, markersize=6, mfc="none")
        axes.errorbar(
            [fmean(values)], [line + 0.24], xerr=[deviation if len(values) > 1 else 0.0],
            color=color, marker="s", markersize=4.5, linewidth=1.6, capsize=3,
        )  # fmt: skip
    axes.set_yticks(range(len(scores)), names, fontsize=9)
    axes.set_ylim(len(scores) - 0.45, -0.55)
    style.set_axes(axes, unit, "", grid="x")
    style.legend_below(
        figure,
        [Line2D([], [], color=style.INK, marker="o", mfc="none", linestyle="", label="a run"),
         Line2D([], [], color=style.INK, marker="s", markersize=4.5, linewidth=1.6,
                label="mean ± standard deviation")],
    )  # fmt: skip
    return figure


def _wrapped(name: str, place: int) -> str:
    """A name in lines; one that is cut gets its place, so that no two look alike."""
    lines = wrap(name, _LONGEST) or [""]
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], f"... (row {place})"]
    return "\n".join(lines)
