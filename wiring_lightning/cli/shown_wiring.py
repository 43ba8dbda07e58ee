"""The wiring of a network as all commands count and draw it."""

from torch import nn

from wiring_lightning.nn import find_bernoulli_gates
from wiring_lightning.wiring import Wired, Wiring


def shown_wiring(network: Wired) -> Wiring:
    """The wiring in evaluation mode; of a search, live edges alone are active.

    Of an edge that leads nowhere, or that nothing reaches, a search never draws anything.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> network = ResNeXt(depth=11, fan_in=1)
        >>> int(shown_wiring(network).active.sum()) == int(network.wiring().active.sum())
        True
    """
    wiring = network.wiring()
    searched = isinstance(network, nn.Module) and find_bernoulli_gates(network)
    return wiring.with_active(wiring.live_edges) if searched else wiring
