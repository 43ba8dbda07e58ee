"""Draw the architecture that a search has found in a fabric."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from wiring_lightning.plots import page, style
from wiring_lightning.plots.rows import Points, check_one
from wiring_lightning.wiring import Wiring

_BLUE, _ORANGE, _GREEN, _, _VERMILION, _ = style.SERIES
# By the name of an edge's module, its label in the legend and its colour (the paper's for grids).
_KINDS = {
    "same": ("same resolution", _BLUE),
    "down": ("half resolution", _GREEN),
    "up": ("double resolution", _VERMILION),
    "residual": ("block", _BLUE),
    "shortcut": ("shortcut", _ORANGE),
    "": ("always there", style.GIVEN),
}
_REMOVED = 0.3  # opacity
_DASHED: Any = (0, (3, 2.5))
_NODE, _BETWEEN = 0.2, 0.075  # side of a node's square, distance of two edges of a pair, in inches
_LEGEND_ENTRY = 1.3  # inches

_GRID = re.compile(r"column(\d+)\.scale(\d+)\.sum")
_SNAKE = re.compile(r"stage(\d+)\.block(\d+)\.sum")


def is_fabric(wiring: Wiring) -> bool:
    """Whether `draw_fabric` can draw a wiring: that of a `ResNetFabric` or a `ConvFabric`.

    Example:
        >>> from wiring_lightning.backbones import ResNetFabric, SparseResNet
        >>> is_fabric(ResNetFabric(width=1).wiring()), is_fabric(SparseResNet(depth=20).wiring())
        (True, False)
    """
    return lay_out(wiring) is not None


def draw_fabric(wiring: Wiring, title: str | None = None) -> Figure:
    """Draw the architecture in a fabric (BSN, Figure 3).

    Squares are the sums of the fabric, and lines the modules between them. Solid lines are live
    modules of evaluation mode, darker for higher probabilities; light, dashed lines are removed
    modules. Hollow squares are on no path from the input to the output. In a grid, columns go from
    left to right, and resolutions from fine to coarse. In a ResNet Fabric, two lines between a pair
    are a block and its shortcut, and stages alternate between left to right and right to left.

    Args:
        wiring: one architecture of a `ConvFabric` or a `ResNetFabric`.
        title: a headline.

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
    arcs, places = _Arcs.of(wiring, layout), layout.places * layout.pitch
    live = np.zeros(len(places), dtype=bool)
    # Of the nodes of a state the last one is written last: its sum.
    live[layout.state] = wiring.live_nodes.numpy()
    above = 0.15 if layout.columns else 0.0
    width = _LEGEND_ENTRY * (len(set(arcs.kind)) + 1)
    low, high = page.corners(places, left=0.95, right=0.45, above=above, width=width)
    figure = Figure(figsize=tuple(high - low), dpi=style.DPI, facecolor="white")
    axes = page.inch_axes(figure, low, high, title, _summary(arcs, live))
    edges = list(_draw_arcs(axes, arcs, places))
    nodes = page.draw_nodes(axes, places, live, 72 * _NODE, ("live sum", "dead sum"))
    (left, _), (_, top), (across, up) = places.min(0), places.max(0), layout.pitch
    text: dict[str, Any] = {"size": 8, "color": style.INK}
    for number, label in enumerate(layout.columns):
        axes.text(number * across, top + 0.25, label, ha="center", va="bottom", **text)
    for number, label in enumerate(layout.rows):
        axes.text(left - 0.25, -number * up, label, ha="right", va="center", **text)
    page.add_legend(figure, nodes, edges)
    return figure


# Positions of the states


@dataclass(frozen=True, eq=False)
class FabricLayout:
    """Positions of the states of a fabric, from the input to the output.

    Args:
        state: `[nodes]` the state that each node belongs to; the last node of a state is its sum.
        places: `[states, 2]` centres, in steps to the right and up.
        columns: labels above the picture, one for each step.
        rows: labels on its left, one for each step from the top.
        pitch: width and height of a step, in inches.
    """

    state: NDArray[np.int64]
    places: Points
    columns: list[str]
    rows: list[str]
    pitch: tuple[float, float]


def lay_out(wiring: Wiring) -> FabricLayout | None:
    """Lay out a fabric by the names of its sums; `None` for a wiring that is not a fabric.

    Other networks name their nodes in a similar way, so the edges must be those of a fabric, too.
    A grid has its columns from left to right and its scales from top to bottom. Stages alternate
    between left to right and right to left, so every state is beside or below its sources.

    Example:
        >>> from wiring_lightning.backbones import ConvFabric, ResNetFabric, ResNeXt
        >>> lay_out(ConvFabric(2, 4, scales=2).wiring()).places.tolist()
        [[0.0, 0.0], [0.0, -1.0], [1.0, 0.0], [1.0, -1.0], [2.0, -1.0]]
        >>> lay_out(ResNetFabric(width=1).wiring()).places.tolist()
        [[0.0, 0.0], [1.0, 0.0], [0.0, -1.0], [1.0, -2.0], [2.0, -2.0]]
        >>> lay_out(ResNeXt(depth=11).wiring()) is None
        True
    """
    # Groups without nodes, as in a compact network, are not states.
    _, state = wiring.nodes.group.unique(return_inverse=True)
    sums = _last_of_each(state)
    names = [wiring.nodes.names[number] for number in sums.tolist()]
    for pattern, place_all in ((_GRID, _grid), (_SNAKE, _snake)):
        found = [pattern.fullmatch(name) for name in names[1:-1]]
        numbers = [(int(match[1]), int(match[2])) for match in found if match]
        named = names[-1] == "classifier" and numbers and len(numbers) == len(found)
        if named and _only_sums_are_read(wiring, state, sums):
            return place_all(state.numpy(), numbers)
    return None


def _last_of_each(state: Tensor) -> Tensor:
    """`[states]` the last node of each state."""
    nodes = torch.arange(len(state), device="cpu")
    return torch.zeros(int(state.max()) + 1, dtype=torch.long, device="cpu").scatter_reduce(
        0, state, nodes, "amax"
    )


def _only_sums_are_read(wiring: Wiring, state: Tensor, sums: Tensor) -> bool:
    """Whether each module of a state reads one earlier sum, and only its own sum reads it.

    Only then the picture, which has one line for a module, shows every edge of the wiring.
    """
    source, target = wiring.source, wiring.target
    between = state[source] != state[target]
    ends = torch.where(between, sums[state[source]] == source, sums[state[target]] == target)
    reads = target[between].bincount(minlength=len(state))
    modules = torch.ones(len(state), dtype=torch.bool, device="cpu").index_fill(0, sums, False)
    return bool(ends.all()) and bool((reads[modules] == 1).all())


def _grid(state: NDArray[np.int64], numbers: list[tuple[int, int]]) -> FabricLayout:
    """A grid: the stem is the first node of the first column; the output is on the far right."""
    columns, scales = (max(part) for part in zip(*numbers, strict=True))
    places = [(column - 1.0, 1.0 - scale) for column, scale in [(1, 1), *numbers]]
    places.append((places[-1][0] + 1, places[-1][1]))
    above = [f"column {number}" for number in range(1, columns + 1)]
    beside = [f"scale {number}" for number in range(1, scales + 1)]
    return FabricLayout(state, np.array(places), above, beside, (1.0, 0.8))


def _snake(state: NDArray[np.int64], numbers: list[tuple[int, int]]) -> FabricLayout:
    """Stages in alternating directions; position 0 of a stage is the end of the stage before."""
    stages, width = (max(part) for part in zip(*numbers, strict=True))
    places = [(0.0, 0.0)]
    places += [
        (float(block if stage % 2 else width - block), 1.0 - stage) for stage, block in numbers
    ]
    ahead = 1 if stages % 2 else -1
    places.append((places[-1][0] + ahead, places[-1][1]))
    beside = [f"stage {number} {'←→'[number % 2]}" for number in range(1, stages + 1)]
    pitch = (0.6 if width > 9 else 0.8, 1.3)
    return FabricLayout(state, np.array(places), [], beside, pitch)


# Edges between the states


@dataclass(frozen=True, eq=False)
class _Arcs:
    """The edges between the sums of a fabric, as columns."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    kind: NDArray[np.str_]
    score: NDArray[np.float32]
    kept: NDArray[np.bool_]
    learnable: NDArray[np.bool_]

    @classmethod
    def of(cls, wiring: Wiring, layout: FabricLayout) -> "_Arcs":
        """Merge each module and its two edges into one edge."""
        state, height = layout.state, layout.places[:, 1]
        sums = _last_of_each(torch.from_numpy(state)).numpy()
        source, target = wiring.source.numpy(), wiring.target.numpy()
        start, end = state[source], state[target]
        module = [name.rpartition(".")[2].partition("_")[0] for name in wiring.nodes.names]
        kind = np.array(module)[target]
        across = np.where(height[end] > height[start], "up", "down")
        kind = np.where(kind == "within", across, kind)
        # An edge from sum to sum has no module: it is an identity, or leads to the classifier.
        direct = np.where(end == state[-1], "", "shortcut")
        kind = np.where(target == sums[end], direct, kind)
        facts = (wiring.score, wiring.live_edges, wiring.learnable)
        columns = (start, end, kind, *(fact.numpy() for fact in facts))
        between = start != end  # the others lead from a module to its sum
        return cls(*(column[between] for column in columns))


def _draw_arcs(axes: Axes, arcs: _Arcs, places: Points) -> Iterator[Artist]:
    """Draw removed edges below kept ones, and yield entries of the legend."""
    lines, arrows = _lines_and_arrows(arcs, places)
    for kind, (label, color) in _KINDS.items():
        width = 1.8 if kind else 0.9
        own = arcs.kind == kind
        removed, kept = own & ~arcs.kept, own & arcs.kept
        page.draw_edges(axes, lines[removed], color, _REMOVED, linestyles=_DASHED, linewidths=0.9,
                        zorder=2, label=label, gid="removed")  # fmt: skip
        drawn = page.draw_edges(axes, lines[kept], color, arcs.score[kept], linewidths=width,
                                zorder=3, label=label, gid="kept")  # fmt: skip
        colors = drawn.get_colors()
        heads = PolyCollection(list(arrows[kept]), facecolors=colors, linewidths=0, zorder=3.5)
        axes.add_collection(heads, autolim=False)
        if own.any():
            yield Line2D([], [], color=color, linewidth=width, label=label)
    if not arcs.kept.all():
        yield Line2D([], [], color=style.PRUNED, linewidth=0.9, linestyle=_DASHED, label="removed")


def _lines_and_arrows(arcs: _Arcs, places: Points, size: float = 0.075) -> tuple[Points, Points]:
    """`[arcs, 2, 2]` lines from square to square, and `[arcs, 3, 2]` an arrow head on each.

    A block and its shortcut between the same squares are side by side.
    """
    start, end = places[arcs.start], places[arcs.end]
    way = end - start
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    left = np.stack([-way[:, 1], way[:, 0]], axis=1)
    pair = arcs.start * len(places) + arcs.end
    shortcut = arcs.kind == "shortcut"
    aside = (arcs.kind == "residual") * np.isin(pair, pair[shortcut]) - 1.0 * shortcut
    shift = left * (_BETWEEN / 2 * aside)[:, None]
    # From a square's centre to its edge in this direction.
    border = way * (_NODE / 2 / np.abs(way).max(1, keepdims=True))
    start, end = start + shift + border, end + shift - border
    tip = start + 0.62 * (end - start) + way * size / 2
    back, side = tip - way * size, left * size / 2
    return np.stack([start, end], axis=1), np.stack([tip, back + side, back - side], axis=1)


def _summary(arcs: _Arcs, live: NDArray[np.bool_]) -> str:
    counted = arcs.learnable if arcs.learnable.any() else arcs.kind != ""
    sums = f"{int(live[1:-1].sum())} of {len(live) - 2} sums live"
    return f"{int(arcs.kept[counted].sum())} of {int(counted.sum())} edges kept, {sums}"
