"""How many branches are live, by depth."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wiring_lightning.plots.style import (
    DPI,
    INK,
    LEARNED,
    LIVE,
    check_one,
    inner_nodes,
    row_noun,
)
from wiring_lightning.wiring import Wiring

_MAX_NUMBERED = 40  # modules whose numbers fit above their bars
_MAX_BARS = 150  # more bars would be as thin as hairs, and slow


def draw_active_nodes(wiring: Wiring, title: str | None = None) -> Figure:
    """Draw how many branches of every module are live (GateConnect, Figures 4 and 5).

    The horizontal axis counts the modules from the input on, without input and output; the dashed
    line says how many branches a module has.

    Args:
        wiring: one architecture.
        title: a headline; by default the totals.

    Returns:
        The figure.

    Raises:
        ValueError: if the wiring holds a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> figure = draw_active_nodes(ResNeXt(depth=11, cardinality=4, fan_in=4).wiring())
        >>> [round(bar.get_height()) for bar in figure.axes[0].containers[0]]
        [4, 4, 4]
    """
    check_one(wiring)
    live, total = count_by_depth(wiring)
    many = wiring.noun[1]
    edges = np.arange(len(total) + 1) + 0.5
    width = min(13.0, 3.6 + 0.28 * len(total))
    figure = Figure(figsize=(width, 3.4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    if len(total) <= _MAX_BARS:
        bars = axes.bar(np.arange(1, len(total) + 1), live, color=LIVE, width=0.8)
        if len(total) <= _MAX_NUMBERED:
            axes.bar_label(bars, padding=1.5, size=8, color=INK)
    else:
        axes.stairs(live, edges, fill=True, color=LIVE)
    axes.stairs(total, edges, baseline=None, color=LEARNED, linestyle="--", label=f"all {many}")
    axes.set(xlabel=row_noun(wiring), ylabel=f"live {many}", xlim=(edges[0], max(edges[-1], 1.5)))
    axes.set_ylim(0, max(total, default=1) * 1.15)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    heading = title or f"{sum(live):,} of {sum(total):,} {many} live"
    axes.set_title(heading, loc="left", size=11)
    return figure


def count_by_depth(wiring: Wiring) -> tuple[list[int], list[int]]:
    """Live branches and all branches of every module, without input and output."""
    inner = inner_nodes(wiring)
    groups = len(wiring.nodes.group_parameters)
    total = wiring.nodes.group[inner].bincount(minlength=groups)
    live = wiring.nodes.group[inner & wiring.live_nodes].bincount(minlength=groups)
    modules = total > 0
    return live[modules].tolist(), total[modules].tolist()
