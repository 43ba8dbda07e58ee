"""Where in a training a learner begins, and by which number of batches it counts its length."""

import math
from dataclasses import astuple
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from wiring_lightning.callbacks._run_length import (
    Begin,
    batches_of_epoch,
    has_other_batches,
    learning_epochs,
)
from wiring_lightning.callbacks.wiring_callback import WiringCallback


class Begins(WiringCallback):
    """A learner that asks where it begins: at 0, after a first fit, or after a checkpoint.

    It counts the length of the training by the batches that an epoch has when it begins. Both are
    part of its state, so a run that resumes counts as the uninterrupted one.
    """

    _restored: dict[str, Any] | None = None  # the state that was loaded, until it is used
    _loaded_begin: Begin | None = None  # where the checkpoint of this fit ends
    _begin = Begin()  # where this learner began, perhaps in an earlier fit
    _epoch_batches: float | None = None  # of every epoch, as this learner counts
    _instead: str | None = None  # what gives a length that does not depend on them

    def find_begin(self, trainer: Trainer) -> None:
        """Find out where this learner begins; a subclass calls this first in `on_fit_start`."""
        if self._restored is None:
            self._begin, self._epoch_batches = self.fit_begin(trainer), None
        else:  # older states lack some of it
            self._begin = Begin(*self._restored.get("begin", ()))
            self._epoch_batches = self._restored.get("batches")

    def fit_begin(self, trainer: Trainer) -> Begin:
        """How much of the training is over at the start of this fit, in `on_fit_start`."""
        # The loops of the trainer are restored from the checkpoint only later.
        return self._loaded_begin or Begin.of(trainer.global_step, trainer.fit_loop.state_dict())

    def epoch_batches(self, trainer: Trainer) -> float:
        """By which number of batches of every epoch this learner counts; infinity if not known."""
        if self._epoch_batches is None:
            self._epoch_batches = batches_of_epoch(trainer)
        return self._epoch_batches

    def count_on(self, instead: str) -> None:
        """Warn if an epoch has another number of batches than was counted; `instead` needs none."""
        self._instead = instead

    @property
    def still_counts(self) -> bool:
        """Whether anything that is to come depends on the length of the training."""
        return not self.frozen

    @override
    def epochs_until_end(self, trainer: Trainer) -> int | None:
        return learning_epochs(trainer, self.epoch_batches)

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        loops = checkpoint.get("loops")
        # The learning rate finder loads a checkpoint of its own later.
        if loops and self._loaded_begin is None:
            self._loaded_begin = Begin.of(checkpoint["global_step"], loops["fit_loop"])

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        # Not in `on_train_epoch_start`, which a run that resumes inside an epoch does not call.
        if self._instead is not None and self._epoch_batches is not None:
            self._warn_of_other_batches(trainer, self._epoch_batches, self._instead)

    def _warn_of_other_batches(self, trainer: Trainer, counted: float, instead: str) -> None:
        """Warn, once, if the present epoch has another number of batches, and that matters."""
        if trainer.fast_dev_run or not has_other_batches(trainer, counted):
            return
        self._instead = None
        if self.still_counts:
            rank_zero_warn(
                f"{type(self).__name__}: an epoch has {trainer.num_training_batches} batches now, "
                f"not {counted} as when the fit started, so this callback counts on another length "
                f"of the training: give {instead}."
            )

    @override
    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if not self.places():  # what was loaded, or nothing
            return state
        counted = self._epoch_batches
        batches = None if counted is None or math.isinf(counted) else counted
        return {**state, "begin": list(astuple(self._begin)), "batches": batches}

    @override
    def forget(self) -> None:
        super().forget()
        self._loaded_begin = self._instead = None
