"""How properties of a network grow with its depth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wiring_lightning import costs
from wiring_lightning.plots.style import DPI, INK, SERIES
from wiring_lightning.wiring import Wiring

_MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Scaling:
    """What Table 1 of SparseNet compares, of one network.

    Args:
        depth: number of layers.
        parameters: of the network.
        links: edges into the node with most of them (the paper's aggregated features).
        path: edges on the shortest path from the output back to the node that is furthest away
            (the paper's shortest gradient path).
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

    All axes are logarithmic: what grows in proportion to the depth has the slope of the grey line,
    and its square twice that slope.

    Args:
        curves: networks of several depths, by what the legend calls them.
        title: a headline.

    Returns:
        The figure.

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
    figure = Figure(figsize=(11.5, 4.0), dpi=DPI, layout="constrained", facecolor="white")
    panels = figure.subplots(1, 3)
    properties = {
        "parameters": [[one.parameters for one in curve] for curve in curves.values()],
        "links into a layer": [[one.links for one in curve] for curve in curves.values()],
        "shortest path to the output": [[one.path for one in curve] for curve in curves.values()],
    }
    depths = [[one.depth for one in curve] for curve in curves.values()]
    for axes, (name, values) in zip(panels, properties.items(), strict=True):
        for index, (label, x, y) in enumerate(zip(curves, depths, values, strict=True)):
            axes.plot(x, y, color=SERIES[index % len(SERIES)], marker=_MARKERS[index % 6],
                      markersize=4.5, linewidth=1.4, label=label)  # fmt: skip
        _set_axes(axes, name)
        _draw_proportion(axes, sorted({depth for curve in depths for depth in curve}))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False,
                  fontsize=9)  # fmt: skip
    if title:
        figure.suptitle(title, size=12)
    return figure


def _set_axes(axes: Axes, name: str) -> None:
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("depth N", color=INK)
    axes.set_ylabel(name, color=INK)
    axes.grid(color="#E3E5E8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_proportion(axes: Axes, depths: Sequence[int]) -> None:
    """A line in proportion to the depth, below the curves."""
    low, high = axes.get_ylim()
    values = [low * depth / depths[0] for depth in depths]
    axes.plot(depths, values, color="#B5BABF", linewidth=1, linestyle=":", zorder=1)
    inside = [(depth, value) for depth, value in zip(depths, values, strict=True) if value <= high]
    axes.annotate("~N", inside[-1], xytext=(4, -4), textcoords="offset points", size=9,
                  color="#80868B", annotation_clip=False)  # fmt: skip
    axes.set_ylim(low, high)


def _furthest(wiring: Wiring) -> int:
    """Edges between the output and the node that is furthest from it, by breadth-first search."""
    sources: list[list[int]] = [[] for _ in range(len(wiring.nodes))]
    edges = wiring.active
    pairs = zip(wiring.source[edges].tolist(), wiring.target[edges].tolist(), strict=True)
    for source, target in pairs:
        sources[target].append(source)
    reached, front, steps = {len(sources) - 1}, [len(sources) - 1], 0
    while True:
        front = list({source for node in front for source in sources[node]} - reached)
        if not front:
            return steps
        reached.update(front)
        steps += 1
