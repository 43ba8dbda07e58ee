"""Draw how dense the layers of a network with sparse weights are, by depth."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from wiring_lightning.costs import LayerCost
from wiring_lightning.costs.layers import sum_of
from wiring_lightning.costs.shares import percent
from wiring_lightning.plots import style

_MAX_WIDTH = 13.0  # inches
_MAX_NAMED = 64  # up to so many layers have their names below
_LOWEST = 0.03  # below this density bars are too short for a linear axis


def draw_densities(rows: Sequence[LayerCost], title: str | None = None) -> Figure:
    """Draw the share of its weights that each layer keeps, from the input to the output.

    The dashed line is the share of all weights together. Layers that are not `sparse` are grey. If
    a layer has less than 3 %, the axis is logarithmic.

    Args:
        rows: the layers, as of `costs.layer_costs`.
        title: a headline; by default how many of all weights are there.

    Raises:
        ValueError: if there is no layer.

    Example:
        >>> from torch import nn
        >>> from wiring_lightning.costs import layer_costs
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> network[0].weight.data[0] = 0
        >>> figure = draw_densities(layer_costs(network))
        >>> [round(float(bar.get_height()), 2) for bar in figure.axes[0].containers[0]]
        [0.67, 1.0]
        >>> figure.axes[0].get_title(loc="left")
        '14 of 18 weights (77.8%)'
    """
    if not rows:
        raise ValueError("There is no layer with a weight matrix to draw.")
    everything = sum_of(rows)
    share = percent(everything.density)
    title = title or f"{everything.kept:,} of {everything.weights:,} weights ({share})"
    figure, axes = style.new_axes(min(_MAX_WIDTH, 3.6 + 0.2 * len(rows)), 4.2, title)
    places = range(1, len(rows) + 1)
    colors = [style.LIVE if row.sparse else style.PRUNED for row in rows]
    axes.bar(places, [row.density for row in rows], width=0.8, color=colors)
    axes.axhline(everything.density, color=style.INK, linestyle="--", linewidth=0.9)
    present = [row.density for row in rows if row.kept]
    if min(present, default=1.0) < _LOWEST:
        axes.set_yscale("log")
        axes.set_ylim(min(present) / 2, 1.2)
    else:
        axes.set_ylim(0, 1.05)
    named = len(rows) <= _MAX_NAMED
    style.set_axes(axes, "" if named else "layer, from the input on", "density", grid="y")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    axes.set_xlim(0.4, len(rows) + 0.6)
    if named:
        axes.set_xticks(places, [row.name for row in rows], rotation=90, fontsize=7)
    kinds = [(style.LIVE, "sparse", True), (style.PRUNED, "dense", False)]
    entries = [
        Patch(color=color, label=label)
        for color, label, sparse in kinds
        if any(row.sparse is sparse for row in rows)
    ]
    line = Line2D([], [], color=style.INK, linestyle="--", linewidth=0.9, label="all together")
    figure.legend(handles=[*entries, line], loc="outside right upper", frameon=False, fontsize=9)
    return figure
