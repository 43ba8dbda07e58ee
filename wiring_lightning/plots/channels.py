"""Graphs of channels: hundreds of nodes, thousands of weighted edges, and their degrees."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from wiring_lightning.plots import page, style
from wiring_lightning.plots.rows import (
    Points,
    check_one,
    count_live,
    inner_nodes,
    rank_in_group,
    row_names,
)
from wiring_lightning.wiring import Wiring

_HEIGHT, _PITCH = 7.0, 1.7  # height of a column and distance of two columns, in inches
_RADIUS = 4.0  # inches of a circle
_GAP = 0.04  # of the circle, between two groups
_INK = 260.0  # largest sum of the opacities of all lines into a column
_MAX_ALPHA, _MIN_ALPHA = 0.7, 0.03
_FAINT = 0.1  # edges that are given
_MAX_PER_COLUMN = 8_000  # only the strongest edges into a column are drawn
_BINS = 40  # of a histogram of degrees


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

    The nodes of a block form a column, and blocks go from left to right. If nodes of a group feed
    each other, the group takes several columns: a node is to the right of its sources. In a graph
    with cycles (discrete and continuous time) the nodes form a circle. Lines are active edges, more
    opaque for larger weights among those between the same two groups. Of many edges between two
    columns only the strongest are drawn. Hollow nodes are dead: they are on no active path from the
    input to the output, and their edges are pale.

    Args:
        wiring: one architecture.
        title: a headline; by default how many nodes are live, and how many edges there are.

    Raises:
        ValueError: if the wiring is a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import NeuralGraph
        >>> network = NeuralGraph(nodes=80, inputs=8, outputs=10, edges=400)
        >>> draw_channels(network.wiring(), "A graph").axes[0].get_title(loc="left")
        'A graph'
    """
    check_one(wiring)
    cyclic = bool((wiring.source >= wiring.target)[wiring.active].any())
    column = wiring.nodes.group if cyclic else channel_columns(wiring)
    places, labels = _circle(wiring) if cyclic else _columns(wiring, column)
    edges, opacity = strongest_edges(wiring, column)
    inked = np.concatenate([places, labels])
    low, high = inked.min(0) - 0.45, inked.max(0) + 0.45
    width, height = high - low
    figure, axes = style.new_axes(width, height + 0.55, title or _summary(wiring, len(edges)))
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.set_axis_off()
    page.draw_edges(
        axes,
        np.stack([places[wiring.source[edges]], places[wiring.target[edges]]], axis=1),
        [style.LEARNED if live else style.DEAD for live in wiring.live_edges[edges]],
        opacity,
        linewidths=0.5,
        rasterized=True,
        in_layout=False,  # measuring its extent is slow, and the extent is known
    )
    _draw_nodes(axes, wiring, places)
    sizes = wiring.nodes.group.bincount().tolist()
    for name, size, (x, y) in zip(row_names(wiring), sizes, labels, strict=True):
        axes.text(x, y, f"{name}\n{size:,}", ha="center", va="center", size=9, color=style.INK)
    marks = [
        Line2D([], [], marker="o", linestyle="", color=style.LIVE, markersize=5, label="live"),
        Line2D([], [], marker="o", linestyle="", color=style.PRUNED, markerfacecolor="white",
               markersize=5, label="dead"),
        Line2D([], [], color=style.LEARNED, label="edge, darker if stronger"),
    ]  # fmt: skip
    style.legend_below(figure, marks)
    return figure


def channel_columns(wiring: Wiring) -> Tensor:
    """`[nodes]` index of the column of every node; only for a graph without cycles.

    Example:
        >>> from wiring_lightning.wiring import make_wiring
        >>> channel_columns(make_wiring(["in", "g.node0", "g.node1", "out"], [0, 1, 0, 2],
        ...                             [1, 2, 2, 3], [True] * 4, group=[0, 1, 1, 2])).tolist()
        [0, 1, 2, 3]
    """
    group, active = wiring.nodes.group, wiring.active
    inside = active & (group[wiring.source] == group[wiring.target])
    source, target = wiring.source[inside], wiring.target[inside]
    depth = torch.zeros(len(group), dtype=torch.long, device="cpu")
    while True:
        deeper = depth.scatter_reduce(0, target, depth[source] + 1, "amax")
        if torch.equal(deeper, depth):
            break
        depth = deeper
    _, columns = (group * (int(depth.max()) + 1) + depth).unique(return_inverse=True)
    return columns


def between_channels(wiring: Wiring) -> Tensor:
    """`[edges]` mask of edges with a weight between two channels, not stem or classifier."""
    several = wiring.nodes.group.bincount()[wiring.nodes.group] > 1
    return several[wiring.source] & several[wiring.target] & (wiring.parameters > 0)


def _columns(wiring: Wiring, column: Tensor) -> tuple[Points, Points]:
    """`[nodes, 2]` places in columns, and `[groups, 2]` of labels below the groups."""
    group = wiring.nodes.group
    sizes = column.bincount()
    # A column's height grows with its number of nodes, from half of the page to all of it.
    height = _HEIGHT * (0.5 + 0.5 * sizes / sizes.max()) * (sizes > 1)
    y = ((rank_in_group(column) + 0.5) / sizes[column] - 0.5) * height[column]
    places = torch.stack([column * _PITCH, -y], dim=1).double().numpy()
    own = [column[group == number] for number in range(int(group.max()) + 1)]
    middle = [float(part.min() + part.max()) / 2 * _PITCH for part in own]
    return places, np.array([(x, -_HEIGHT / 2 - 0.5) for x in middle])


def _circle(wiring: Wiring) -> tuple[Points, Points]:
    """`[nodes, 2]` places on a circle, group after group, and `[groups, 2]` of labels outside."""
    group = wiring.nodes.group
    sizes = group.bincount()
    share = (1 - _GAP * len(sizes)) * sizes / sizes.sum()
    start = (share + _GAP).cumsum(0) - share - _GAP
    turn = start[group] + share[group] * (rank_in_group(group) + 0.5) / sizes[group]
    return _around(turn, _RADIUS, _RADIUS), _around(start + share / 2, _RADIUS + 0.6, _RADIUS + 0.3)


def _around(turn: Tensor, across: float, up: float) -> Points:
    """Points on an ellipse, clockwise; turns 0 and 1 are on the left."""
    angle = torch.pi * (1 - 2 * turn.double())
    return torch.stack([across * angle.cos(), up * angle.sin()], dim=1).numpy()


def strongest_edges(wiring: Wiring, column: Tensor) -> tuple[Tensor, Tensor]:
    """The active edges that are drawn, pale ones first, and their opacity.

    At most 8,000 edges between channels are drawn into a column: from every column that it reads
    the strongest one, then from every column the second, and so on. So columns that are connected
    look connected, whatever the scale of their weights. Weights are smaller where nodes have more
    inputs, so they are compared only with others between the same two groups. The total opacity
    into a column is limited, so many edges are fainter than few.

    Args:
        wiring: one architecture.
        column: `[nodes]` where each node is drawn, from 0.

    Example:
        >>> from wiring_lightning.backbones import NeuralGraph
        >>> wiring = NeuralGraph(nodes=80, inputs=8, outputs=10, edges=400).wiring()
        >>> edges, opacity = strongest_edges(wiring, channel_columns(wiring))
        >>> len(edges) == int(wiring.active.sum()), bool(opacity.max() <= 0.7)
        (True, True)
    """
    weighted = between_channels(wiring)
    given = (wiring.active & ~weighted).nonzero().flatten()
    edges = (wiring.active & weighted).nonzero().flatten()
    edges = edges[wiring.score[edges].argsort(descending=True, stable=True)]
    edges = edges[rank_in_group(_pairs(wiring, column, edges)).argsort(stable=True)]
    edges = edges[rank_in_group(column[wiring.target[edges]]) < _MAX_PER_COLUMN]
    ink = _ink(wiring, edges)
    into = column[wiring.target[edges]]
    total = torch.zeros(int(column.max()) + 1, device="cpu").scatter_add(0, into, ink)
    opacity = (ink * (_INK / total[into]).clamp_max(_MAX_ALPHA)).clamp_min(_MIN_ALPHA)
    edges = torch.cat([given, edges])
    opacity = torch.cat([torch.full([len(given)], _FAINT, device="cpu"), opacity])
    order = opacity.argsort(stable=True)
    return edges[order], opacity[order]


def _pairs(wiring: Wiring, place: Tensor, edges: Tensor) -> Tensor:
    """`[edges]` a number for each pair of places `[nodes]`, which edges between them share."""
    return place[wiring.source[edges]] * (int(place.max()) + 1) + place[wiring.target[edges]]


def _ink(wiring: Wiring, edges: Tensor) -> Tensor:
    """`[edges]` opacity from 0 to 1, relative to the strongest between the same two groups."""
    kind, score = _pairs(wiring, wiring.nodes.group, edges), wiring.score[edges]
    ink = torch.zeros_like(score)
    for number in kind.unique():
        own = kind == number
        strong = score[own].sort(descending=True).values
        largest = strong[len(strong) // 100].clamp_min(1e-12)
        ink[own] = (score[own] / largest).clamp(0, 1) ** 3  # most weights have similar sizes
    return ink


def _draw_nodes(axes: Axes, wiring: Wiring, places: Points) -> None:
    live, inner = wiring.live_nodes.numpy(), inner_nodes(wiring).numpy()
    distance = _HEIGHT / max(float(wiring.nodes.group.bincount().max()), 1.0)  # roughly, in inches
    area = float(np.clip(72 * distance, 1.2, 5.0)) ** 2
    for chosen, size, face, edge in (
        (inner & ~live, area, "white", style.PRUNED),
        (inner & live, area, style.LIVE, style.LIVE),
        (~inner, 30.0, style.END, style.END),
    ):
        x, y = places[chosen].T
        axes.scatter(
            x, y, size, facecolors=face, edgecolors=edge, linewidths=0.6, rasterized=True, zorder=3
        )


def _summary(wiring: Wiring, drawn: int) -> str:
    active = int(wiring.active.sum())
    text = f"{count_live(wiring)}, {active:,} of {wiring.candidates:,} edges"
    return text if drawn == active else f"{text}, the strongest {drawn:,} drawn"


def draw_degrees(wiring: Wiring, title: str | None = None) -> Figure:
    """Draw the distributions of in-degrees and out-degrees of a graph of channels.

    Counts active edges with a weight between channels, not those of the stem and the classifier.
    Grey bars are nodes without such edges; the line is the mean of the others.

    Args:
        wiring: one architecture.
        title: a headline.

    Raises:
        ValueError: if the wiring is a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import NeuralGraph
        >>> network = NeuralGraph(nodes=80, inputs=8, outputs=10, edges=400)
        >>> figure = draw_degrees(network.wiring())
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['edges that a node receives', 'edges that a node sends']
    """
    check_one(wiring)
    received, sent = degrees(wiring)
    figure = style.new_figure(9.0, 3.4, title)
    left, right = figure.subplots(1, 2, sharey=True)
    _histogram(left, received, "edges that a node receives", "nodes")
    _histogram(right, sent, "edges that a node sends", "")
    return figure


def degrees(wiring: Wiring) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """In-degrees of the nodes that can have inputs, out-degrees of those that can have outputs.

    Groups without incoming edges, such as the inputs, are left out of the in-degrees; groups
    without outgoing edges are left out of the out-degrees.

    Example:
        >>> from wiring_lightning.wiring import make_wiring
        >>> graph = make_wiring(["in", "a.node0", "a.node1", "b.node0", "b.node1", "out"],
        ...                     [0, 0, 1, 1, 3, 4], [1, 2, 3, 4, 5, 5], [True] * 6,
        ...                     group=[0, 1, 1, 2, 2, 3], edge_parameters=[0, 0, 1, 1, 0, 0])
        >>> received, sent = degrees(graph)
        >>> received.tolist(), sent.tolist()
        ([1, 1], [2, 0])
    """
    counted = wiring.active & between_channels(wiring)
    group = wiring.nodes.group

    def count(ends: Tensor) -> NDArray[np.int64]:
        degree = ends[counted].bincount(minlength=len(group))
        has_edges = torch.isin(group, group[ends[counted]])
        return degree[has_edges].numpy()

    return count(wiring.target), count(wiring.source)


def _histogram(axes: Axes, degree: NDArray[np.int64], across: str, up: str) -> None:
    largest = int(degree.max(initial=1))
    step = max(1, -(-largest // _BINS))
    # Bars are centred at the degrees that they count; the bar of degree 0 is left of the others.
    borders = np.arange(0, largest + step, step) + 0.5
    some = degree[degree > 0]
    axes.hist(some, borders.tolist(), color=style.LIVE)
    none = len(degree) - len(some)
    if none:
        axes.bar(0.5 - 0.5 * step, none, 0.9 * step, color=style.PRUNED)
    if len(some):
        mean = float(some.mean())
        axes.axvline(mean, color=style.LEARNED, linestyle="--", linewidth=1)
        text = f"mean {mean:.1f}, largest {largest:,}, {none:,} with none"
        axes.set_title(text, loc="left", size=9, color=style.INK)
    style.set_axes(axes, across, up)
    style.use_integers(axes.xaxis, axes.yaxis)
