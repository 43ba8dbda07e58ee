"""What layers with a learned wiring have in common."""

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from torch import nn

T = TypeVar("T")


@runtime_checkable
class Learnable(Protocol):
    """A layer whose wiring some callback has to learn: `Gate`, `Adjacency`, `BernoulliGate`."""

    taught_by: str

    @property
    def learnable(self) -> bool:
        """Whether the wiring still learns: not random, and not frozen yet."""
        ...


def find_learnable(module: nn.Module) -> dict[str, Learnable]:
    """All layers inside a module whose wiring still learns, by their qualified name.

    Example:
        >>> from wiring_lightning.nn import Gate
        >>> found = find_learnable(nn.Sequential(Gate(2, 2, 1), Gate(2, 2, 1, mode="random")))
        >>> [(name, layer.taught_by) for name, layer in found.items()]
        [('0', 'MaskConnect')]
    """
    return find_modules(module, Learnable, lambda layer: layer.learnable)  # type: ignore[type-abstract]


def find_modules(
    module: nn.Module, kind: type[T], wanted: Callable[[T], bool] = lambda _: True
) -> dict[str, T]:
    """All modules of a kind inside a module, by their qualified name, or those that are wanted."""
    return {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, kind) and wanted(child)
    }
