"""What a network answers about its graph."""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from wiring_lightning.wiring.snapshot import Wiring


@runtime_checkable
class Wired(Protocol):
    """What a backbone answers about its graph; costs, pictures and exports ask nothing else."""

    def wiring(self) -> Wiring:
        """The wiring that the network uses in evaluation mode."""
        ...

    def compact(self) -> nn.Module:
        """A plain module that computes the same function in evaluation mode, dead parts removed."""
        ...


@runtime_checkable
class SuperNetwork(Wired, Protocol):
    """A network that draws one of its architectures for every example (BSN)."""

    def active_edges(self, drawn: Tensor) -> Tensor:
        """`[batch, edges]` the active edges of its wiring for drawn edges of its gate."""
        ...


def find_wired(module: nn.Module) -> Wired | None:
    """The outermost network inside a module that knows its wiring, if there is one."""
    for child in module.modules():
        if isinstance(child, Wired):
            return child
    return None
