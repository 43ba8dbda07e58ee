"""Fixed and learned connectivity of one architecture, side by side."""

from dataclasses import replace

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from wiring_lightning.plots.graph import Picture, add_legend
from wiring_lightning.plots.style import DPI
from wiring_lightning.wiring import Wiring


def draw_connectivity(wiring: Wiring, title: str = "learned") -> Figure:
    """Draw the fixed wiring of an architecture on the left, its own on the right.

    This is MaskConnect's Figure 4. Marks and lines are those of `draw_wiring`: green squares are
    live branches or blocks, hollow, dashed ones are pruned. Single blocks form a line, and the edge
    between two that are not neighbours is an arc, the higher the further apart they are.

    Args:
        wiring: one architecture.
        title: a headline for the picture on the right.

    Returns:
        The figure.

    Raises:
        ValueError: if the wiring holds a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> figure = draw_connectivity(ResNeXt(depth=11, fan_in=1).wiring(), "learned, K = 1")
        >>> [side.texts[0].get_text() for side in figure.subfigs]
        ['fixed (full)', 'learned, K = 1']
    """
    right = Picture(wiring, title)
    several = bool((wiring.nodes.group.bincount() > 1).any())
    left = Picture(fixed_wiring(wiring), f"fixed ({'full' if several else 'previous'})")
    # The nodes of both are in the same places, so a common height puts them on common lines.
    bottom, top = min(left.low[1], right.low[1]), max(left.high[1], right.high[1])
    corners = [
        (np.array([side.low[0], bottom]), np.array([side.high[0], top])) for side in (left, right)
    ]
    widths = [float(high[0] - low[0]) for low, high in corners]
    figure = Figure(figsize=(sum(widths), float(top - bottom)), dpi=DPI, facecolor="white")
    pages = figure.subfigures(1, 2, squeeze=False, width_ratios=widths, wspace=0)
    nodes: dict[str, Artist] = {}
    edges: dict[str, Artist] = {}
    for page, side, (low, high) in zip(pages.flat, (left, right), corners, strict=True):
        marks, lines = side.draw(page, low, high)
        nodes |= {str(mark.get_label()): mark for mark in marks}
        edges |= {str(line.get_label()): line for line in lines}
    add_legend(figure, list(nodes.values()), list(edges.values()))
    return figure


def fixed_wiring(wiring: Wiring) -> Wiring:
    """The wiring that the same nodes have by convention, all of it given.

    Every node reads all of its candidates in the nearest earlier row: all branches of the module
    before in a ResNeXt (Fixed-Full), the block before in a ResNet (Fixed-Prev).

    Example:
        >>> from wiring_lightning.wiring import make_wiring
        >>> wiring = make_wiring(["in", "a", "b", "out"], source=[0, 0, 1, 2], target=[1, 2, 2, 3],
        ...                      active=[True, True, False, True])
        >>> fixed_wiring(wiring).active.tolist()
        [True, False, True, True]
    """
    row = wiring.nodes.group[wiring.source]
    nearest = torch.full((len(wiring.nodes),), -1)
    nearest = nearest.scatter_reduce(0, wiring.target, row, "amax")
    return replace(
        wiring,
        active=row == nearest[wiring.target],
        score=torch.ones_like(wiring.score),
        learnable=torch.zeros_like(wiring.learnable),
    )
