"""Draw how properties of a network grow with its depth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wiring_lightning import costs
from wiring_lightning.plots import style
from wiring_lightning.wiring import Wiring

# The field of `Scaling` by the label of its panel.
_PROPERTIES = {
    "parameters": "parameters",
    "links into a layer": "links",
    "shortest path to the output": "path",
}


@dataclass(frozen=True)
class Scaling:
    """The properties of one network that Table 1 of SparseNet compares.

    Args:
        depth: number of layers.
        parameters: number of parameters.
        links: largest number of edges into a node (the paper's aggregated features).
        path: largest distance of a node from the output (the paper's shortest gradient path).
    """

    depth: int
    parameters: int
    links: int
    path: int

    @classmethod
    def of(cls, depth: int, wiring: Wiring) -> "Scaling":
        """Measure a wiring.

        Example:
            >>> from wiring_lightning.backbones import SparseNet
            >>> Scaling.of(40, SparseNet(40, 12).wiring())
            Scaling(depth=40, parameters=189514, links=4, path=9)
        """
        return cls(
            depth,
            int(costs.parameters(wiring)),
            int(wiring.target[wiring.active].bincount().max()),
            _furthest(wiring),
        )


def draw_scaling(curves: Mapping[str, Sequence[Scaling]], title: str | None = None) -> Figure:
    """Draw parameters, incoming links and shortest paths over depth (SparseNet, Table 1).

    All axes are logarithmic. Linear growth has the slope of the grey line, quadratic growth twice
    that slope.

    Args:
        curves: networks of several depths, by their label in the legend.
        title: a headline.

    Raises:
        ValueError: if there is no network.

    Example:
        >>> chain = [Scaling(depth, 100 * depth, 1, depth) for depth in (10, 100)]
        >>> figure = draw_scaling({"plain": chain})
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['parameters', 'links into a layer', 'shortest path to the output']
    """
    if not any(curves.values()):
        raise ValueError("There is no network to draw.")
    figure = style.new_figure(11.5, 4.0, title)
    panels = figure.subplots(1, 3)
    depths = sorted({one.depth for curve in curves.values() for one in curve})
    for axes, (name, field) in zip(panels, _PROPERTIES.items(), strict=True):
        for index, (label, curve) in enumerate(curves.items()):
            color, marker = style.series(index)
            values = [getattr(one, field) for one in curve]
            axes.plot([one.depth for one in curve], values, color=color, marker=marker,
                      markersize=4.5, linewidth=1.4, label=label)  # fmt: skip
        axes.set(xscale="log", yscale="log")
        style.use_sizes(axes.xaxis, axes.yaxis)
        style.set_axes(axes, "depth N", name, grid="both")
        _draw_proportion(axes, depths)
    style.legend_below(figure, panels[0].get_legend_handles_labels()[0], columns=len(curves))
    return figure


def _draw_proportion(axes: Axes, depths: Sequence[int]) -> None:
    """Draw a line that is proportional to the depth, below the curves."""
    low, high = axes.get_ylim()
    values = [low * depth / depths[0] for depth in depths]
    axes.plot(depths, values, color="#B5BABF", linewidth=1, linestyle=":", zorder=1)
    inside = [(depth, value) for depth, value in zip(depths, values, strict=True) if value <= high]
    axes.annotate("~N", inside[-1], xytext=(4, -4), textcoords="offset points", size=9,
                  color="#80868B", annotation_clip=False)  # fmt: skip
    axes.set_ylim(low, high)


def _furthest(wiring: Wiring) -> int:
    """Largest distance of a node from the output in edges, by breadth-first search."""
    source, target = wiring.source[wiring.active], wiring.target[wiring.active]
    reached = torch.zeros(len(wiring.nodes), dtype=torch.bool, device="cpu")
    reached[-1], steps = True, 0
    while True:
        further = reached.clone()
        further[source[reached[target]]] = True
        if torch.equal(further, reached):
            return steps
        reached, steps = further, steps + 1
