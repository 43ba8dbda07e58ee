"""How many optimizer steps a training has."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from lightning.pytorch import Trainer


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
        cls,
        trainer: Trainer,
        total_steps: int | None,
        in_epochs: bool,
        fail: Callable[[str], Exception],
    ) -> "RunLength":
        """The length of a trainer's fit.

        Args:
            trainer: a trainer whose fit has started.
            total_steps: what the user says about it, if anything.
            in_epochs: whether the length of an epoch must be known.
            fail: makes an exception from a message.
        """
        trainer.fit_loop.setup_data()  # otherwise the number of batches may not be known yet
        total = trainer.estimated_stepping_batches if total_steps is None else total_steps
        if not math.isfinite(total) or total < 1:
            raise fail(
                "the length of the training is not known: give the trainer max_steps or "
                "max_epochs, or this callback total_steps."
            )
        batches = trainer.num_training_batches
        if not math.isfinite(batches):
            if in_epochs:
                raise fail("the data have no length, so count in steps: unit=step.")
            return cls(int(total), 0)
        return cls(int(total), math.ceil(batches / trainer.accumulate_grad_batches))

    def step_at(self, share: float) -> int:
        """The number of steps after a share of the training."""
        return round(share * self.total)
