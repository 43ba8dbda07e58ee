"""The methods that a network needs so that its wiring can be measured, drawn and exported."""

from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from wiring_lightning.wiring.snapshot import Wiring


@runtime_checkable
class Wired(Protocol):
    """A network with a wiring; costs, pictures and exports need only these two methods."""

    def wiring(self) -> Wiring:
        """The wiring that the network uses in evaluation mode."""
        ...

    def compact(self) -> nn.Module:
        """A plain module without dead parts that computes the same function in evaluation mode."""
        ...


@runtime_checkable
class Priced(Protocol):
    """A network whose architectures have a cost; a search needs nothing else of it."""

    def wiring(self) -> Wiring:
        """The wiring that the network uses in evaluation mode."""
        ...


@runtime_checkable
class SuperNetwork(Wired, Protocol):
    """A network that draws one of its architectures for every example (BSN)."""

    def active_edges(self, drawn: Tensor) -> Tensor:
        """`[batch, edges]` the active edges of the wiring for edges that the gate has drawn."""
        ...


@runtime_checkable
class Planted(Wired, Protocol):
    """A network for data that were made with a known wiring, the right one."""

    def planted_wiring(self) -> Wiring:
        """The right wiring, with the same nodes and edges as `wiring`."""
        ...

    def rewired(self, wiring: Literal["random", "planted"]) -> nn.Module:
        """A copy with the same weights and a wiring that stays: a random one, or the right one."""
        ...


def find_wired(module: nn.Module) -> Wired | None:
    """The outermost network with a wiring inside a module, if there is one."""
    for child in module.modules():
        if isinstance(child, Wired):
            return child
    return None
