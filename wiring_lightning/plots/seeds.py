"""Draw what several runs of every method scored: a point for each run, the mean and deviation."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wiring_lightning.plots import style

_LONGEST = 44  # letters of a name in one line


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
        ValueError: if there is no score to draw.

    Example:
        >>> figure = draw_seeds({"learned": [90.0, 92.0], "random": [80.0]}, "test/acc (%)")
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['learned', 'random']
    """
    if not scores or not all(map(len, scores.values())):
        raise ValueError("There is no score to draw: give at least one for every method.")
    figure, axes = style.new_axes(8.0, 1.5 + 0.55 * len(scores), title)
    for line, values in enumerate(scores.values()):
        color, _ = style.series(line)
        axes.plot(values, [line] * len(values), "o", color=color, markersize=6, mfc="none")
        axes.errorbar(
            [fmean(values)], [line + 0.24], xerr=[stdev(values) if len(values) > 1 else 0.0],
            color=color, marker="s", markersize=4.5, linewidth=1.6, capsize=3,
        )  # fmt: skip
    axes.set_yticks(range(len(scores)), [_shortened(name) for name in scores], fontsize=9)
    axes.set_ylim(len(scores) - 0.45, -0.55)
    style.set_axes(axes, unit, "", grid="x")
    style.legend_below(
        figure,
        [Line2D([], [], color=style.INK, marker="o", mfc="none", linestyle="", label="a run"),
         Line2D([], [], color=style.INK, marker="s", markersize=4.5, linewidth=1.6,
                label="mean ± standard deviation")],
    )  # fmt: skip
    return figure


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
