"""What all callbacks that learn a wiring have in common: when, what must hold, and averages."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from typing_extensions import override

from wiring_lightning.callbacks._averages import Averages, Group


class WiringError(RuntimeError):
    """What a learner promises does not hold, and the result would be wrong."""


class WiringCallback(Callback, ABC):
    """A callback that learns a wiring; `PhaseSchedule` steers it through `set_lr` and `freeze`.

    A learner says what must hold while it trains and after it (`broken`): k weights in each group,
    K edges for each target. This is checked before validation and testing, before a checkpoint is
    written and at the end of the fit. If it does not hold, a `WiringError` says what and where.

    Averages of the weights, such as those of Lightning's `WeightAveraging`, would mix the wirings
    of many steps: what is validated, saved and kept of them gets the one that must be (`settled`).

    Args:
        freeze_epoch: from the start of this epoch the wiring is fixed; never if not given.

    Raises:
        MisconfigurationException: if `freeze_epoch` is negative.
        WiringError: as above.
    """

    # Here, so that a subclass need not call `__init__`.
    freeze_epoch: int | None = None
    _averages: Averages | None = None
    _saved_averages: Mapping[str, list[list[Tensor]]] = MappingProxyType({})
    _warned = False

    def __init__(self, freeze_epoch: int | None = None) -> None:
        if freeze_epoch is not None and freeze_epoch < 0:
            raise self.mistake(f"freeze_epoch must not be negative, got {freeze_epoch}.")
        self.freeze_epoch = freeze_epoch

    @property
    def frozen(self) -> bool:
        """Whether the wiring of this fit is fixed by now."""
        return False

    @abstractmethod
    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the scores behind the wiring."""

    @abstractmethod
    def freeze(self) -> None:
        """Fix the wiring for good; calling it again changes nothing."""

    def broken(self) -> str | None:
        """What does not hold of the network that learns, with names and numbers; else `None`."""
        return None

    def places(self) -> list[Group]:
        """Where the wiring lies in the network; empty before the fit starts."""
        return []

    def settled(self, group: int, values: list[Tensor]) -> list[Tensor]:
        """What has to lie in the places of a group, instead of averages of it.

        What may stay is returned as the same object.
        """
        return values

    def summary(self) -> str:
        """What was chosen, in one line that is printed when a fit starts."""
        return ""

    def unfinished(self, epochs: int) -> str | None:
        """What a fit that ended after so many epochs has not come to; `None` if nothing."""
        if self.freeze_epoch is None or self.frozen or epochs > self.freeze_epoch:
            return None
        return f"the wiring is to be frozen when epoch {self.freeze_epoch} (from 0) starts"

    def check_freeze(self, epoch: int | None) -> None:
        """Raise an error if the wiring must not be frozen at the start of an epoch."""

    def let_go(self) -> None:
        """Leave the optimizers and the trainer alone: the fit is over, or has failed."""

    def mistake(self, text: str) -> MisconfigurationException:
        """An error about how this callback is used."""
        return MisconfigurationException(f"{type(self).__name__}: {text}")

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call it at the end of a subclass's own: by then the wiring is known."""
        self._refuse_two_learners(trainer)
        self._averages = Averages(self, trainer, pl_module)
        if summary := self.summary():
            rank_zero_info(f"{type(self).__name__}: {summary}")
        self._warned = False
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            self._warn_if_unfinished(trainer, trainer.max_epochs, "the trainer stops")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._find_averages()
        self._freeze_if_due(trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._freeze_if_due(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._find_averages()
        self._check()

    @override
    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Lightning's averages lie in the network from the start of the validation epoch to its end.
        if self._averages is not None and trainer.state.fn == TrainerFn.FITTING:
            self._averages.settle()

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._averages is not None:
            self._averages.restore()

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check()

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._averages is None or not self._averages.expected:
            self._check()
        if self._averages is not None and self._averages.copies:
            checkpoint.setdefault(_AVERAGES, {})[self.state_key] = self._averages.state()

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._saved_averages = checkpoint.get(_AVERAGES, {}).get(self.state_key, {})

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._averages is not None:
            self._averages.finish()
        self._warn_if_unfinished(trainer, trainer.current_epoch, "training ended")
        self._check()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._end()  # Lightning calls no teardown then

    def _end(self) -> None:
        if self._averages is not None:
            self._averages.let_go()
            self._averages = None
        self._saved_averages = {}
        self.let_go()

    def _find_averages(self) -> None:
        if self._averages is not None:
            self._averages.find(list(self._saved_averages))
            self._averages.load_state(self._saved_averages)
            self._saved_averages = {}

    def _warn_if_unfinished(self, trainer: Trainer, epochs: int, what: str) -> None:
        missed = None if trainer.fast_dev_run or self._warned else self.unfinished(epochs)
        if missed is not None:
            self._warned = True
            rank_zero_warn(f"{type(self).__name__}: {missed}, but {what} after {epochs} epochs.")

    def _check(self) -> None:
        problem = self.broken()
        if problem is not None:
            raise WiringError(
                f"{type(self).__name__}: {problem}. Something has changed them outside of the "
                "optimizer's step(), such as an optimizer that moves weights between its steps "
                "(SAM, schedule-free), or code that writes weights."
            )

    def _refuse_two_learners(self, trainer: Trainer) -> None:
        own = {place.tensor.data_ptr() for group in self.places() for place in group}
        others: Sequence[Any] = trainer.callbacks
        for other in others:
            if other is self or not isinstance(other, WiringCallback):
                continue
            theirs = [place for group in other.places() for place in group]
            shared = [place for place in theirs if place.tensor.data_ptr() in own]
            if shared:
                raise self.mistake(
                    f"{type(other).__name__} learns the wiring of the same "
                    f"{type(shared[0].owner).__name__}; let each layer have one learner."
                )

    def _freeze_if_due(self, trainer: Trainer) -> None:
        if self.freeze_epoch is not None and trainer.current_epoch >= self.freeze_epoch:
            self.freeze()


_AVERAGES = "wiring_averages"
