"""The pictures of `WiringMonitor`: their names, and the networks that each applies to."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from wiring_lightning.costs import LayerCost
from wiring_lightning.wiring import Wired, Wiring

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_pictures(network: Wired, wiring: Wiring) -> Iterator[tuple[str, "Figure"]]:
    """Name and figure of every picture that applies.

    Args:
        network: the network; some pictures need more of it than its wiring.
        wiring: the present wiring of the network.

    Yields:
        The picture's tag in TensorBoard, after `wiring/`, and the picture.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> network = ResNeXt(depth=11, wiring="full")
        >>> [name for name, _ in draw_pictures(network, network.wiring())]
        ['graph', 'active_branches']
    """
    from wiring_lightning import plots  # imports matplotlib, which is slow

    channels, in_rows = plots.is_channel_graph(wiring), not plots.is_fabric(wiring)
    yield "graph", plots.draw_architecture(wiring)
    if in_rows:
        yield "active_branches", plots.draw_active_nodes(wiring)
    if in_rows and not channels and wiring.learnable.any():
        yield "scores", plots.draw_scores(wiring)
    if channels:
        yield "degrees", plots.draw_degrees(wiring)
    if isinstance(network, plots.ReusesFeatures):
        yield "feature_reuse", plots.draw_feature_reuse(network.feature_reuse())


def draw_layers(rows: Sequence[LayerCost]) -> Iterator[tuple[str, "Figure"]]:
    """Name and figure of the picture of a plain network's layers; none without layers.

    Args:
        rows: the layers, as of `costs.layer_costs`.
    """
    from wiring_lightning import plots

    if rows:
        yield "densities", plots.draw_densities(rows)
