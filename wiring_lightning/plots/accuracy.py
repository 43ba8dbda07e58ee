"""Accuracy over the fan-in, from several runs."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wiring_lightning.plots.style import DPI, END, INK, LEARNED, LIVE, PRUNED

# Colour and marker (or line style) by the name of the wiring; others take turns.
_STYLES = {
    "learned": (LEARNED, "o"),
    "random": (END, "s"),
    "real": ("#CC79A7", "^"),
    "full": (LIVE, "--"),
    "previous": ("#0072B2", "-."),
}
_OTHER = (PRUNED, "D")


@dataclass(frozen=True)
class Measurement:
    """The accuracy of one trained network.

    Args:
        wiring: how its wiring came about, such as `"learned"`, `"random"` or `"full"`.
        fan_in: K; `None` if the wiring has none, because it is fixed as a whole.
        accuracy: share of test examples that it classifies correctly, 0 to 1.
    """

    wiring: str
    fan_in: int | None
    accuracy: float


def draw_accuracy(measurements: Sequence[Measurement], title: str | None = None) -> Figure:
    """Draw accuracy over the fan-in K (MaskConnect, Figures 2 and 3).

    Several measurements of one wiring with one K become their mean, with the sample standard
    deviation as error bar; n says how many they are. A wiring without K is a horizontal line, with
    the deviation as a band.

    Args:
        measurements: in any order.
        title: a headline.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no measurement.

    Example:
        >>> runs = [Measurement("learned", 1, 0.5), Measurement("learned", 1, 0.7),
        ...         Measurement("learned", 4, 0.8), Measurement("full", None, 0.75)]
        >>> figure = draw_accuracy(runs)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['n = 2', 'n = 1']
    """
    if not measurements:
        raise ValueError("There is no measurement to draw.")
    groups: dict[str, dict[int | None, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in measurements:
        groups[one.wiring][one.fan_in].append(100 * one.accuracy)
    figure = Figure(figsize=(6.4, 4.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for wiring, by_fan_in in groups.items():
        fixed = by_fan_in.pop(None, None)
        if fixed:
            _draw_reference(axes, wiring, fixed)
        if by_fan_in:
            _draw_curve(axes, wiring, {k: by_fan_in[k] for k in by_fan_in if k is not None})
    _set_axes(axes, {one.fan_in for one in measurements if one.fan_in is not None})
    if title:
        axes.set_title(title, loc="left", size=11)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _draw_curve(axes: Axes, wiring: str, by_fan_in: dict[int, list[float]]) -> None:
    color, marker = _STYLES.get(wiring, _OTHER)
    fan_ins = sorted(by_fan_in)
    means = [fmean(by_fan_in[k]) for k in fan_ins]
    spreads = [_spread(by_fan_in[k]) for k in fan_ins]
    counts = [len(by_fan_in[k]) for k in fan_ins]
    same = len(set(counts)) == 1
    label = f"{wiring} (n = {counts[0]})" if same else wiring
    axes.errorbar(fan_ins, means, yerr=spreads, color=color, marker=marker, markersize=5.5,
                  linewidth=1.3, capsize=3, label=label)  # fmt: skip
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}  # hides lines
    for fan_in, height, count in zip(fan_ins, means, [] if same else counts, strict=False):
        axes.annotate(f"n = {count}", (fan_in, height), xytext=(6, -11), bbox=box,
                      textcoords="offset points", size=8, color=color)  # fmt: skip


def _draw_reference(axes: Axes, wiring: str, values: list[float]) -> None:
    color, line = _STYLES.get(wiring, _OTHER)
    height, spread = fmean(values), _spread(values)
    style = line if line.startswith("-") else ":"
    label = f"{wiring} (n = {len(values)})"
    axes.axhline(height, color=color, linestyle=style, linewidth=1.3, label=label, zorder=1)
    if len(values) > 1:
        axes.axhspan(height - spread, height + spread, color=color, alpha=0.12, linewidth=0)


def _set_axes(axes: Axes, fan_ins: Iterable[int]) -> None:
    ticks = sorted(fan_ins)
    axes.set_xticks(ticks, labels=[str(k) for k in ticks])
    if ticks:
        margin = max(0.5, 0.08 * (ticks[-1] - ticks[0]))
        axes.set_xlim(ticks[0] - margin, ticks[-1] + margin)
        axes.set_xlabel("fan-in K", color=INK)
    axes.margins(y=0.12)
    axes.set_ylabel("test accuracy (%)", color=INK)
    axes.grid(axis="y", color="#E3E5E8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _spread(values: Sequence[float]) -> float:
    """The sample standard deviation, not a number (and so not drawn) of a single value."""
    return stdev(values) if len(values) > 1 else nan
