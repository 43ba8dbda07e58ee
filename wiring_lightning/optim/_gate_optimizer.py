"""What the optimizers of gates have in common: gates, settings that are saved, and the freeze."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar, overload

import torch
from torch.optim import Optimizer
from typing_extensions import override


class _Freezable(Protocol):
    @property
    def learnable(self) -> bool: ...

    def freeze(self) -> None: ...


SomeGate = TypeVar("SomeGate", bound=_Freezable)


class GateOptimizer(Optimizer, Generic[SomeGate]):
    """Updates what some gates learn; a subclass says how.

    Args:
        gates: the gates to learn; frozen ones are passed over.
        parameter: name of what a gate learns.
        settings: what a resumed run needs, with the learning rate `lr`; part of the `state_dict`.

    Raises:
        ValueError: if there is no gate or the learning rate is negative.
    """

    def __init__(self, gates: Iterable[SomeGate], parameter: str, settings: dict[str, Any]) -> None:
        self.gates = list(gates)
        if not self.gates:
            raise ValueError(f"{type(self).__name__} got no gate to learn.")
        if not settings["lr"] >= 0:
            raise ValueError(f"lr must not be negative, got {settings['lr']}.")
        super().__init__([getattr(gate, parameter) for gate in self.gates], settings)

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "gates": self.gates}

    @property
    def group(self) -> dict[str, Any]:
        """The settings."""
        return self.param_groups[0]

    @property
    def learning(self) -> list[SomeGate]:
        """The gates that are not frozen."""
        return [gate for gate in self.gates if gate.learnable]

    @property
    def frozen(self) -> bool:
        """Whether no gate learns any more."""
        return not self.learning

    def freeze(self) -> None:
        """Make what evaluation mode uses of every gate its edges for good."""
        for gate in self.gates:
            gate.freeze()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update what the gates learn from its gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._update()
        return loss

    @abstractmethod
    def _update(self) -> None:
        """Take one step."""
