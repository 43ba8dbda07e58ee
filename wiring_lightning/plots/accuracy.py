"""Accuracy over the fan-in and over the size of networks, as means of several runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wiring_lightning.plots import style
from wiring_lightning.plots.spread import spread

_K = TypeVar("_K")

_BLUE, _ORANGE, _, _PINK, _, _ = style.SERIES
# Colour and marker (or line style) by the name of the wiring; `_OTHER` for any other name.
_STYLES = {
    "learned": (style.LEARNED, "o"),
    "random": (style.END, "s"),
    "covered": (_ORANGE, "v"),
    "real": (_PINK, "^"),
    "full": (style.LIVE, "--"),
    "previous": (_BLUE, "-."),
}
_OTHER = (style.PRUNED, "D")


@dataclass(frozen=True)
class Measurement:
    """The accuracy of one trained network.

    Args:
        wiring: the kind of wiring, such as `"learned"`, `"random"` or `"full"`.
        fan_in: K; `None` for a fixed wiring, which has no fan-in.
        accuracy: share of test examples that it classifies correctly, 0 to 1.
    """

    wiring: str
    fan_in: int | None
    accuracy: float


def draw_accuracy(measurements: Sequence[Measurement], title: str | None = None) -> Figure:
    """Draw accuracy over the fan-in K (MaskConnect, Figures 2 and 3).

    Several measurements of one wiring and K are drawn as their mean, with the sample standard
    deviation as error bar and their number n. A wiring without K is a horizontal line, with the
    deviation as a band.

    Args:
        measurements: in any order.
        title: a headline.

    Raises:
        ValueError: if there is no measurement, or an accuracy is NaN or infinite.

    Example:
        >>> runs = [Measurement("learned", 1, 0.5), Measurement("learned", 1, 0.7),
        ...         Measurement("learned", 4, 0.8), Measurement("full", None, 0.75)]
        >>> figure = draw_accuracy(runs)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['n = 2', 'n = 1']
    """
    if not measurements:
        raise ValueError("There is no measurement to draw.")
    groups = _group((one.wiring, one.fan_in, one.accuracy) for one in measurements)
    figure, axes = style.new_axes(6.4, 4.2, title)
    for wiring, by_fan_in in groups.items():
        fixed = by_fan_in.pop(None, None)
        if fixed:
            _draw_reference(axes, wiring, fixed)
        if by_fan_in:
            _draw_curve(axes, wiring, {k: by_fan_in[k] for k in by_fan_in if k is not None})
    ticks = sorted({one.fan_in for one in measurements if one.fan_in is not None})
    axes.set_xticks(ticks, labels=[str(k) for k in ticks])
    if ticks:
        margin = max(0.5, 0.08 * (ticks[-1] - ticks[0]))
        axes.set_xlim(ticks[0] - margin, ticks[-1] + margin)
    axes.margins(y=0.12)
    style.set_axes(axes, "fan-in K" if ticks else "", "test accuracy (%)", grid="y")
    style.legend_on_the_right(figure)
    return figure


def _draw_curve(axes: Axes, wiring: str, by_fan_in: dict[int, list[float]]) -> None:
    """Draw the means of a wiring; their number n is in the legend if it is the same everywhere."""
    color, marker = _STYLES.get(wiring, _OTHER)
    counts = [len(values) for values in by_fan_in.values()]
    same = len(set(counts)) == 1
    label = f"{wiring} (n = {counts[0]})" if same else wiring
    _draw_means(axes, by_fan_in.items(), color, marker, label)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}  # hides lines
    for fan_in, values in [] if same else sorted(by_fan_in.items()):
        axes.annotate(f"n = {len(values)}", (fan_in, fmean(values)), xytext=(6, -11), bbox=box,
                      textcoords="offset points", size=8, color=color)  # fmt: skip


def _draw_reference(axes: Axes, wiring: str, values: list[float]) -> None:
    """Draw the mean of a wiring without a fan-in as a horizontal line."""
    color, line = _STYLES.get(wiring, _OTHER)
    height, deviation = fmean(values), spread(values)
    drawn = line if line.startswith("-") else ":"
    label = f"{wiring} (n = {len(values)})"
    axes.axhline(height, color=color, linestyle=drawn, linewidth=1.3, label=label, zorder=1)
    if len(values) > 1:
        axes.axhspan(height - deviation, height + deviation, color=color, alpha=0.12, linewidth=0)


@dataclass(frozen=True)
class Efficiency:
    """Size and accuracy of one trained network.

    Args:
        family: networks of one family share a line, such as `"SparseNet, log"`.
        parameters: number of parameters.
        multiply_adds: number of multiply-adds for one example.
        accuracy: share of test examples that it classifies correctly, 0 to 1.
        setting: networks of one family and setting become one point, at their mean size, such as
            those that learned wirings of different sizes; by default networks of one size.
    """

    family: str
    parameters: int
    multiply_adds: int
    accuracy: float
    setting: str | None = None


def draw_efficiency(networks: Sequence[Efficiency], title: str | None = None) -> Figure:
    """Draw accuracy over parameters and over multiply-adds (SparseNet, Figure 2).

    Networks of one family and setting are drawn as their mean at their mean size, with the sample
    standard deviation as error bar.

    Args:
        networks: in any order.
        title: a headline.

    Raises:
        ValueError: if there is no network, or an accuracy is NaN or infinite.

    Example:
        >>> runs = [Efficiency("dense", 1000, 10**6, 0.5), Efficiency("dense", 1000, 10**6, 0.7),
        ...         Efficiency("dense", 9000, 10**7, 0.8)]
        >>> figure = draw_efficiency(runs)
        >>> [round(y) for y in figure.axes[0].containers[0][0].get_ydata()]
        [60, 80]
    """
    if not networks:
        raise ValueError("There is no network to draw.")
    points: dict[str, dict[Any, list[Efficiency]]] = {}
    for one in networks:
        point = one.setting or (one.parameters, one.multiply_adds)
        points.setdefault(one.family, {}).setdefault(point, []).append(one)
    figure = style.new_figure(9.6, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, size in zip(panels, ("parameters", "multiply_adds"), strict=True):
        for index, (family, pooled) in enumerate(points.items()):
            means = [
                (fmean(getattr(one, size) for one in same), [100 * one.accuracy for one in same])
                for same in pooled.values()
            ]
            _draw_means(axes, means, *style.series(index), family)
        axes.set_xscale("log")
        axes.margins(x=0.12, y=0.12)
        style.use_sizes(axes.xaxis)
        style.set_axes(axes, size.replace("_", "-"), "", grid="both")
    panels[0].set_ylabel("test accuracy (%)", color=style.INK)
    if title:
        panels[0].set_title(title, loc="left", size=11)
    style.legend_below(figure, panels[0].get_legend_handles_labels()[0])
    return figure


def _group(measured: Iterable[tuple[str, _K, float]]) -> dict[str, dict[_K, list[float]]]:
    """Accuracies in percent, by series and then by position on the horizontal axis."""
    groups: dict[str, dict[_K, list[float]]] = {}
    for series, place, accuracy in measured:
        groups.setdefault(series, {}).setdefault(place, []).append(100 * accuracy)
    return groups


def _draw_means(
    axes: Axes, points: Iterable[tuple[float, list[float]]], color: str, marker: str, label: str
) -> None:
    """A line through the means, with the deviations as error bars."""
    places, values = zip(*sorted(points), strict=True)
    axes.errorbar(
        places, [fmean(several) for several in values], yerr=[spread(one) for one in values],
        color=color, marker=marker, markersize=5.5, linewidth=1.3, capsize=3, label=label,
    )  # fmt: skip
