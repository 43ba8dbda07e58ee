"""The picture of a network that a run and `wiring inspect` draw."""

from typing import TYPE_CHECKING

from wiring_lightning.cli.shown_wiring import shown_wiring
from wiring_lightning.plots import draw_architecture, draw_side_by_side
from wiring_lightning.wiring import Planted, Wired

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_network(network: Wired) -> "Figure":
    """The wiring of a network, beside the right one if it is known.

    Example:
        >>> from wiring_lightning.backbones import GatedHeads
        >>> len(draw_network(GatedHeads()).subfigs)
        2
    """
    wiring = shown_wiring(network)
    if not isinstance(network, Planted):
        return draw_architecture(wiring)
    name = "learned" if wiring.learnable.any() else "this network"
    return draw_side_by_side(wiring, network.planted_wiring(), (name, "right"))
