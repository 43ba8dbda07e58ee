"""The architecture that a search has found in a fabric."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from wiring_lightning.plots.fabric_layout import FabricLayout, Points, lay_out, states_of
from wiring_lightning.plots.graph import add_legend
from wiring_lightning.plots.style import DPI, END, GIVEN, INK, LIVE, PRUNED, SERIES, check_one
from wiring_lightning.wiring import Wiring

_BLUE, _ORANGE, _GREEN, _, _VERMILION, _ = SERIES
# Name of an edge's module, what the legend calls it, and its colour: for grids those of the paper.
_KINDS = {
    "same": ("same resolution", _BLUE),
    "down": ("half resolution", _GREEN),
    "up": ("double resolution", _VERMILION),
    "residual": ("block", _BLUE),
    "shortcut": ("shortcut", _ORANGE),
    "": ("always there", GIVEN),
}
_REMOVED = 0.3  # opacity
_DASHED: Any = (0, (3, 2.5))
_NODE, _BETWEEN = 0.2, 0.075  # side of a node's square, distance of two edges of a pair, in inches
_LEGEND_ENTRY = 1.3  # inches
_MARGIN, _LEFT, _HEADER, _FOOTER = 0.45, 0.95, 0.8, 0.8  # inches


def is_fabric(wiring: Wiring) -> bool:
    """Whether `draw_fabric` can draw a wiring: that of a `ResNetFabric` or a `ConvFabric`."""
    return lay_out(wiring) is not None


def draw_fabric(wiring: Wiring, title: str | None = None) -> Figure:
    """Draw the architecture in a fabric (BSN, Figure 3).

    Squares are the sums of the fabric, and lines the modules between them. A solid line is kept in
    evaluation mode and on a path from the input to the output, and the likelier it is the darker;
    a light, dashed one is not. Hollow squares are reached by nothing or lead nowhere. In a grid,
    columns run from left to right, and resolutions from fine to coarse. In a ResNet Fabric, two
    lines between a pair are a block and its shortcut, and stages run to and fro.

    Args:
        wiring: one architecture of a `ConvFabric` or a `ResNetFabric`.
        title: a headline.

    Returns:
        The figure.

    Raises:
        ValueError: if the wiring is not that of a fabric, or holds a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import ConvFabric
        >>> figure = draw_fabric(ConvFabric(columns=2, channels=4, scales=3).wiring())
        >>> [text.get_text() for text in figure.texts]
        ['11 of 11 edges kept, 5 of 5 sums live']
    """
    check_one(wiring)
    layout = lay_out(wiring)
    if layout is None:
        raise ValueError("draw_fabric draws a ConvFabric or a ResNetFabric; use draw_wiring.")
    arcs = list(_arcs(wiring, layout))
    places = layout.places * layout.pitch
    low, high = _corners(places, layout, arcs)
    figure = Figure(figsize=tuple(high - low), dpi=DPI, facecolor="white")
    # One unit of the axes is one inch, which makes sizes and distances exact.
    axes = figure.add_axes((0, 0, 1, 1), xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.set_axis_off()
    edges = list(_draw_arcs(axes, arcs, places))
    nodes = list(_draw_nodes(axes, wiring, places))
    _draw_labels(axes, layout, places)
    height = high[1] - low[1]
    if title:
        figure.text(0.5, 1 - 0.22 / height, title, ha="center", va="center", size=12)
    below_title = 1 - (0.47 if title else 0.3) / height
    caption = _summary(wiring, arcs)
    figure.text(0.5, below_title, caption, ha="center", va="center", size=9, color=INK)
    add_legend(figure, nodes, edges)
    return figure


@dataclass(frozen=True)
class _Arc:
    """An edge of the fabric: what leads from one sum to another."""

    source: int
    target: int
    kind: str
    score: float
    kept: bool
    learnable: bool


def _arcs(wiring: Wiring, layout: FabricLayout) -> Iterator[_Arc]:
    """Take a module and its two edges as one."""
    _, state = states_of(wiring)
    sums = {number: node for node, number in enumerate(state)}
    heights, output = layout.places[:, 1].tolist(), state[-1]
    columns = (wiring.source, wiring.target, wiring.score, wiring.live_edges, wiring.learnable)
    for source, target, *facts in zip(*(column.tolist() for column in columns), strict=True):
        start, end = state[source], state[target]
        if start == end:
            continue  # from a module to its sum
        kind = wiring.nodes.names[target].rpartition(".")[2].partition("_")[0]
        if target == sums[end]:
            kind = "" if end == output else "shortcut"
        elif kind == "within":
            kind = "up" if heights[end] > heights[start] else "down"
        yield _Arc(start, end, kind, *facts)


def _corners(places: Points, layout: FabricLayout, arcs: list[_Arc]) -> tuple[Points, Points]:
    """Lower left and upper right corner of the page, wide enough for the legend."""
    low, high = places.min(0), places.max(0)
    low -= (_LEFT, _FOOTER)
    high += (_MARGIN, _HEADER + (0.15 if layout.columns else 0.0))
    needed = _LEGEND_ENTRY * (len({arc.kind for arc in arcs}) + 1)
    missing = max(0.0, needed - (high - low)[0]) / 2
    low[0], high[0] = low[0] - missing, high[0] + missing
    return low, high


def _draw_arcs(axes: Axes, arcs: list[_Arc], places: Points) -> Iterator[Artist]:
    """Draw removed edges below and kept ones above; the results are entries of the legend."""
    pairs = {(arc.source, arc.target) for arc in arcs if arc.kind == "shortcut"}
    for kept in (False, True):
        for kind, (label, color) in _KINDS.items():
            chosen = [arc for arc in arcs if arc.kind == kind and arc.kept == kept]
            if not chosen:
                continue
            side = {"residual": _BETWEEN / 2, "shortcut": -_BETWEEN / 2}.get(kind, 0.0)
            aside = np.array([side * ((arc.source, arc.target) in pairs) for arc in chosen])
            sources, targets = [arc.source for arc in chosen], [arc.target for arc in chosen]
            start, end = _shift(places[sources], places[targets], aside)
            colors = np.tile(to_rgba(color), (len(chosen), 1))
            colors[:, 3] = [arc.score if kept else _REMOVED for arc in chosen]
            lines = LineCollection(
                list(np.stack([start, end], axis=1)), colors=colors, zorder=2 + kept, label=label,
                linewidths=1.8 if kept and kind else 0.9, linestyles="-" if kept else _DASHED,
                gid="kept" if kept else "removed",
            )  # fmt: skip
            axes.add_collection(lines, autolim=False)
            if kept:
                arrows = PolyCollection(list(_arrows(start, end)), facecolors=colors, linewidths=0)
                arrows.set_zorder(3.5)
                axes.add_collection(arrows, autolim=False)
    for kind, (label, color) in _KINDS.items():
        if any(arc.kind == kind for arc in arcs):
            yield Line2D([], [], color=color, linewidth=1.8 if kind else 0.9, label=label)
    if not all(arc.kept for arc in arcs):
        yield Line2D([], [], color=PRUNED, linewidth=0.9, linestyle=_DASHED, label="removed")


def _shift(start: Points, end: Points, aside: NDArray[np.float64]) -> tuple[Points, Points]:
    """Move lines to their left, and let them begin and end at the squares."""
    way = end - start
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    left = np.stack([-way[:, 1], way[:, 0]], axis=1) * aside[:, None]
    # From a square's centre to its edge in this direction.
    border = way * (_NODE / 2 / np.abs(way).max(1, keepdims=True))
    return start + border + left, end - border + left


def _arrows(start: Points, end: Points, size: float = 0.075) -> Points:
    """`[edges, 3, 2]` a triangle near the end of every line."""
    way = end - start
    length = np.linalg.norm(way, axis=1, keepdims=True)
    way /= length
    tip = start + way * (0.62 * length + size / 2)
    side = np.stack([-way[:, 1], way[:, 0]], axis=1) * size / 2
    back = tip - way * size
    return np.stack([tip, back + side, back - side], axis=1)


def _draw_nodes(axes: Axes, wiring: Wiring, places: Points) -> Iterator[Artist]:
    live = _live_states(wiring)
    inner = np.ones(len(live), dtype=bool)
    inner[[0, -1]] = False
    for label, chosen, marker, hollow, color in (
        ("input and output", ~inner, "o", False, END),
        ("live sum", inner & live, "s", False, LIVE),
        ("dead sum", inner & ~live, "s", True, PRUNED),
    ):
        if chosen.any():
            yield axes.scatter(
                places[chosen, 0], places[chosen, 1], s=(72 * _NODE) ** 2, marker=marker,
                facecolors="white" if hollow else color, edgecolors=color, linewidths=0.9,
                linestyles="--" if hollow else "-", label=label, zorder=4,
            )  # fmt: skip


def _live_states(wiring: Wiring) -> NDArray[np.bool_]:
    """`[states]` whether the sum of each state is live."""
    names, state = states_of(wiring)
    live = np.zeros(len(names), dtype=bool)
    live[state] = wiring.live_nodes.numpy()  # the last of each state's nodes is its sum
    return live


def _draw_labels(axes: Axes, layout: FabricLayout, places: Points) -> None:
    (left, _), (_, top) = places.min(0), places.max(0)
    across, up = layout.pitch
    for label, place in layout.columns.items():
        axes.text(place * across, top + 0.25, label, ha="center", va="bottom", size=8, color=INK)
    for label, place in layout.rows.items():
        axes.text(left - 0.25, place * up, label, ha="right", va="center", size=8, color=INK)


def _summary(wiring: Wiring, arcs: list[_Arc]) -> str:
    live = _live_states(wiring)[1:-1]
    choice = [arc for arc in arcs if arc.learnable]
    counted = choice or [arc for arc in arcs if arc.kind]
    kept = sum(arc.kept for arc in counted)
    return f"{kept} of {len(counted)} edges kept, {int(live.sum())} of {len(live)} sums live"
