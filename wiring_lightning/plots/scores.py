"""The scores of a wiring as heat maps."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from torch import Tensor

from wiring_lightning.plots.style import DPI, END, INK, check_one, rank_in_group, row_names
from wiring_lightning.wiring import Wiring

_MAX_PANELS = 64


def draw_scores(wiring: Wiring, title: str | None = None) -> Figure:
    """Draw the scores of all learnable edges as heat maps, one panel per module that listens.

    Rows are the branches that listen, columns those that they can listen to; a dot marks an active
    edge, grey is no edge at all. All panels share one colour scale. If every module is a single
    branch, or with more than 64 modules, one panel holds them all.

    Args:
        wiring: one architecture.
        title: a headline.

    Returns:
        The figure; it says so if there is no learnable edge.

    Raises:
        ValueError: if the wiring holds a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> figure = draw_scores(ResNeXt(depth=11, fan_in=4).wiring())
        >>> [axes.get_title() for axes in figure.axes[:2]]
        ['module2', 'module3']
    """
    check_one(wiring)
    panels = list(_panels(wiring))
    if not panels:
        figure = Figure(figsize=(4.6, 1.2), dpi=DPI)
        figure.text(0.5, 0.5, "This wiring has no learnable edges.", ha="center", color=INK)
        return figure
    columns = min(len(panels), ceil(sqrt(1.4 * len(panels))))
    rows = ceil(len(panels) / columns)
    side = 7.0 if len(panels) == 1 else min(2.4, 14 / columns)
    size = (columns * side + 1.0, rows * side * 1.08 + (0.4 if title else 0.0))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    top = max(float(np.nanmax(panel.score)) for panel in panels)
    for axes, panel in zip(grid, panels, strict=False):
        image = panel.draw(axes, top if top > 0 else 1.0, side)
    for axes in grid[len(panels) :]:
        axes.remove()
    used = list(grid[: len(panels)])
    bar = figure.colorbar(image, ax=used, shrink=0.9, aspect=30, pad=0.015)
    bar.set_label("score (dot: active edge)", size=9)
    bar.ax.tick_params(labelsize=8)
    if title:
        figure.suptitle(title, size=12)
    return figure


@dataclass(frozen=True)
class _Panel:
    """One heat map: `[targets, sources]`, not a number where there is no edge."""

    title: str
    score: NDArray[Any]
    active: NDArray[np.bool_]
    sources: list[str]
    targets: list[str]
    source_label: str
    target_label: str

    def draw(self, axes: Axes, top: float, side: float) -> AxesImage:
        """Draw it; `top` is the score at the dark end of the scale, `side` the size in inches."""
        colors = matplotlib.colormaps["Blues"].with_extremes(bad="#E3E5E8")
        image = axes.imshow(self.score, cmap=colors, vmin=0, vmax=top, aspect="auto")
        rows, columns = np.nonzero(self.active)
        cell = 72 * 0.8 * side / max(self.score.shape)
        axes.scatter(columns, rows, s=np.clip(0.36 * cell, 0.8, 7) ** 2, color=END, linewidths=0)
        axes.set_title(self.title, size=9)
        axes.set_xlabel(self.source_label, size=8, labelpad=1)
        axes.set_ylabel(self.target_label, size=8, labelpad=1)
        axes.tick_params(labelsize=7, length=2, pad=1.5)
        # Few ticks on small panels: they take most of the time that a page of panels takes.
        room = 32 if side > 4 else 8 if side > 2.2 else 4
        for axis, names in ((axes.xaxis, self.sources), (axes.yaxis, self.targets)):
            ticks = range(0, len(names), ceil(len(names) / room))
            axis.set_ticks(ticks, labels=[names[tick] for tick in ticks])
        if len(max(self.sources, key=len)) > 2:
            axes.tick_params(axis="x", rotation=90)
        return image


def _panels(wiring: Wiring) -> Iterator[_Panel]:
    edges = wiring.learnable.nonzero().flatten()
    if len(edges) == 0:
        return
    row = wiring.nodes.group[wiring.target[edges]]
    names = row_names(wiring)
    modules = row.unique().tolist()
    single = len(wiring.target[edges].unique()) == len(modules)
    if single or len(modules) > _MAX_PANELS:
        yield _panel(wiring, edges, "", names)
        return
    for module in modules:
        yield _panel(wiring, edges[row == module], names[module], names)


def _panel(wiring: Wiring, edges: Tensor, title: str, names: list[str]) -> _Panel:
    """Lay out some edges as a matrix."""
    sources, column = wiring.source[edges].unique(return_inverse=True)
    targets, row = wiring.target[edges].unique(return_inverse=True)
    score = torch.full((len(targets), len(sources)), torch.nan)
    score[row, column] = wiring.score[edges]
    active = torch.zeros_like(score, dtype=torch.bool)
    active[row, column] = wiring.active[edges]
    groups = wiring.nodes.group[sources].unique().tolist()
    one = wiring.noun[0]
    return _Panel(
        title=title,
        score=score.numpy(),
        active=active.numpy(),
        sources=_tick_labels(wiring, sources),
        targets=_tick_labels(wiring, targets),
        source_label=f"{one} of {names[groups[0]]}" if len(groups) == 1 else "source",
        target_label=one if title else "target",
    )


def _tick_labels(wiring: Wiring, nodes: Tensor) -> list[str]:
    """Positions in the group for nodes of one group, names for nodes of several groups."""
    group = wiring.nodes.group
    if len(nodes) > 1 and len(group[nodes].unique()) == 1:
        return [str(position) for position in rank_in_group(group)[nodes].tolist()]
    return [wiring.nodes.names[node] for node in nodes.tolist()]
