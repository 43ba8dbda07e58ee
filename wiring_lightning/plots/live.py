"""Draw the number of live branches by depth, in one network or in several."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from wiring_lightning.plots import style
from wiring_lightning.plots.random_wirings import RandomLive, live_of_random_wirings
from wiring_lightning.plots.rows import check_one, count_live, inner_nodes
from wiring_lightning.wiring import Wiring

_GROUP_WIDTH = 0.84  # of the distance between two modules
_MAX_WIDTH = 13.0  # inches
_MAX_NUMBERED = 60  # up to so many bars get a number
_MAX_BARS = 150  # more than so many modules are drawn as one outline
_MAX_TICKS = 20  # up to so many modules get a tick each
# Frame and hatching of bars, for as many networks as there are colours each.
_LOOKS = (("white", ""), (style.INK, ""), ("white", "////"), (style.INK, "...."))


def draw_active_nodes(wiring: Wiring, title: str | None = None) -> Figure:
    """Draw the number of live branches of every module (GateConnect, Figures 4 and 5).

    The horizontal axis counts the modules from the input on, without input and output; the dashed
    line is the number of all branches of a module. Diamonds are what a random wiring of the same K
    would have, see `plots.live_of_random_wirings`; the vertical lines are one standard deviation,
    as far as a module can have so many live branches.

    Args:
        wiring: one architecture.
        title: a headline; by default the totals.

    Raises:
        ValueError: if the wiring is a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> figure = draw_active_nodes(ResNeXt(depth=11, cardinality=4, fan_in=4).wiring())
        >>> [round(bar.get_height()) for bar in figure.axes[0].containers[0]]
        [4, 4, 4]
    """
    live, total = _count_by_depth(wiring)
    width = min(_MAX_WIDTH, 3.6 + 0.28 * len(total))
    figure, axes = style.new_axes(width, 3.4, title or count_live(wiring))
    random = live_of_random_wirings(wiring)
    if len(total) <= _MAX_BARS:
        bars = axes.bar(range(1, len(total) + 1), live, color=style.LIVE, width=0.8)
        if len(total) <= _MAX_NUMBERED:
            _draw_numbers(axes, bars, random)
    else:
        axes.stairs(live, np.arange(len(live) + 1) + 0.5, fill=True, color=style.LIVE)
    _draw_random(axes, [*range(1, len(total) + 1)], random, total)
    _draw_totals(axes, wiring, [total])
    style.legend_on_the_right(figure)
    return figure


def draw_active_by_depth(wirings: Mapping[str, Wiring], title: str | None = None) -> Figure:
    """Draw what `draw_active_nodes` draws, with one series of bars for each network.

    This is GateConnect's Figures 4 and 5 and MaskConnect's Figures 5 and 6. The diamonds are what
    random wirings of the same K have.

    Args:
        wirings: architectures by their label in the legend, such as `"K = 1"`.
        title: a headline.

    Raises:
        ValueError: if there is no wiring, or more than 24, or one is a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> networks = {c: ResNeXt(depth=11, cardinality=c, wiring="full") for c in (4, 8)}
        >>> figure = draw_active_by_depth({f"C = {c}": networks[c].wiring() for c in networks})
        >>> [[round(bar.get_height()) for bar in bars] for bars in figure.axes[0].containers]
        [[4, 4, 4], [8, 8, 8]]
    """
    if not wirings:
        raise ValueError("There is no wiring to draw.")
    most = len(style.SERIES) * len(_LOOKS)
    if len(wirings) > most:
        raise ValueError(
            f"One picture tells at most {most} networks apart, but {len(wirings)} are given: give "
            "fewer."
        )
    counts = {name: _count_by_depth(wiring) for name, wiring in wirings.items()}
    bars = len(counts) * max(len(total) for _, total in counts.values())
    figure, axes = style.new_axes(min(_MAX_WIDTH, 4.4 + 0.19 * bars), 3.8, title)
    width = _GROUP_WIDTH / len(counts)
    for index, (name, (live, total)) in enumerate(counts.items()):
        places = np.arange(1, len(live) + 1) + (index + 0.5) * width - _GROUP_WIDTH / 2
        random, named_before = live_of_random_wirings(wirings[name]), len(axes.lines) > 0
        edge, hatch = _LOOKS[index // len(style.SERIES)]
        drawn = axes.bar(places, live, width, color=style.series(index)[0], edgecolor=edge,
                         hatch=hatch, linewidth=0.6, label=name)  # fmt: skip
        if bars <= _MAX_NUMBERED:
            _draw_numbers(axes, drawn, random)
        _draw_random(axes, places.tolist(), random, total, named_before)
    _draw_totals(axes, next(iter(wirings.values())), [total for _, total in counts.values()])
    style.legend_on_the_right(figure)
    return figure


def _draw_numbers(axes: Axes, bars: BarContainer, random: RandomLive | None) -> None:
    """Write the height of each bar above it, or at its foot if a random wiring is drawn on it."""
    if random is None:
        axes.bar_label(bars, padding=1.5, size=8, color=style.INK)
        return
    for bar in bars:
        place = bar.get_x() + bar.get_width() / 2, 0.0
        axes.annotate(
            f"{bar.get_height():g}", place, (0, 3), textcoords="offset points", ha="center", size=8,
            color=style.INK, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip


def _draw_random(
    axes: Axes,
    places: Sequence[float],
    random: RandomLive | None,
    total: Sequence[int],
    named_before: bool = False,
) -> None:
    """Draw mean and standard deviation of random wirings at some places, if there are any.

    The deviations end at zero and at the `total` of each place: no wiring has more or fewer.
    """
    if random is None:
        return
    mean, std = random.mean.numpy(), random.std.numpy()
    label = None if named_before else f"random wiring\n(mean ± std of {random.draws:,})"
    low, high = np.maximum(mean - std, 0), np.minimum(mean + std, total)
    axes.vlines(places, low, high, color=style.INK, linewidth=1.1, zorder=3)
    axes.plot(places, mean, "D", color="white", markeredgecolor=style.INK, markersize=4.5,
              linestyle="none", label=label, zorder=4)  # fmt: skip


def _draw_totals(axes: Axes, wiring: Wiring, totals: Sequence[list[int]]) -> None:
    """Draw dashed lines at the number of all branches, and set up the axes."""
    many = wiring.noun[1]
    for index, total in enumerate(dict.fromkeys(map(tuple, totals))):
        label = None if index else f"all {many}"
        axes.stairs(total, np.arange(len(total) + 1) + 0.5, baseline=None, color=style.INK,
                    linestyle="--", linewidth=0.9, label=label)  # fmt: skip
    depth = max(1, *map(len, totals))
    single = len(wiring.nodes.group_parameters) == len(wiring.nodes)
    style.set_axes(axes, wiring.noun[0] if single else "module", f"live {many}")
    axes.set_xlim(0.4, depth + 0.6)
    axes.set_ylim(0, 1.12 * max((count for total in totals for count in total), default=1))
    style.use_integers(axes.xaxis, axes.yaxis)
    if depth <= _MAX_TICKS:
        axes.set_xticks(range(1, depth + 1))


def _count_by_depth(wiring: Wiring) -> tuple[list[int], list[int]]:
    """Live branches and all branches of every module, without input and output."""
    check_one(wiring)
    inner = inner_nodes(wiring)
    groups = len(wiring.nodes.group_parameters)
    total = wiring.nodes.group[inner].bincount(minlength=groups)
    live = wiring.nodes.group[inner & wiring.live_nodes].bincount(minlength=groups)
    modules = total > 0
    return live[modules].tolist(), total[modules].tolist()
