"""How many optimizer steps a training has, and shares of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lightning.pytorch import Trainer

from wiring_lightning.functional.mask_times import DECAYS, Decay


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


class Timed(Protocol):
    """A callback whose density falls while it trains."""

    every: int
    start: float
    until: float
    total_steps: int | None
    initial_density: float | None
    density_decay: Decay

    def mistake(self, text: str) -> Exception:
        """The exception for wrong use of this callback."""
        ...


def check_times(callback: Timed) -> None:
    """Raise an error if an argument of a callback's times is out of range."""
    fail = callback.mistake
    if callback.every < 1:
        raise fail(f"every must be at least 1, got {callback.every}.")
    if callback.total_steps is not None and callback.total_steps < 1:
        raise fail(f"total_steps must be at least 1, got {callback.total_steps}.")
    if not 0 <= callback.start <= callback.until <= 1:
        raise fail(
            "start and until are shares of the training, with 0 <= start <= until <= 1, got "
            f"start={callback.start} and until={callback.until}."
        )
    if callback.initial_density is not None and not 0 < callback.initial_density <= 1:
        raise fail(
            f"initial_density must be above 0 and at most 1, got {callback.initial_density}."
        )
    falling = [name for name in DECAYS if name != "constant"]
    if callback.density_decay not in falling:
        raise fail(
            f"density_decay must be one of {', '.join(falling)}, got {callback.density_decay}."
        )
