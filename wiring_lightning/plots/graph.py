"""The wiring as a graph."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, FigureBase
from matplotlib.legend_handler import HandlerPathCollection
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from wiring_lightning.plots.layout import Layout, Points
from wiring_lightning.plots.style import (
    DEAD,
    DPI,
    END,
    GIVEN,
    INK,
    LEARNED,
    LIVE,
    PRUNED,
    check_one,
    inner_nodes,
    row_names,
)
from wiring_lightning.wiring import Wiring

Corner = NDArray[np.float64]

_MIN_WIDTH = 4.8  # inches that the legend needs
_HEADER, _FOOTER = 0.85, 0.75  # inches above and below the graph


def draw_wiring(wiring: Wiring, title: str | None = None) -> Figure:
    """Draw the graph from the input at the top to the output at the bottom (GateConnect, Figure 3).

    A row is a group of nodes, such as the branches of a module. Red circles are the input and the
    output, green squares are live branches; hollow, dashed squares are pruned, since no active path
    from the input to the output leads through them. Lines are active edges: dark ones were learned,
    the darker the higher their score in their row; grey ones were given; pale ones belong to a
    pruned branch. Edges that skip rows are bent. More than 60 rows wind down and up in columns.

    Args:
        wiring: one architecture.
        title: a headline.

    Returns:
        The figure; `save_figure` writes it, a TensorBoard writer's `add_figure` logs it.

    Raises:
        ValueError: if the wiring holds a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> figure = draw_wiring(ResNeXt(depth=11, fan_in=8).wiring(), title="A ResNeXt")
        >>> [text.get_text() for text in figure.texts]
        ['A ResNeXt', '24 of 24 branches live, 128 of 128 learnable edges active']
    """
    picture = Picture(wiring, title)
    figure = Figure(figsize=tuple(picture.high - picture.low), dpi=DPI, facecolor="white")
    add_legend(figure, *picture.draw(figure, picture.low, picture.high))
    return figure


class Picture:
    """A wiring laid out on a page, to be drawn alone or beside another one.

    Args:
        wiring: one architecture.
        title: a headline.

    Attributes:
        low: `[2]` lower left corner of the page that it needs, in inches.
        high: `[2]` upper right corner.

    Raises:
        ValueError: if the wiring holds a batch of architectures.
    """

    def __init__(self, wiring: Wiring, title: str | None = None) -> None:
        check_one(wiring)
        self._title = title
        self._caption = _summary(wiring)
        layout = Layout(wiring)
        self._strokes = list(_strokes(wiring, layout))
        self._marks = list(_marks(wiring, layout))
        self._labels = _Labels(wiring, layout)
        lines = (stroke.lines.reshape(-1, 2) for stroke in self._strokes)
        inked = np.concatenate([layout.nodes, *lines])
        (self._left, bottom), (right, top) = inked.min(0), inked.max(0)
        below, above = self._labels.space_below, self._labels.space_above
        low = np.array([self._left - 0.35 - self._labels.space_left, bottom - _FOOTER - below])
        high = np.array([right + 0.35, top + _HEADER + above])
        missing = max(0.0, _MIN_WIDTH - (high - low)[0]) / 2
        low[0], high[0] = low[0] - missing, high[0] + missing
        self.low: Corner = low
        self.high: Corner = high

    def draw(
        self, page: FigureBase, low: Corner, high: Corner
    ) -> tuple[list[Artist], list[Artist]]:
        """Draw it on a page whose corners are `low` and `high`.

        Returns:
            The entries of nodes and of edges for `add_legend`.
        """
        # One unit of the axes is one inch, which makes sizes and distances exact.
        axes = page.add_axes((0, 0, 1, 1), xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        axes.set_axis_off()
        lines = [stroke.draw(axes) for stroke in self._strokes]
        squares = [mark.draw(axes) for mark in self._marks]
        self._labels.draw(axes, self._left)
        height = high[1] - low[1]
        if self._title:
            page.text(0.5, 1 - 0.25 / height, self._title, ha="center", va="center", size=12)
        below_title = 1 - (0.5 if self._title else 0.3) / height
        page.text(0.5, below_title, self._caption, ha="center", va="center", size=9, color=INK)
        return squares, lines[::-1]


@dataclass(frozen=True)
class _Stroke:
    """Edges of one kind."""

    kind: str
    lines: Points
    color: str
    opacity: Any
    width: float

    def draw(self, axes: Axes) -> Artist:
        """Draw them; the result is their entry in the legend."""
        colors = np.tile(to_rgba(self.color), (len(self.lines), 1))
        colors[:, 3] = self.opacity
        collection = LineCollection(
            list(self.lines), colors=colors, linewidths=self.width, label=self.kind, zorder=2
        )
        axes.add_collection(collection, autolim=False)
        return Line2D([], [], color=self.color, linewidth=max(self.width, 0.9), label=self.kind)


@dataclass(frozen=True)
class _Marks:
    """Nodes of one kind."""

    kind: str
    places: Points
    size: float
    shape: str
    hollow: bool
    color: str

    def draw(self, axes: Axes) -> Artist:
        """Draw them; the result is their entry in the legend."""
        return axes.scatter(
            self.places[:, 0],
            self.places[:, 1],
            s=self.size**2,
            marker=self.shape,
            facecolors="white" if self.hollow else self.color,
            edgecolors=self.color,
            linestyles="--" if self.hollow else "-",
            linewidths=min(0.9, 0.08 * self.size),
            label=self.kind,
            zorder=3,
        )


class _Labels:
    """The names of the rows: on the left, or above and below the columns of a long network."""

    def __init__(self, wiring: Wiring, layout: Layout) -> None:
        self.names = row_names(wiring)
        self.layout = layout
        self.columns = layout.columns
        self.size = float(np.clip(0.8 * layout.node, 5, 9))
        longest = max(map(len, self.names)) * self.size * 0.62 / 72
        single = self.columns == 1
        self.space_left = longest + 0.3 if single else 0.0
        self.space_above = self.space_below = 0.0 if single else longest + 0.1

    def draw(self, axes: Axes, left: float) -> None:
        style: dict[str, Any] = {"size": self.size, "color": INK}
        rows = self.layout.rows
        if self.columns == 1:
            for (_, y), name in zip(rows, self.names, strict=True):
                axes.text(left - 0.3, y, name, ha="right", va="center", **style)
            return
        for column in range(self.columns):
            first = column * self.layout.per_column
            if first < len(rows):
                (x, y), up = rows[first], column % 2 == 0
                axes.text(x, y + (0.12 if up else -0.12), self.names[first], rotation=90,
                          ha="center", va="bottom" if up else "top", **style)  # fmt: skip


def _strokes(wiring: Wiring, layout: Layout) -> Iterator[_Stroke]:
    live = wiring.live_edges
    crowd = len(live) and int(wiring.active.sum()) / len(layout.rows)
    faint = float(np.clip((40 / max(crowd, 1)) ** 0.8, 0.1, 1))
    thin = float(np.clip(layout.node / 20, 0.4, 1))
    opacity = (0.25 + 0.75 * _relative_score(wiring)) * faint
    full = torch.ones_like(opacity)
    kinds = (
        (f"edge of a pruned {wiring.noun[0]}", wiring.active & ~live, DEAD, 0.8, full),
        ("given edge", live & ~wiring.learnable, GIVEN, 0.8, full * max(faint, 0.5)),
        ("learned edge", live & wiring.learnable, LEARNED, 1.5, opacity),
    )
    for kind, chosen, color, width, shade in kinds:
        # The strongest are drawn last, on top of the others.
        edges = chosen.nonzero().flatten()
        edges = edges[shade[edges].argsort(stable=True)]
        if len(edges):
            lines = layout.lines(wiring.source[edges].numpy(), wiring.target[edges].numpy())
            yield _Stroke(kind, lines, color, shade[edges].numpy(), width * thin)


def _relative_score(wiring: Wiring) -> Tensor:
    """`[edges]` score relative to the highest one among the active edges into the same row."""
    score = torch.where(wiring.active, wiring.score, 0).clamp_min(0)
    row = wiring.nodes.group[wiring.target]
    top = torch.zeros(len(wiring.nodes.group_parameters))
    top = top.scatter_reduce(0, row, score, "amax")[row]
    return torch.where(top > 0, score / top, 1.0)


def _marks(wiring: Wiring, layout: Layout) -> Iterator[_Marks]:
    inner, live = inner_nodes(wiring), wiring.live_nodes
    kinds = (
        ("input and output", ~inner, "o", False, END),
        (f"live {wiring.noun[0]}", inner & live, "s", False, LIVE),
        (f"pruned {wiring.noun[0]}", inner & ~live, "s", True, PRUNED),
    )
    for kind, chosen, shape, hollow, color in kinds:
        if chosen.any():
            places = layout.nodes[chosen.numpy()]
            yield _Marks(kind, places, layout.node, shape, hollow, color)


def add_legend(figure: Figure, nodes: Sequence[Artist], edges: Sequence[Artist]) -> None:
    """Explain nodes and edges below a graph.

    Nodes are in the first line, edges in the second; matplotlib fills column by column.
    """
    blank = Line2D([], [], linestyle="", label=" ")
    pairs = zip_longest(nodes, edges, fillvalue=blank)
    figure.legend(
        handles=[key for pair in pairs for key in pair],
        loc="lower center",
        ncols=max(len(nodes), len(edges)),
        handler_map={PathCollection: HandlerPathCollection(sizes=[64])},
        frameon=False,
        fontsize=8,
    )


def _summary(wiring: Wiring) -> str:
    inner, live, learnable = inner_nodes(wiring), wiring.live_nodes, wiring.learnable
    nodes = f"{int((inner & live).sum()):,} of {int(inner.sum()):,} {wiring.noun[1]} live"
    if not learnable.any():
        return f"{nodes}, {int(wiring.active.sum()):,} of {len(learnable):,} edges active"
    active = int((wiring.active & learnable).sum())
    return f"{nodes}, {active:,} of {int(learnable.sum()):,} learnable edges active"
