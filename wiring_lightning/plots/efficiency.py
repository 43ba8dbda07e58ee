"""Accuracy over the size of networks, from several runs."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from wiring_lightning.plots.style import DPI, INK, SERIES

_MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Efficiency:
    """What one trained network costs and achieves.

    Args:
        family: networks of one family share a line, such as `"SparseNet, log"`.
        parameters: of the network.
        multiply_adds: for one example.
        accuracy: share of test examples that it classifies correctly, 0 to 1.
    """

    family: str
    parameters: int
    multiply_adds: int
    accuracy: float


def draw_efficiency(networks: Sequence[Efficiency], title: str | None = None) -> Figure:
    """Draw accuracy over parameters and over multiply-adds (SparseNet, Figure 2).

    Networks of one family and one size become their mean, with the sample standard deviation as
    error bar.

    Args:
        networks: in any order.
        title: a headline.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no network.

    Example:
        >>> runs = [Efficiency("dense", 1000, 10**6, 0.5), Efficiency("dense", 1000, 10**6, 0.7),
        ...         Efficiency("dense", 9000, 10**7, 0.8)]
        >>> figure = draw_efficiency(runs)
        >>> [round(y) for y in figure.axes[0].containers[0][0].get_ydata()]
        [60, 80]
    """
    if not networks:
        raise ValueError("There is no network to draw.")
    groups: dict[str, dict[tuple[int, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in networks:
        groups[one.family][one.parameters, one.multiply_adds].append(100 * one.accuracy)
    figure = Figure(figsize=(9.6, 4.2), dpi=DPI, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, sharey=True)
    for index, (family, by_size) in enumerate(groups.items()):
        for axis, axes in enumerate((left, right)):
            sizes = sorted(by_size, key=lambda size: size[axis])
            values = [by_size[size] for size in sizes]
            axes.errorbar(
                [size[axis] for size in sizes], [fmean(value) for value in values],
                yerr=[stdev(value) if len(value) > 1 else nan for value in values],
                color=SERIES[index % len(SERIES)], marker=_MARKERS[index % len(_MARKERS)],
                markersize=5.5, linewidth=1.3, capsize=3, label=family,
            )  # fmt: skip
    _set_axes(left, "parameters")
    _set_axes(right, "multiply-adds")
    left.set_ylabel("test accuracy (%)", color=INK)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    if title:
        left.set_title(title, loc="left", size=11)
    return figure


def _set_axes(axes: Axes, name: str) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.12)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(name, color=INK)
    axes.grid(color="#E3E5E8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
