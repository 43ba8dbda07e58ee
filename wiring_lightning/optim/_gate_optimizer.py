"""The base class of optimizers of gates."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar, overload

import torch
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning._checks import plain_number


class _Freezable(Protocol):
    @property
    def learnable(self) -> bool: ...

    def freeze(self) -> None: ...


SomeGate = TypeVar("SomeGate", bound=_Freezable)


class GateOptimizer(Optimizer, Generic[SomeGate]):
    """Updates the scores or logits of gates; a subclass implements `_update`.

    Args:
        gates: the gates to learn; frozen ones are skipped.
        parameter: name of the parameter of a gate that is learned.
        settings: settings that are saved in the `state_dict`; `lr` is one of them.

    Raises:
        ValueError: if there is no gate, or the learning rate is negative.
    """

    def __init__(self, gates: Iterable[SomeGate], parameter: str, settings: dict[str, Any]) -> None:
        self.gates = list(gates)
        if not self.gates:
            raise ValueError(f"{type(self).__name__} got no gate to learn.")
        if not settings["lr"] >= 0:
            raise ValueError(f"lr must not be negative, got {settings['lr']}.")
        plain = {name: plain_number(value) for name, value in settings.items()}
        super().__init__([getattr(gate, parameter) for gate in self.gates], plain)

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "gates": self.gates}

    @property
    def group(self) -> dict[str, Any]:
        """The settings, which a scheduler may change; all gates share them."""
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
        """Fix the edges of every gate: those that evaluation mode uses."""
        for gate in self.gates:
            gate.freeze()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the gates along their gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._update()
        return loss

    @abstractmethod
    def _update(self) -> None:
        """Take one step."""
