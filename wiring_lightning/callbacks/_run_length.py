"""How many optimizer steps a training has, and shares of it."""

import math
from dataclasses import dataclass

from lightning.pytorch import Trainer

from wiring_lightning.callbacks._averages import learning_epochs
from wiring_lightning.callbacks.wiring_callback import WiringCallback


@dataclass(frozen=True)
class RunLength:
    """The length of a training.

    Args:
        total: number of optimizer steps in all.
        epoch: number of optimizer steps of an epoch; 0 if it is not known.
    """

    total: int
    epoch: int

    @classmethod
    def of(
        cls, trainer: Trainer, callback: WiringCallback, total_steps: int | None, in_epochs: bool
    ) -> "RunLength":
        """The length of a fit that has started.

        Args:
            trainer: the trainer.
            callback: the callback whose `on_fit_start` this is.
            total_steps: what the user says about the length, if anything.
            in_epochs: whether the length of an epoch must be known.

        Raises:
            MisconfigurationException: if the length is not known, or zero.
        """
        epoch = steps_per_epoch(trainer)
        total = trainer.estimated_stepping_batches if total_steps is None else total_steps
        # Lightning takes the length of data that it does not load for unknown.
        if total == 0 or (total_steps is None and trainer.limit_train_batches == 0):
            raise callback.mistake(
                "the training has no step: give the trainer limit_train_batches, max_steps and "
                "max_epochs above 0."
            )
        if not math.isfinite(total) or total < 1:
            raise callback.mistake(
                "the length of the training is not known: give the trainer max_steps or "
                "max_epochs, or this callback total_steps."
            )
        if in_epochs and not epoch:
            raise callback.mistake("the data have no length, so count in steps: unit=step.")
        epochs = learning_epochs(trainer, callback)
        if total_steps is None and epoch and epochs:
            total = min(total, epochs * epoch)
        return cls(int(total), epoch)

    def step_at(self, share: float) -> int:
        """The number of steps after a share of the training."""
        return round(share * self.total)


def steps_per_epoch(trainer: Trainer) -> int:
    """How many optimizer steps an epoch of a fit that has started has; 0 if it is not known."""
    trainer.fit_loop.setup_data()  # otherwise the number of batches may not be known yet
    batches = trainer.num_training_batches
    return math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else 0
