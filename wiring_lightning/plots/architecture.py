"""The picture that suits a wiring."""

from matplotlib.figure import Figure

from wiring_lightning.plots.channels import draw_channels, is_channel_graph
from wiring_lightning.plots.fabric import draw_fabric, is_fabric
from wiring_lightning.plots.graph import draw_wiring
from wiring_lightning.wiring import Wiring


def draw_architecture(wiring: Wiring, title: str | None = None) -> Figure:
    """Draw a wiring in the way that suits it.

    That is `draw_fabric` for a fabric, `draw_channels` for a graph of channels, else `draw_wiring`.

    Args:
        wiring: one architecture.
        title: a headline.

    Returns:
        The figure.

    Raises:
        ValueError: if the wiring holds a batch of architectures.

    Example:
        >>> from wiring_lightning.backbones import ResNetFabric
        >>> draw_architecture(ResNetFabric(width=1).wiring()).texts[0].get_text()
        '10 of 10 edges kept, 3 of 3 sums live'
    """
    if is_channel_graph(wiring):
        return draw_channels(wiring, title)
    return draw_fabric(wiring, title) if is_fabric(wiring) else draw_wiring(wiring, title)
