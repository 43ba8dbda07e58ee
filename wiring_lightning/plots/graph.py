"""Draw a wiring as a graph, alone or beside the fixed wiring of the same nodes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from torch import Tensor

from wiring_lightning.plots import page, style
from wiring_lightning.plots.channels import draw_channels, is_channel_graph
from wiring_lightning.plots.fabric import draw_fabric, is_fabric
from wiring_lightning.plots.rows import Layout, Points, check_one, count_live, row_names
from wiring_lightning.wiring import Wiring

_MIN_WIDTH = 4.8  # inches that the legend needs


def draw_architecture(wiring: Wiring, title: str | None = None) -> Figure:
    """Draw any wiring.

    Uses `draw_fabric` for a fabric, `draw_channels` for a graph of channels, else `draw_wiring`.

    Args:
        wiring: one architecture.
        title: a headline.

    Raises:
        ValueError: if the wiring is a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import ResNetFabric
        >>> draw_architecture(ResNetFabric(width=1).wiring()).texts[0].get_text()
        '10 of 10 edges kept, 3 of 3 sums live'
    """
    if is_channel_graph(wiring):
        return draw_channels(wiring, title)
    return draw_fabric(wiring, title) if is_fabric(wiring) else draw_wiring(wiring, title)


def draw_wiring(wiring: Wiring, title: str | None = None) -> Figure:
    """Draw the graph from the input at the top to the output at the bottom (GateConnect, Figure 3).

    A row is a group of nodes, such as the branches of a module. Red circles are the input and the
    output, green squares are live branches. Hollow, dashed squares are pruned branches, which are
    on no active path from the input to the output. Lines are active edges. Dark ones were learned,
    darker for higher scores in their row; grey ones are fixed; pale ones belong to a pruned branch.
    Edges that skip rows are curved. More than 60 rows are drawn in several columns.

    Args:
        wiring: one architecture.
        title: a headline.

    Raises:
        ValueError: if the wiring is a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> figure = draw_wiring(ResNeXt(depth=11, fan_in=8).wiring(), title="A ResNeXt")
        >>> [text.get_text() for text in figure.texts]
        ['A ResNeXt', '24 of 24 branches live, 128 of 128 learnable edges active']
    """
    graph = _Graph(wiring, title)
    figure = Figure(figsize=tuple(graph.high - graph.low), dpi=style.DPI, facecolor="white")
    page.add_legend(figure, *graph.draw(figure))
    return figure


def draw_connectivity(wiring: Wiring, title: str = "learned") -> Figure:
    """Draw the fixed wiring of an architecture on the left, its own on the right.

    This is MaskConnect's Figure 4. Marks and lines are those of `draw_wiring`. Single blocks form a
    line; an edge between blocks that are not neighbours is an arc, higher for larger distances.

    Args:
        wiring: one architecture.
        title: a headline for the picture on the right.

    Raises:
        ValueError: if the wiring is a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> figure = draw_connectivity(ResNeXt(depth=11, fan_in=1).wiring(), "learned, K = 1")
        >>> [side.texts[0].get_text() for side in figure.subfigs]
        ['fixed (full)', 'learned, K = 1']
    """
    several = bool((wiring.nodes.group.bincount() > 1).any())
    name = f"fixed ({'full' if several else 'previous'})"
    return draw_side_by_side(fixed_wiring(wiring), wiring, (name, title))


def draw_side_by_side(
    first: Wiring, second: Wiring, titles: tuple[str, str] = ("learned", "right")
) -> Figure:
    """Draw two wirings of the same nodes, such as the one that was learned and the right one.

    Marks and lines are those of `draw_wiring`.

    Args:
        first: one architecture, drawn on the left.
        second: another one of the same nodes, drawn on the right.
        titles: a headline for each.

    Raises:
        ValueError: if the nodes are not the same.

    Example:
        >>> from wiring_lightning.backbones import GatedHeads
        >>> network = GatedHeads()
        >>> figure = draw_side_by_side(network.wiring(), network.planted_wiring())
        >>> [side.texts[0].get_text() for side in figure.subfigs]
        ['learned', 'right']
    """
    if first.nodes.names != second.nodes.names:
        raise ValueError("Two wirings are drawn side by side only if their nodes are the same.")
    left, right = (_Graph(one, title) for one, title in zip((first, second), titles, strict=True))
    # The nodes of both have the same positions, so an equal height aligns them.
    left.low[1] = right.low[1] = min(left.low[1], right.low[1])
    left.high[1] = right.high[1] = max(left.high[1], right.high[1])
    widths = [float(side.high[0] - side.low[0]) for side in (left, right)]
    height = float(left.high[1] - left.low[1])
    figure = Figure(figsize=(sum(widths), height), dpi=style.DPI, facecolor="white")
    sheets = figure.subfigures(1, 2, squeeze=False, width_ratios=widths, wspace=0)
    entries = [side.draw(sheet) for side, sheet in zip((left, right), sheets.flat, strict=True)]
    nodes, edges = ([*ours, *theirs] for ours, theirs in zip(*entries, strict=True))
    page.add_legend(figure, nodes, edges)
    return figure


def fixed_wiring(wiring: Wiring) -> Wiring:
    """The usual fixed wiring of the same nodes.

    Every node reads all of its candidates in the nearest earlier row: in a ResNeXt all branches of
    the previous module (Fixed-Full), in a ResNet the previous block (Fixed-Prev).

    Example:
        >>> from wiring_lightning.wiring import make_wiring
        >>> wiring = make_wiring(["in", "a", "b", "out"], source=[0, 0, 1, 2], target=[1, 2, 2, 3],
        ...                      active=[True, True, False, True])
        >>> fixed_wiring(wiring).active.tolist()
        [True, False, True, True]
    """
    row = wiring.nodes.group[wiring.source]
    nearest = torch.full((len(wiring.nodes),), -1, device="cpu")
    nearest = nearest.scatter_reduce(0, wiring.target, row, "amax")
    return replace(
        wiring,
        active=row == nearest[wiring.target],
        score=torch.ones_like(wiring.score),
        learnable=torch.zeros_like(wiring.learnable),
    )


class _Graph:
    """A wiring laid out on a page; its corners `low` and `high` are `[2]`, in inches."""

    def __init__(self, wiring: Wiring, title: str | None) -> None:
        check_one(wiring)
        self.wiring, self.title = wiring, title
        self.layout = layout = Layout(wiring)
        self.edges = list(_edges(wiring, layout))
        self.names = row_names(wiring)
        self.text_size = float(np.clip(0.8 * layout.node, 5, 9))
        longest = max(map(len, self.names)) * self.text_size * 0.62 / 72
        # Rows are named on the left, or above and below the columns of a long network.
        beside, above = (0.0, longest + 0.1) if layout.columns > 1 else (longest + 0.3, 0.0)
        inked = np.concatenate([layout.nodes, *(part.lines.reshape(-1, 2) for part in self.edges)])
        self.left = inked[:, 0].min()
        self.low, self.high = page.corners(
            inked, left=0.35 + beside, right=0.35, above=above, below=above, width=_MIN_WIDTH
        )

    def draw(self, sheet: FigureBase) -> tuple[list[Artist], list[Artist]]:
        """Draw the graph on a page of its size; return legend entries of nodes and of edges."""
        axes = page.inch_axes(sheet, self.low, self.high, self.title, _summary(self.wiring))
        for kind in self.edges:
            page.draw_edges(axes, kind.lines, kind.color, kind.opacity, linewidths=kind.width,
                       label=kind.name, zorder=2)  # fmt: skip
        one, live = self.wiring.noun[0], self.wiring.live_nodes.numpy()
        names = f"live {one}", f"pruned {one}"
        squares = page.draw_nodes(axes, self.layout.nodes, live, self.layout.node, names)
        self._name_rows(axes)
        return squares, [
            Line2D([], [], color=kind.color, linewidth=max(kind.width, 0.9), label=kind.name)
            for kind in self.edges[::-1]
        ]

    def _name_rows(self, axes: Axes) -> None:
        text: dict[str, Any] = {"size": self.text_size, "color": style.INK}
        rows = self.layout.rows
        if self.layout.columns == 1:
            for (_, y), name in zip(rows, self.names, strict=True):
                axes.text(self.left - 0.3, y, name, ha="right", va="center", **text)
            return
        for column, first in enumerate(range(0, len(rows), self.layout.per_column)):
            (x, y), up = rows[first], column % 2 == 0
            axes.text(x, y + (0.12 if up else -0.12), self.names[first], rotation=90, ha="center",
                      va="bottom" if up else "top", **text)  # fmt: skip


@dataclass(frozen=True)
class _Edges:
    """Edges of one kind."""

    name: str
    lines: Points
    color: str
    opacity: Any
    width: float


def _edges(wiring: Wiring, layout: Layout) -> Iterator[_Edges]:
    """The active edges by kind, fainter and thinner where many are drawn."""
    live = wiring.live_edges
    crowd = int(wiring.active.sum()) / len(layout.rows)  # edges into a row
    faint = float(np.clip((40 / max(crowd, 1)) ** 0.8, 0.1, 1))
    thin = float(np.clip(layout.node / 20, 0.4, 1))
    opacity = (0.25 + 0.75 * _relative_score(wiring)) * faint
    full = torch.ones_like(opacity)
    kinds = (
        (f"edge of a pruned {wiring.noun[0]}", wiring.active & ~live, style.DEAD, 0.8, full),
        ("given edge", live & ~wiring.learnable, style.GIVEN, 0.8, full * max(faint, 0.5)),
        ("learned edge", live & wiring.learnable, style.LEARNED, 1.5, opacity),
    )
    for name, chosen, color, width, shade in kinds:
        # The strongest are drawn last, on top of the others.
        edges = chosen.nonzero().flatten()
        edges = edges[shade[edges].argsort(stable=True)]
        if len(edges):
            lines = layout.lines(wiring.source[edges].numpy(), wiring.target[edges].numpy())
            yield _Edges(name, lines, color, shade[edges].numpy(), width * thin)


def _relative_score(wiring: Wiring) -> Tensor:
    """`[edges]` score relative to the highest one among the active edges into the same row."""
    score = torch.where(wiring.active, wiring.score, 0).clamp_min(0)
    row = wiring.nodes.group[wiring.target]
    top = torch.zeros(len(wiring.nodes.group_parameters), device="cpu")
    top = top.scatter_reduce(0, row, score, "amax")[row]
    return torch.where(top > 0, score / top, 1.0)


def _summary(wiring: Wiring) -> str:
    chosen, kind = wiring.learnable, "learnable edges"
    if not chosen.any():
        chosen, kind = torch.ones_like(chosen), "edges"
    active = int((wiring.active & chosen).sum())
    return f"{count_live(wiring)}, {active:,} of {int(chosen.sum()):,} {kind} active"
