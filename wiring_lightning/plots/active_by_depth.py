"""How many branches are live by depth, in several networks."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wiring_lightning.plots.active_nodes import count_by_depth
from wiring_lightning.plots.style import DPI, INK, SERIES, check_one, row_noun
from wiring_lightning.wiring import Wiring

_GROUP_WIDTH = 0.84  # of the distance between two modules
_MAX_NUMBERED = 60  # bars whose numbers can be read
_MAX_TICKS = 20  # modules that are all numbered
_MAX_WIDTH = 13.0  # inches


def draw_active_by_depth(wirings: Mapping[str, Wiring], title: str | None = None) -> Figure:
    """Draw how many branches of every module are live, one series of bars for each network.

    This is GateConnect's Figures 4 and 5 and MaskConnect's Figures 5 and 6. The horizontal axis
    counts the modules from the input on, without input and output; dashed lines say how many
    branches a module has.

    Args:
        wirings: architectures by what the legend calls them, such as `"K = 1"`.
        title: a headline.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no wiring, or one holds a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> networks = {c: ResNeXt(depth=11, cardinality=c, wiring="full") for c in (4, 8)}
        >>> figure = draw_active_by_depth({f"C = {c}": networks[c].wiring() for c in networks})
        >>> [[round(bar.get_height()) for bar in bars] for bars in figure.axes[0].containers]
        [[4, 4, 4], [8, 8, 8]]
    """
    if not wirings:
        raise ValueError("There is no wiring to draw.")
    for wiring in wirings.values():
        check_one(wiring)
    counts = {name: count_by_depth(wiring) for name, wiring in wirings.items()}
    depth = max(len(total) for _, total in counts.values())
    bars = depth * len(counts)
    figure = Figure(
        figsize=(min(_MAX_WIDTH, 4.4 + 0.19 * bars), 3.8), dpi=DPI, layout="constrained"
    )
    axes = figure.add_subplot()
    width = _GROUP_WIDTH / len(counts)
    for index, (name, (live, _)) in enumerate(counts.items()):
        places = np.arange(1, len(live) + 1) + (index + 0.5) * width - _GROUP_WIDTH / 2
        color = SERIES[index % len(SERIES)]
        # Beyond the last colour the series are told apart by their frame.
        edge = INK if index >= len(SERIES) else "white"
        drawn = axes.bar(places, live, width, color=color, edgecolor=edge, linewidth=0.6,
                         label=name)  # fmt: skip
        if bars <= _MAX_NUMBERED:
            axes.bar_label(drawn, padding=1.5, size=8, color=INK)
    first = next(iter(wirings.values()))
    many = first.noun[1]
    for index, total in enumerate(dict.fromkeys(tuple(total) for _, total in counts.values())):
        label = f"all {many}" if index == 0 else None
        axes.stairs(total, np.arange(len(total) + 1) + 0.5, baseline=None, color=INK,
                    linestyle="--", linewidth=0.9, label=label)  # fmt: skip
    highest = max((count for _, total in counts.values() for count in total), default=1)
    axes.set(xlabel=row_noun(first), ylabel=f"live {many}", xlim=(0.4, max(depth, 1) + 0.6))
    axes.set_ylim(0, highest * 1.12)
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if depth <= _MAX_TICKS:
        axes.set_xticks(range(1, depth + 1))
    else:
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    if title:
        axes.set_title(title, loc="left", size=11)
    return figure
