"""Heat maps: the scores of a wiring, and how much layers use the features of earlier layers."""

from collections.abc import Sequence
from math import ceil, sqrt
from typing import Any, Protocol, runtime_checkable

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from wiring_lightning.plots import style
from wiring_lightning.plots.rows import check_one, rank_in_group, row_names
from wiring_lightning.wiring import Wiring

_MAX_PANELS = 64
_SIDE = 3.4  # side of the panel of a stage, in inches


def draw_scores(wiring: Wiring, title: str | None = None) -> Figure:
    """Draw the scores of all learnable edges as heat maps, one panel per target module.

    Rows are targets, columns are sources. A dot marks an active edge; grey means no candidate. All
    panels share one colour scale. If every module is a single branch, or there are more than 64
    modules, all are in one panel.

    Args:
        wiring: one architecture.
        title: a headline.

    Returns:
        The figure; without learnable edges it contains only a sentence.

    Raises:
        ValueError: if the wiring is a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> figure = draw_scores(ResNeXt(depth=11, fan_in=4).wiring())
        >>> [axes.get_title() for axes in figure.axes[:2]]
        ['module2', 'module3']
    """
    check_one(wiring)
    panels = _panels(wiring)
    if not panels:
        figure = Figure(figsize=(4.6, 1.2), dpi=style.DPI)
        figure.text(0.5, 0.5, "This wiring has no learnable edges.", ha="center", color=style.INK)
        return figure
    columns = min(len(panels), ceil(sqrt(1.4 * len(panels))))
    rows = ceil(len(panels) / columns)
    side = 7.0 if len(panels) == 1 else min(2.4, 14 / columns)
    height = rows * side * 1.08 + (0.4 if title else 0.0)
    figure = style.new_figure(columns * side + 1.0, height, title)
    grid = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    top = float(wiring.score[wiring.learnable].max())
    top = top if top > 0 else 1.0
    for axes, (name, edges) in zip(grid, panels, strict=False):
        image = _draw_scores(axes, wiring, edges, name, top, side)
    for axes in grid[len(panels) :]:
        axes.remove()
    _add_color_bar(figure, image, grid[: len(panels)], "score (dot: active edge)")
    return figure


def _panels(wiring: Wiring) -> list[tuple[str, Tensor]]:
    """Name of every target module and the edges to it; an empty name if all are in one panel."""
    edges = wiring.learnable.nonzero().flatten()
    target = wiring.target[edges]
    row, names = wiring.nodes.group[target], row_names(wiring)
    modules = row.unique().tolist()
    if len(target.unique()) == len(modules) or len(modules) > _MAX_PANELS:
        return [("", edges)] if len(edges) else []
    return [(names[module], edges[row == module]) for module in modules]


def _draw_scores(
    axes: Axes, wiring: Wiring, edges: Tensor, title: str, top: float, side: float
) -> AxesImage:
    """Draw edges as a matrix `[targets, sources]`, which is NaN where there is no edge.

    `top` is the score at the dark end of the scale, `side` the size of the panel in inches.
    """
    sources, column = wiring.source[edges].unique(return_inverse=True)
    targets, row = wiring.target[edges].unique(return_inverse=True)
    score = torch.full((len(targets), len(sources)), torch.nan, device="cpu")
    score[row, column] = wiring.score[edges]
    image = _draw_matrix(axes, score, "Blues", style.GRID, vmax=top)
    dots, room = wiring.active[edges], 72 * 0.8 * side / max(score.shape)
    size = float(np.clip(0.36 * room, 0.8, 7)) ** 2
    axes.scatter(column[dots].numpy(), row[dots].numpy(), s=size, color=style.END, linewidths=0)
    groups, one = wiring.nodes.group[sources].unique().tolist(), wiring.noun[0]
    across = f"{one} of {row_names(wiring)[groups[0]]}" if len(groups) == 1 else "source"
    axes.set_title(title, size=9)
    axes.set_xlabel(across, size=8, labelpad=1)
    axes.set_ylabel(one if title else "target", size=8, labelpad=1)
    axes.tick_params(labelsize=7, length=2, pad=1.5)
    # Few ticks on small panels, because ticks are slow to draw.
    most = 32 if side > 4 else 8 if side > 2.2 else 4
    for axis, nodes in ((axes.xaxis, sources), (axes.yaxis, targets)):
        names = _tick_labels(wiring, nodes)
        ticks = range(0, len(names), ceil(len(names) / most))
        axis.set_ticks(ticks, labels=[names[tick] for tick in ticks])
        if axis is axes.xaxis and len(max(names, key=len)) > 2:
            axes.tick_params(axis="x", rotation=90)
    return image


def _tick_labels(wiring: Wiring, nodes: Tensor) -> list[str]:
    """Positions in the group for nodes of one group, names for nodes of several groups."""
    group = wiring.nodes.group
    if len(nodes) > 1 and len(group[nodes].unique()) == 1:
        return [str(position) for position in rank_in_group(group)[nodes].tolist()]
    return [wiring.nodes.names[node] for node in nodes.tolist()]


@runtime_checkable
class ReusesFeatures(Protocol):
    """A network that concatenates earlier outputs and can measure how much it uses each of them."""

    def feature_reuse(self) -> list[Tensor]:
        """`[targets, sources]` for every stage, from 0 to 1, NaN where a source is not read."""
        ...


def draw_feature_reuse(stages: Sequence[Tensor], title: str | None = None) -> Figure:
    """Draw how much every layer uses the outputs that it reads (SparseNet, Figure 3).

    One heat map per stage. As in the paper, columns are layers and rows are the outputs that they
    read; the first row is the stage's input. Red means much used, blue little, white not read.

    Args:
        stages: `[targets, sources]` each, 0 to 1, as `SparseNet.feature_reuse` gives them.
        title: a headline.

    Raises:
        ValueError: if there is no stage.

    Example:
        >>> from wiring_lightning.backbones import SparseNet
        >>> figure = draw_feature_reuse(SparseNet(depth=16).feature_reuse())
        >>> [axes.get_title() for axes in figure.axes[:3]]
        ['stage 1', 'stage 2', 'stage 3']
    """
    if not stages:
        raise ValueError("There is no stage to draw.")
    height = _SIDE + 0.2 + (0.3 if title else 0.0)
    figure = style.new_figure(_SIDE * len(stages) + 0.9, height, title)
    panels = figure.subplots(1, len(stages), squeeze=False).flatten().tolist()
    for number, (axes, stage) in enumerate(zip(panels, stages, strict=True), start=1):
        targets, sources = stage.shape
        # Layers count from 1, outputs from 0.
        borders = (0.5, targets + 0.5, sources - 0.5, -0.5)
        image = _draw_matrix(axes, stage.T, "RdYlBu_r", "white", interpolation="nearest",
                             extent=borders)  # fmt: skip
        axes.set_title(f"stage {number}", size=10)
        across = "layer (the last: what follows the stage)"
        axes.set_xlabel(across, size=9, labelpad=2, color=style.INK)
        axes.tick_params(labelsize=8, length=2)
        style.use_integers(axes.xaxis, axes.yaxis)
    panels[0].set_ylabel("output that is read (0: input of the stage)", size=9, color=style.INK)
    _add_color_bar(figure, image, panels, "mean |weight|, relative to the layer's largest")
    return figure


def _draw_matrix(
    axes: Axes, matrix: Tensor, colors: str, nothing: str, vmax: float = 1.0, **options: Any
) -> AxesImage:
    """Draw numbers from 0 to `vmax` in a colour scale, and NaN in the colour `nothing`."""
    scale = matplotlib.colormaps[colors].with_extremes(bad=nothing)
    return axes.imshow(
        matrix.cpu().numpy(), cmap=scale, vmin=0, vmax=vmax, aspect="auto", **options
    )


def _add_color_bar(figure: Figure, image: AxesImage, panels: Sequence[Axes], label: str) -> None:
    """Add the colour scale of an image beside the panels, which all have it."""
    bar = figure.colorbar(image, ax=panels, shrink=0.9, aspect=25, pad=0.015)
    bar.set_label(label, size=9)
    bar.ax.tick_params(labelsize=8)
