"""The pictures of `WiringMonitor`: what each is called, and when it applies."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from wiring_lightning.wiring import Wired, Wiring

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 100  # TensorBoard shows pictures pixel by pixel


def draw_pictures(network: Wired, wiring: Wiring) -> Iterator[tuple[str, "Figure"]]:
    """Name and figure of every picture that applies.

    Args:
        network: what knows more than its wiring, such as how it reuses features.
        wiring: the one that the network has now.

    Yields:
        Its tag in TensorBoard, behind `wiring/`, and the picture.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> network = ResNeXt(depth=11, wiring="full")
        >>> [name for name, _ in draw_pictures(network, network.wiring())]
        ['graph', 'active_branches']
    """
    for name, figure in _draw(network, wiring):
        figure.set_dpi(_DPI)
        yield name, figure


def _draw(network: Wired, wiring: Wiring) -> Iterator[tuple[str, "Figure"]]:
    from wiring_lightning import plots  # not before a picture is drawn: matplotlib takes a while

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
