"""What callbacks that learn gates have in common: an optimizer of their own, and its state."""

import math
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.callbacks._averages import Group, Place
from wiring_lightning.callbacks.own_parameters import copy_from_first_rank, take_out
from wiring_lightning.callbacks.wiring_callback import WiringCallback
from wiring_lightning.optim import GateSGD, Reinforce

SomeOptimizer = TypeVar("SomeOptimizer", GateSGD, Reinforce)


class GateLearner(WiringCallback, Generic[SomeOptimizer]):
    """Drives an optimizer of gates; the wiring is what the gates themselves hold, never an average.

    Args:
        lr: learning rate of what the gates learn.
        freeze_epoch: as for `WiringCallback`.

    Raises:
        MisconfigurationException: if a number is out of range.
    """

    learned: str  # name of the parameter that a gate learns

    def __init__(self, lr: float, freeze_epoch: int | None) -> None:
        super().__init__(freeze_epoch)
        if not 0 <= lr < math.inf:
            raise self.mistake(f"lr must be a number from 0 up, got {lr}.")
        self.lr = lr
        self.optimizer: SomeOptimizer | None = None
        self._restored: dict[str, Any] | None = None
        self._held: list[list[Tensor]] = []  # what the gates held after their last change
        self._held_elsewhere = 0  # parameters of the user's optimizers

    @property
    @override
    def frozen(self) -> bool:
        return self.optimizer is not None and self.optimizer.frozen

    @override
    def set_lr(self, lr: float) -> None:
        if self.optimizer is None:
            self.lr = lr
        else:
            self.optimizer.group["lr"] = lr

    @override
    def freeze(self) -> None:
        if self.optimizer is not None and not self.optimizer.frozen:
            self.optimizer.freeze()
            self.remember()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.optimizer, self._held = None, []  # of an earlier fit

    @override
    def on_before_zero_grad(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        # A step that the gradient scaler skipped leaves gradients behind.
        if self.optimizer is not None:
            self.optimizer.zero_grad()

    @override
    def places(self) -> list[Group]:
        names = [self.learned, *(["active"] if self.learned == "scores" else []), "frozen"]
        return [[Place(gate, name) for name in names] for gate in self._gates]

    @property
    def _gates(self) -> Sequence[nn.Module]:
        return [] if self.optimizer is None else self.optimizer.gates

    @property
    def _parameters(self) -> list[Tensor]:
        return [getattr(gate, self.learned) for gate in self._gates]

    @override
    def settled(self, group: int, values: list[Tensor]) -> list[Tensor]:
        held = self._held[group] if self._held else values
        same = all(map(torch.equal, held, values))
        return values if same else held

    def remember(self) -> None:
        """Note what the gates hold: it is the wiring, whatever is averaged."""
        self._held = [[place.tensor.clone() for place in group] for group in self.places()]

    @override
    def let_go(self) -> None:
        self._restored = None  # what a test loaded is not for the next fit

    def take_over(self, trainer: Trainer) -> list[list[Tensor]]:
        """Take what the gates learn out of the user's optimizers; see `take_out`."""
        assert self.optimizer is not None
        own = [group[0].tensor for group in self.places()]
        copy_from_first_rank(own, trainer)
        followers = take_out(trainer.optimizers, self._parameters, type(self).__name__)
        self._held_elsewhere = _count_parameters(trainer.optimizers)
        return followers

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # A callback that unfreezes layers adds their parameters to an optimizer.
        if self.optimizer is not None and (
            _count_parameters(trainer.optimizers) != self._held_elsewhere
        ):
            take_out(trainer.optimizers, self._parameters, type(self).__name__)
            self._held_elsewhere = _count_parameters(trainer.optimizers)

    @override
    def state_dict(self) -> dict[str, Any]:
        if self.optimizer is not None:
            return {"optimizer": self.optimizer.state_dict(), **self.more_state()}
        return {} if self._restored is None else self._restored

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Called before the gates are on their device; `on_fit_start` takes it up.
        self._restored = state_dict or None

    def more_state(self) -> dict[str, Any]:
        """What a resumed run needs beside the state of the optimizer."""
        return {}


def _count_parameters(optimizers: Sequence[Optimizer]) -> int:
    return sum(len(group["params"]) for each in optimizers for group in each.param_groups)
