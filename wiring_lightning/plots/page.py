"""A page measured in inches, with nodes at exact positions, edges, headline and legend."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure, FigureBase
from matplotlib.legend_handler import HandlerPathCollection
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from wiring_lightning.plots import style
from wiring_lightning.plots.rows import Points

_HEADER, _FOOTER = 0.85, 0.75  # inches that headline and legend need


def corners(
    inked: Points, left: float, right: float, width: float, above: float = 0.0, below: float = 0.0
) -> tuple[Points, Points]:
    """Lower left and upper right corner of a page around `[points, 2]`, all in inches.

    Adds room for headline and legend to these margins; the page is at least `width` wide.
    """
    low = inked.min(0) - np.array([left, _FOOTER + below])
    high = inked.max(0) + np.array([right, _HEADER + above])
    missing = np.array([max(0.0, width - (high - low)[0]) / 2, 0.0])
    return low - missing, high + missing


def inch_axes(page: FigureBase, low: Points, high: Points, title: str | None, caption: str) -> Axes:
    """Axes in inches that fill a page with these corners, with title and caption at the top."""
    axes = page.add_axes((0, 0, 1, 1), xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.set_axis_off()
    height = high[1] - low[1]
    if title:
        page.text(0.5, 1 - 0.25 / height, title, ha="center", va="center", size=12)
    below = 1 - (0.5 if title else 0.3) / height
    page.text(0.5, below, caption, ha="center", va="center", size=9, color=style.INK)
    return axes


def draw_edges(
    axes: Axes, lines: Points, color: str | Sequence[str], opacity: Any, **options: Any
) -> LineCollection:
    """Draw `[edges, points, 2]` lines in one colour or one for each, with an opacity for each."""
    colors = np.broadcast_to(to_rgba_array(color), (len(lines), 4)).copy()
    colors[:, 3] = opacity
    collection = LineCollection(list(lines), colors=colors, **options)
    axes.add_collection(collection, autolim=False)
    return collection


def draw_nodes(
    axes: Axes, places: Points, live: NDArray[np.bool_], size: float, names: tuple[str, str]
) -> list[Artist]:
    """Draw the first and the last node as circles, the others as squares, hollow if not live.

    `size` is the side of a square in points; `names` are the legend's labels for live and for
    other squares. Returns entries of the legend.
    """
    inner = np.ones(len(live), dtype=bool)
    inner[[0, -1]] = False
    kinds = (
        ("input and output", ~inner, "o", style.END, style.END, "-"),
        (names[0], inner & live, "s", style.LIVE, style.LIVE, "-"),
        (names[1], inner & ~live, "s", "white", style.PRUNED, "--"),
    )
    entries: list[Artist] = []
    for label, chosen, shape, face, edge, line in kinds:
        if chosen.any():
            x, y = places[chosen].T
            entries.append(
                axes.scatter(
                    x, y, size**2, marker=shape, facecolors=face, edgecolors=edge, linestyles=line,
                    linewidths=min(0.9, 0.08 * size), label=label, zorder=4,
                )
            )  # fmt: skip
    return entries


def add_legend(figure: Figure, nodes: Sequence[Artist], edges: Sequence[Artist]) -> None:
    """Add a legend below a graph, without duplicates.

    Nodes are in the first line, edges in the second; matplotlib fills column by column.
    """
    nodes, edges = (
        list({entry.get_label(): entry for entry in part}.values()) for part in (nodes, edges)
    )
    blank = Line2D([], [], linestyle="", label=" ")
    pairs = zip_longest(nodes, edges, fillvalue=blank)
    figure.legend(
        handles=[entry for pair in pairs for entry in pair],
        loc="lower center",
        ncols=max(len(nodes), len(edges)),
        handler_map={PathCollection: HandlerPathCollection(sizes=[64])},
        frameon=False,
        fontsize=8,
    )
