"""The base class of callbacks that learn gates with an optimizer of their own."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from wiring_lightning._checks import check_number, listed, plain_number
from wiring_lightning.callbacks._at_start import refuse_a_second
from wiring_lightning.callbacks._copies import Group, Place
from wiring_lightning.callbacks._kept_arguments import as_words, changed, plain_values
from wiring_lightning.callbacks.own_parameters import (
    copy_from_first_rank,
    hide_from_reducer,
    keeper,
    take_out,
)
from wiring_lightning.callbacks.wiring_callback import WiringCallback
from wiring_lightning.nn import BernoulliGate, Gate
from wiring_lightning.optim import GateSGD, Reinforce

SomeOptimizer = TypeVar("SomeOptimizer", GateSGD, Reinforce)


class GateLearner(WiringCallback, Generic[SomeOptimizer]):
    """Calls an optimizer of gates. The valid wiring is the last one of the gates, not an average.

    Gates whose parameter takes no gradient (`requires_grad` is false) stay as they are, until it
    does or until the freeze. A warning names them when a fit starts.

    Args:
        lr: learning rate of the gates.
        freeze_epoch: as for `WiringCallback`.
    """

    learned: str  # name of the parameter that a gate learns

    def __init__(self, lr: float, freeze_epoch: int | None) -> None:
        super().__init__(freeze_epoch)
        check_number("lr", lr, error=self.mistake)
        self.lr = plain_number(lr)
        self.optimizer: SomeOptimizer | None = None
        self._restored: dict[str, Any] | None = None
        self._latest: list[list[Tensor]] = []  # values of `places()` after the last update
        self._checked: list[list[Tensor]] = []  # those values at the last check
        self._user_parameters = 0  # number of parameters in the optimizers of a running fit
        self._loads: list[RemovableHandle] = []  # hooks on the states that these optimizers load

    @property
    def kept_arguments(self) -> dict[str, Any]:
        """Arguments that the optimizer has; a run that resumes goes on with those of its state."""
        return {"lr": self.lr}

    @property
    @override
    def frozen(self) -> bool:
        return self.optimizer is not None and self.optimizer.frozen

    @property
    @override
    def was_frozen(self) -> bool:
        # A random wiring was never to learn.
        return self.frozen and not all(isinstance(one, Gate) and one.fixed for one in self._gates)

    @override
    def set_lr(self, lr: float) -> None:
        if self.optimizer is None or self._parts is None:  # no fit runs
            self.lr = plain_number(lr)
        else:
            self.optimizer.group["lr"] = plain_number(lr)

    @override
    def freeze(self) -> None:
        if self.optimizer is not None and not self.optimizer.frozen:
            self.optimizer.freeze()
            self.remember()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            refuse_a_second(self, trainer)
            if isinstance(trainer.strategy, DDPStrategy):
                self._hide(pl_module)

    def _hide(self, module: LightningModule) -> None:
        """Keep the gates out of DDP's reducer, which is made before the fit starts."""
        if is_overridden("configure_model", module):
            # So that the gates exist. Lightning calls it again, which must change nothing.
            module.configure_model()
        try:
            names = self.gate_names(module)
        except MisconfigurationException as error:
            if not is_overridden("setup", module):
                raise
            raise MisconfigurationException(
                f"{error} If `setup` of {type(module).__name__} builds the network: with DDP that "
                "is too late, so build it in `__init__` or `configure_model`."
            ) from None
        hide_from_reducer(module, [f"{name}.{self.learned}" for name in names])

    @override
    def forget(self) -> None:
        super().forget()
        self.optimizer, self._latest, self._checked = None, [], []

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = {id(child): name for name, child in pl_module.named_modules()}
        still = [
            names[id(gate)]
            for gate in self._gates
            if gate.learnable and not getattr(gate, self.learned).requires_grad
        ]
        if still:
            rank_zero_warn(
                f"{type(self).__name__}: {listed(still)} stay as they are, because their "
                f"{self.learned} take no gradient (requires_grad is false)."
            )
        super().on_fit_start(trainer, pl_module)

    @abstractmethod
    def gate_names(self, module: LightningModule) -> list[str]:
        """The names of the gates to learn; an error if there is none."""

    @override
    def on_before_zero_grad(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        # After a step that the gradient scaler skipped, the gates still have gradients.
        if self.optimizer is not None:
            self.optimizer.zero_grad()

    @override
    def places(self) -> list[Group]:
        return self.places_of(self._gates)

    def places_of(self, gates: Sequence[Gate | BernoulliGate]) -> list[Group]:
        """The tensors of the wiring of gates."""
        names = [self.learned, *(["active"] if self.learned == "scores" else []), "frozen"]
        return [[Place(gate, name) for name in names] for gate in gates]

    @property
    def _gates(self) -> Sequence[Gate | BernoulliGate]:
        return [] if self.optimizer is None else self.optimizer.gates

    @property
    def _parameters(self) -> list[Tensor]:
        return [getattr(gate, self.learned) for gate in self._gates]

    @override
    def settled(self, group: int, values: list[Tensor]) -> list[Tensor]:
        latest = self._latest[group] if self._latest else values
        return values if all(map(torch.equal, latest, values)) else latest

    @override
    def check(self) -> None:
        super().check()
        self._checked = self._values()

    @override
    def written(self) -> str | None:
        # During a fit it may be written before `check`, too. After it, another one may be loaded.
        before = self._checked if self._parts is None else self._latest
        changed = [
            gate
            for gate, values, group in zip(self._gates, before, self.places(), strict=False)
            if gate.learnable and not all(map(torch.equal, values, (p.tensor for p in group)))
        ]
        if not changed:
            return super().written()
        return f"the {self.learned} of {len(changed)} of the gates are not those that were learned"

    @override
    def wrote(self, places: Group) -> None:
        for gate in {place.owner for place in places}:
            assert isinstance(gate, Gate | BernoulliGate)
            gate.follow_frozen_mark()

    def remember(self) -> None:
        """Save the present wiring of the gates: averages are settled to it."""
        self._latest = self._values()

    def _values(self) -> list[list[Tensor]]:
        """Copies of the tensors of all gates."""
        return [[place.tensor.clone() for place in group] for group in self.places()]

    @override
    def let_go(self) -> None:
        self._restored = None  # a state that was loaded for a test is not for the next fit
        self._user_parameters = 0
        for hook in self._loads:
            hook.remove()
        self._loads = []

    def take_over(self, trainer: Trainer) -> list[list[Tensor]]:
        """Take the parameters of the gates out of the user's optimizers; see `take_out`."""
        copy_from_first_rank(self._parameters, trainer)
        before = [_sizes(optimizer.param_groups) for optimizer in trainer.optimizers]
        followers = self._take_out(trainer)
        for optimizer, sizes in zip(trainer.optimizers, before, strict=True):
            refuse = partial(self._refuse_state, sizes)
            # Wrappers such as timm's `Lookahead` may have no place for hooks.
            if hasattr(optimizer, "_optimizer_load_state_dict_pre_hooks"):
                self._loads.append(optimizer.register_load_state_dict_pre_hook(refuse))
        return followers

    def _refuse_state(self, before: list[int], optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Raise an error for the state of an optimizer from a run without this callback."""
        if _sizes(state["param_groups"]) == before != _sizes(optimizer.param_groups):
            raise self.mistake(
                f"in the checkpoint the {self.learned} of the gates are in the optimizer, as in a "
                "run without this callback, so no run with it can resume from there: begin a new "
                "fit, without ckpt_path, with a network that has loaded the weights of the "
                "checkpoint."
            )

    def _take_out(self, trainer: Trainer) -> list[list[Tensor]]:
        followers = take_out(trainer.optimizers, self._parameters, type(self).__name__)
        if (optimizer := keeper(trainer, self._parameters)) is not None:
            raise self.mistake(
                f"{type(optimizer).__name__} keeps the {self.learned} of the gates in lists of its "
                f"own, and would move them, too: give it the parameters without these "
                f"{self.learned}."
            )
        self._user_parameters = _count_parameters(trainer.optimizers)
        return followers

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        # A callback that unfreezes layers may add their gates' parameters to an optimizer.
        if self.optimizer is not None and (
            _count_parameters(trainer.optimizers) != self._user_parameters
        ):
            self._take_out(trainer)

    @override
    def state_dict(self) -> dict[str, Any]:
        if self.optimizer is not None:
            kept = plain_values(self.kept_arguments)
            return {"optimizer": self.optimizer.state_dict(), "kept": kept, **self.more_state()}
        return {} if self._restored is None else self._restored

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict or None
        # Otherwise the gates are not on their device yet, so `on_fit_start` restores the optimizer.
        if self._user_parameters:
            self.restore()
            self.remember()

    def _say_what_stays(self, saved: Mapping[str, Any]) -> None:
        """Warn of arguments that are others than those in the checkpoint, which count."""
        given = self.kept_arguments
        if names := changed(saved, given):
            rank_zero_warn(
                f"{type(self).__name__}: a run that resumes keeps the rule with which it began, so "
                f"it goes on with {as_words(saved, names)} of the checkpoint, and not with "
                f"{as_words(given, names)}."
            )

    def more_state(self) -> dict[str, Any]:
        """The state of a subclass, saved with the state of the optimizer."""
        return {}

    def load_more_state(self, state: dict[str, Any]) -> None:
        """Load what `more_state` has saved."""

    def restore(self) -> None:
        """Give the optimizer and the subclass the state that was loaded, if there is one."""
        if self._restored is not None and self.optimizer is not None:
            self._say_what_stays(self._restored.get("kept", {}))
            self.optimizer.load_state_dict(self._restored["optimizer"])
            self.load_more_state(self._restored)
            self._restored = None


def _sizes(groups: Sequence[dict[str, Any]]) -> list[int]:
    """The numbers of parameters in the groups of an optimizer, or of its state."""
    return [len(group["params"]) for group in groups]


def _count_parameters(optimizers: Sequence[Optimizer]) -> int:
    return sum(sum(_sizes(each.param_groups)) for each in optimizers)
