"""What a learner keeps from one fit to the next, and which fits and networks concern it."""

from abc import ABC
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.callbacks._before_fit import BeforeFit
from wiring_lightning.callbacks._checked_wiring import CheckedWiring
from wiring_lightning.callbacks._copies import Group, versions
from wiring_lightning.nn import Adjacency
from wiring_lightning.optim._step_hooks import StepHooks


class BetweenFits(CheckedWiring, ABC):
    """A learner that goes on in the next fit of the same trainer and network.

    A fit that ends before its first step, as by an error, leaves the learner and the network as
    they were.
    """

    _fits: Trainer | None = None  # whose fit runs
    _before: BeforeFit | None = None  # until the first step of a fit
    _first_steps: Sequence[StepHooks] = ()  # hooks that wait for it
    _versions_at_end: Sequence[int] = ()  # of the last fit; none after one with an average
    _continues = False  # whether this fit goes on where the last one ended
    _changed = False  # whether something wrote to the wiring in between
    _resumes = False  # whether this fit goes on from a checkpoint
    _is_new = False  # whether this fit has no state to go on with

    def __getstate__(self) -> dict[str, Any]:
        # A copy is in no fit.
        return {**vars(self), "_fits": None, "_before": None, "_first_steps": ()}

    def mistake(self, text: str) -> MisconfigurationException:
        """The exception for wrong use of this callback."""
        return MisconfigurationException(f"{type(self).__name__}: {text}")

    def places(self) -> list[Group]:
        """The tensors of the wiring, in groups; empty before the fit starts."""
        return []

    def wrote(self, places: Group) -> None:
        """Called after a group of the network, or of a copy of it, got other values."""

    def know_again(self) -> None:
        """Called after the network got the values back with which the last fit had ended."""

    def forget(self) -> None:
        """Forget what is from an earlier fit; a subclass calls this first."""

    @override
    def concerns(self, trainer: Trainer, module: LightningModule) -> bool:
        if self._is_busy(trainer):
            return False
        # In a fit a part that was replaced is an error. A learner may not say where its wiring is.
        in_fit = trainer.state.fn == TrainerFn.FITTING
        return in_fit or not self.places() or self._has_owners_in(module, any)

    def keep(self, groups: Iterable[Group], graphs: Iterable[Adjacency] = ()) -> None:
        """Keep copies of tensors; a subclass calls this before it changes them for a fit."""
        if self._before is not None:
            self._before.keep(groups, graphs)

    def _is_busy(self, trainer: Trainer) -> bool:
        """Whether the fit of another trainer runs, inside of which this one does something."""
        other = self._fits
        if other is None or other is trainer:
            return False
        return other.state.status == TrainerStatus.RUNNING

    def _refuse_if_busy(self, trainer: Trainer) -> None:
        """Raise an error if the fit of another trainer needs this learner."""
        if self._is_busy(trainer):
            raise self.mistake(
                "it is in use by a fit of another Trainer, which runs: give this Trainer another "
                "object of its class."
            )

    def _begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin a fit, with the state of the last one if this one goes on with it."""
        before = BeforeFit(self, trainer)
        goes_on = trainer.global_step > 0 and self._has_owners_in(module, all)
        changed = goes_on and self._versions() != self._versions_at_end
        state = self.state_dict() if goes_on else {}
        self._fits, self._before = trainer, before
        self._continues, self._changed, self._resumes = bool(state), changed and bool(state), False
        self._is_new = False  # not known yet
        self.forget()
        if state:
            self.load_state_dict(state)

    def _has_owners_in(
        self, module: LightningModule, which: Callable[[Iterable[bool]], bool]
    ) -> bool:
        """Whether `any` or `all` of the modules that hold the wiring are in a network."""
        owners = {id(place.owner) for group in self.places() for place in group}
        inside = set(map(id, module.modules()))
        return bool(owners) and which(owner in inside for owner in owners)

    def _versions(self) -> list[int]:
        """Numbers that change if something writes to the parameters of the wiring.

        Buffers are others once the network has left its device, as it does after a fit.
        """
        places = [place for group in self.places() for place in group if place.is_parameter]
        return versions(places)

    def _load_in_fit(self, trainer: Trainer) -> None:
        """Begin anew if a checkpoint is loaded that the fit goes on from."""
        if self._before is None or not self._before.is_loaded_by_the_fit(trainer):
            return  # a finder loads what it has saved
        self._resumes = True
        if self._continues:
            self._continues = self._changed = False
            self.load_state_dict({})

    def _wait_for_first_step(self, optimizers: Sequence[Optimizer]) -> None:
        """Put nothing back any more once an optimizer has taken a step."""
        if self._before is not None and self._resumes and not self._is_new:
            self._before.keep_learner()  # its state is that of the network, which was loaded
        self._first_steps = [
            StepHooks(one, after=self._stepped_once)
            for one in optimizers
            if isinstance(one, Optimizer)
        ]

    def _stepped_once(self, *_: Any) -> None:
        self._before = None

    def _stop_waiting(self) -> None:
        for hooks in self._first_steps:
            hooks.remove()
        self._first_steps = ()

    def _put_back_network(self) -> None:
        self._stop_waiting()
        if self._before is not None:
            self._before.put_back_network(self.wrote)

    def _put_back_learner(self, failed: bool) -> None:
        """Be as before a fit that ended before its first step, and know the network again.

        A finder that ends a fit without an error has put the network back itself.
        """
        before, self._before, self._fits = self._before, None, None
        if before is None:
            return
        same = self._continues and not self._changed and (before.has_kept or not failed)
        before.put_back_learner(self)
        if same:
            self.know_again()
            self._versions_at_end = self._versions()
