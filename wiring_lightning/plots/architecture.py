"""The picture that suits a wiring."""

from matplotlib.figure import Figure

from wiring_lightning.plots.fabric import draw_fabric, is_fabric
from wiring_lightning.plots.graph import draw_wiring
from wiring_lightning.wiring import Wiring


def draw_architecture(wiring: Wiring, title: str | None = None) -> Figure:
    """Draw a wiring in the way that suits it: `draw_fabric` for a fabric, else `draw_wiring`.

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
    return draw_fabric(wiring, title) if is_fabric(wiring) else draw_wiring(wiring, title)
