"""How many edges the nodes of a graph send and receive."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from wiring_lightning.plots.channels import between_channels
from wiring_lightning.plots.style import DPI, INK, LEARNED, LIVE, PRUNED, check_one
from wiring_lightning.wiring import Wiring

_BINS = 40


def draw_degrees(wiring: Wiring, title: str | None = None) -> Figure:
    """Draw the distributions of in-degrees and out-degrees of a graph of channels.

    Counted are active edges with a weight between channels: what the stem gives and what the
    classifier reads is left out. Grey bars are nodes with no such edge; the line is the mean of the
    others.

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
        >>> figure = draw_degrees(network.wiring())
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['edges that a node receives', 'edges that a node sends']
    """
    check_one(wiring)
    received, sent = degrees(wiring)
    figure = Figure(figsize=(9.0, 3.4), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _histogram(left, received, "edges that a node receives")
    _histogram(right, sent, "edges that a node sends")
    left.set_ylabel("nodes")
    if title:
        figure.suptitle(title, x=0.01, ha="left", size=11, color=INK)
    return figure


def degrees(wiring: Wiring) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """In-degrees of the nodes that could receive, and out-degrees of those that could send.

    A node of a group that no edge leads to, such as the inputs, counts for one side only.

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

    def count(ends: torch.Tensor) -> NDArray[np.int64]:
        degree = ends[counted].bincount(minlength=len(group))
        able = torch.zeros(int(group.max()) + 1, dtype=torch.bool)
        able[group[ends[counted]]] = True
        return degree[able[group]].numpy()

    return count(wiring.target), count(wiring.source)


def _histogram(axes: Axes, degree: NDArray[np.int64], label: str) -> None:
    largest = int(degree.max(initial=1))
    step = max(1, -(-largest // _BINS))
    edges = np.arange(1, largest + step + 1, step)
    some = degree[degree > 0]
    axes.hist(some, edges.tolist(), color=LIVE)
    none = len(degree) - len(some)
    if none:
        axes.bar(-0.5 * step, none, 0.9 * step, color=PRUNED)
    if len(some):
        mean = float(some.mean())
        axes.axvline(mean, color=LEARNED, linestyle="--", linewidth=1)
        text = f"mean {mean:.1f}, largest {largest:,}, {none:,} with none"
        axes.set_title(text, loc="left", size=9, color=INK)
    axes.set_xlabel(label)
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.spines[["top", "right"]].set_visible(False)
