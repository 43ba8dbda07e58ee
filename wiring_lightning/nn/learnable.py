"""Finding the layers with a learned wiring."""

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from torch import nn

T = TypeVar("T")


@runtime_checkable
class Learnable(Protocol):
    """A layer whose wiring the callback `taught_by` learns, such as `Gate` or `Adjacency`."""

    taught_by: str

    @property
    def learnable(self) -> bool:
        """Whether the wiring still learns: neither random nor frozen."""
        ...


def find_learnable(module: nn.Module) -> dict[str, Learnable]:
    """All layers inside a module whose wiring still learns, by qualified name.

    Example:
        >>> from wiring_lightning.nn import Gate
        >>> found = find_learnable(nn.Sequential(Gate(2, 2, 1), Gate(2, 2, 1, mode="random")))
        >>> [(name, layer.taught_by) for name, layer in found.items()]
        [('0', 'MaskConnect')]
    """
    return find_modules(module, Learnable, lambda layer: layer.learnable)  # type: ignore[type-abstract]


def find_modules(module: nn.Module, kind: type[T], wanted: Callable[[T], bool]) -> dict[str, T]:
    """All modules of a class inside a module that `wanted` accepts, by qualified name."""
    return {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, kind) and wanted(child)
    }
