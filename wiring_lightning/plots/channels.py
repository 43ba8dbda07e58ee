"""A graph of channels: hundreds of nodes and thousands of weighted edges."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from wiring_lightning.plots.style import (
    DEAD,
    DPI,
    END,
    INK,
    LEARNED,
    LIVE,
    PRUNED,
    check_one,
    inner_nodes,
    rank_in_group,
    row_names,
)
from wiring_lightning.wiring import Wiring

Points = NDArray[np.float64]

_HEIGHT, _PITCH = 7.0, 1.7  # inches of a column, and between two of them
_RADIUS = 4.0  # inches of a circle
_GAP = 0.04  # of the circle, between two groups
_INK = 260.0  # lines per group that may be drawn fully opaque
_MAX_ALPHA, _MIN_ALPHA = 0.7, 0.03
_FAINT = 0.1  # edges that are given
_MAX_PER_GROUP = 8_000  # the strongest are drawn; more would only darken the background


def is_channel_graph(wiring: Wiring) -> bool:
    """Whether the nodes are single channels, as in `NeuralGraph` and `MobileNetV1DNW`.

    Example:
        >>> from wiring_lightning.backbones import NeuralGraph, ResNeXt
        >>> is_channel_graph(NeuralGraph().wiring()), is_channel_graph(ResNeXt(11).wiring())
        (True, False)
    """
    return any(".node" in name for name in wiring.nodes.names)


def draw_channels(wiring: Wiring, title: str | None = None) -> Figure:
    """Draw which channels a network has connected (DNW, Figures 2 and 5).

    Nodes of a block stand in a column, and blocks from left to right. A group whose nodes feed each
    other takes several columns: a node stands behind all those of its group that it hears from.
    Where edges lead back, as in discrete and continuous time, all nodes stand on a circle. A line
    is an active edge, the more opaque the larger its weight. Hollow nodes are dead: no active path
    from the input to the output leads through them, and their edges are pale.

    Args:
        wiring: one architecture.
        title: a headline.

    Returns:
        The figure.

    Raises:
        ValueError: if the wiring holds a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import NeuralGraph
        >>> network = NeuralGraph(nodes=80, inputs=8, outputs=10, edges=400)
        >>> draw_channels(network.wiring(), "A graph").axes[0].get_title(loc="left")
        'A graph'
    """
    check_one(wiring)
    cyclic = bool((wiring.source >= wiring.target)[wiring.active].any())
    columns = None if cyclic else channel_columns(wiring)
    places, labels = _circle(wiring) if columns is None else _columns(wiring, columns)
    low, high = places.min(0) - 0.45, places.max(0) + 0.45
    size = high - low + np.array([0.0, 0.9])
    figure = Figure(figsize=tuple(size), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.add_subplot(xlim=(low[0], high[0]), ylim=(low[1] - 0.35, high[1]))
    axes.set_axis_off()
    drawn = _draw_edges(axes, wiring, places)
    _draw_nodes(axes, wiring, places)
    for text, x, y in labels:
        axes.text(x, y, text, ha="center", va="center", size=9, color=INK)
    axes.set_title(title or _summary(wiring, drawn), loc="left", size=11, color=INK)
    marks = [
        Line2D([], [], marker="o", linestyle="", color=LIVE, markersize=5, label="live"),
        Line2D([], [], marker="o", linestyle="", color=PRUNED, markerfacecolor="white",
               markersize=5, label="dead"),
        Line2D([], [], color=LEARNED, label="edge, darker if stronger"),
    ]  # fmt: skip
    figure.legend(handles=marks, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return figure


def channel_columns(wiring: Wiring) -> Tensor:
    """`[nodes]` number of the column of every node, from 0; only for a graph without cycles.

    Example:
        >>> from wiring_lightning.wiring import make_wiring
        >>> channel_columns(make_wiring(["in", "g.node0", "g.node1", "out"], [0, 1, 0, 2],
        ...                             [1, 2, 2, 3], [True] * 4, group=[0, 1, 1, 2])).tolist()
        [0, 1, 2, 3]
    """
    group, active = wiring.nodes.group, wiring.active
    inside = active & (group[wiring.source] == group[wiring.target])
    source, target = wiring.source[inside], wiring.target[inside]
    depth = torch.zeros(len(group), dtype=torch.long)
    while True:
        deeper = depth.scatter_reduce(0, target, depth[source] + 1, "amax")
        if torch.equal(deeper, depth):
            break
        depth = deeper
    _, columns = (group * (int(depth.max()) + 1) + depth).unique(return_inverse=True)
    return columns


def between_channels(wiring: Wiring) -> Tensor:
    """`[edges]` edges with a weight whose ends are both channels, not the stem or the classifier.

    Example:
        >>> from wiring_lightning.backbones import NeuralGraph
        >>> network = NeuralGraph(nodes=80, inputs=8, outputs=10, edges=400)
        >>> int(between_channels(network.wiring()).sum())
        400
    """
    several = wiring.nodes.group.bincount()[wiring.nodes.group] > 1
    return several[wiring.source] & several[wiring.target] & (wiring.parameters > 0)


def _columns(wiring: Wiring, column: Tensor) -> tuple[Points, list[tuple[str, float, float]]]:
    """Nodes in columns, and a label below the first column of every group."""
    sizes = column.bincount()
    rank = rank_in_group(column)
    # Every column as high as it is full, but at least half of the page.
    height = _HEIGHT * (0.5 + 0.5 * sizes / sizes.max()) * (sizes > 1)
    y = ((rank + 0.5) / sizes[column] - 0.5) * height[column]
    places = torch.stack([column * _PITCH, -y], dim=1).numpy().astype(np.float64)
    labels = []
    for number, name in enumerate(row_names(wiring)):
        own = column[wiring.nodes.group == number]
        middle = float(own.min() + own.max()) / 2 * _PITCH
        labels.append((f"{name}\n{len(own):,}", middle, -_HEIGHT / 2 - 0.5))
    return places, labels


def _circle(wiring: Wiring) -> tuple[Points, list[tuple[str, float, float]]]:
    """Nodes on a circle, group after group, and a label outside each of them."""
    group = wiring.nodes.group
    sizes = group.bincount()
    share = (1 - _GAP * len(sizes)) * sizes / sizes.sum()
    start = (share + _GAP).cumsum(0) - share - _GAP
    turn = start[group] + share[group] * (rank_in_group(group) + 0.5) / sizes[group]
    angle = (np.pi * (1 - 2 * turn)).numpy()
    places: Points = _RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    labels = []
    for number, name in enumerate(row_names(wiring)):
        middle = np.pi * (1 - 2 * float(start[number] + share[number] / 2))
        where = (_RADIUS + 0.3) * np.array([np.cos(middle), np.sin(middle)])
        labels.append((f"{name}\n{int(sizes[number]):,}", float(where[0]), float(where[1])))
    return places, labels


def _draw_edges(axes: Axes, wiring: Wiring, places: Points) -> int:
    """Draw the strongest active edges of every group, weak ones first; their number."""
    edges = wiring.active.nonzero().flatten()
    opacity = _opacity(wiring, edges)
    order = opacity.argsort(stable=True)
    order = order[opacity[order] > 0]
    edges, opacity = edges[order], opacity[order]
    colors = np.empty((len(edges), 4))
    colors[:, :3] = to_rgb(LEARNED)
    colors[(~wiring.live_edges[edges]).numpy(), :3] = to_rgb(DEAD)
    colors[:, 3] = opacity.numpy()
    ends = np.stack([places[wiring.source[edges]], places[wiring.target[edges]]], axis=1)
    lines = LineCollection(list(ends), colors=colors, linewidths=0.5, rasterized=True)
    lines.set_in_layout(False)  # its extent is known, and takes long to measure
    axes.add_collection(lines, autolim=False)
    return len(edges)


def _opacity(wiring: Wiring, edges: Tensor) -> Tensor:
    """Of some edges, by their strength among those that lead to the same group; 0 for none.

    Every group gets the same amount of ink, so that many edges are fainter than few.
    """
    score, group = wiring.score[edges], wiring.nodes.group[wiring.target[edges]]
    opacity = torch.full_like(score, _FAINT)
    weighted = between_channels(wiring)[edges]
    for number in group[weighted].unique():
        own = (weighted & (group == number)).nonzero().flatten()
        own = own[score[own].argsort(descending=True)]
        opacity[own[_MAX_PER_GROUP:]] = 0
        own = own[:_MAX_PER_GROUP]
        largest = score[own[len(own) // 100]].clamp_min(1e-12)
        ink = (score[own] / largest).clamp(0, 1) ** 3  # most weights are of much the same size
        opacity[own] = (ink * min(_MAX_ALPHA, _INK / float(ink.sum()))).clamp_min(_MIN_ALPHA)
    return opacity


def _draw_nodes(axes: Axes, wiring: Wiring, places: Points) -> None:
    live, inner = wiring.live_nodes.numpy(), inner_nodes(wiring).numpy()
    distance = _HEIGHT / max(float(wiring.nodes.group.bincount().max()), 1.0)  # roughly, in inches
    area = float(np.clip(72 * distance, 1.2, 5.0)) ** 2
    for chosen, size, face, edge in (
        (inner & ~live, area, "white", PRUNED),
        (inner & live, area, LIVE, LIVE),
        (~inner, 30.0, END, END),
    ):
        x, y = places[chosen].T
        axes.scatter(
            x, y, size, facecolors=face, edgecolors=edge, linewidths=0.6, rasterized=True, zorder=3
        )


def _summary(wiring: Wiring, drawn: int) -> str:
    inner = inner_nodes(wiring)
    live, active = int(wiring.live_nodes[inner].sum()), int(wiring.active.sum())
    text = f"{live:,} of {int(inner.sum()):,} nodes live, {active:,} of {wiring.candidates:,} edges"
    return text if drawn == active else f"{text}, the strongest {drawn:,} drawn"
