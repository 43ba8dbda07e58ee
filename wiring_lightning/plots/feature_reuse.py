"""How heavily layers use the features of earlier ones, as heat maps."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from wiring_lightning.plots.style import DPI, INK

_SIDE = 3.4  # inches that a stage takes


@runtime_checkable
class ReusesFeatures(Protocol):
    """A network that concatenates earlier outputs and knows how heavily it uses each of them."""

    def feature_reuse(self) -> list[Tensor]:
        """`[targets, sources]` for every stage, 0 to 1, not a number where nothing is read."""
        ...


def draw_feature_reuse(stages: Sequence[Tensor], title: str | None = None) -> Figure:
    """Draw how heavily every layer uses the outputs that it reads (SparseNet, Figure 3).

    One heat map per stage. As in the paper, a column is a layer and a row is what it reads, with
    the stage's input in the first row; red is much used, blue little, and white is not read.

    Args:
        stages: `[targets, sources]` each, 0 to 1, as `SparseNet.feature_reuse` gives them.
        title: a headline.

    Returns:
        The figure.

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
    size = (_SIDE * len(stages) + 0.9, _SIDE + 0.2 + (0.3 if title else 0.0))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(stages), squeeze=False).flatten()
    for number, (axes, matrix) in enumerate(zip(panels, stages, strict=True), start=1):
        image = _draw_stage(axes, matrix)
        axes.set_title(f"stage {number}", size=10)
    panels[0].set_ylabel("output that is read (0: input of the stage)", size=9, color=INK)
    bar = figure.colorbar(image, ax=list(panels), shrink=0.9, aspect=25, pad=0.015)
    bar.set_label("mean |weight|, relative to the layer's largest", size=9)
    bar.ax.tick_params(labelsize=8)
    if title:
        figure.suptitle(title, size=12)
    return figure


def _draw_stage(axes: Axes, matrix: Tensor) -> AxesImage:
    targets, sources = matrix.shape
    colors = matplotlib.colormaps["RdYlBu_r"].with_extremes(bad="white")
    # Layers count from 1, outputs from 0.
    image = axes.imshow(
        matrix.T.cpu().numpy(), cmap=colors, vmin=0, vmax=1, interpolation="nearest",
        extent=(0.5, targets + 0.5, sources - 0.5, -0.5), aspect="auto",
    )  # fmt: skip
    axes.set_xlabel("layer (the last: what follows the stage)", size=9, labelpad=2, color=INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.tick_params(labelsize=8, length=2)
    return image
