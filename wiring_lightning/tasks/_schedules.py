"""When a learning rate schedule steps, its warm-up, and the number that it looks at."""

from dataclasses import dataclass
from typing import Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau

from wiring_lightning._checks import check_counts
from wiring_lightning.optim import WarmupCosine
from wiring_lightning.tasks._warm_up import WarmUp

Interval = Literal["epoch", "step"]


@dataclass(frozen=True)
class Schedule:
    """A learning rate schedule, from the options of a task.

    Args:
        make: builds the schedule of an optimizer; `None` for a constant rate.
        interval: whether it makes a step after each epoch or after each step of the optimizer.
        warmup: for so many of these steps the rate rises linearly: in step e (from 0) of w it is
            `lr * (e + 1) / (w + 1)`. The schedule begins after them.
        monitor: the logged number that `ReduceLROnPlateau` looks at; `val/loss` if not given.

    Raises:
        MisconfigurationException: if an option is out of range, or would do nothing.
    """

    make: LRSchedulerCallable | None = None
    interval: Interval = "epoch"
    warmup: int = 0
    monitor: str | None = None

    def __post_init__(self) -> None:
        check_counts(0, error=MisconfigurationException, lr_warmup=self.warmup)
        if self.interval not in ("epoch", "step"):
            raise MisconfigurationException(
                f"lr_interval must be epoch or step, got {self.interval!r}."
            )
        if self.make is None and self.warmup == 0 and self.interval != "epoch":
            raise MisconfigurationException(
                "lr_interval has no effect without a schedule: give an lr_scheduler or an "
                "lr_warmup, or leave it out."
            )
        if self.make is None and self.monitor is not None:
            raise MisconfigurationException(
                "lr_monitor is what ReduceLROnPlateau looks at: give it as lr_scheduler, or leave "
                "lr_monitor out."
            )

    def configure(self, optimizer: Optimizer, validated_every: int = 1) -> OptimizerLRScheduler:
        """What `configure_optimizers` returns.

        Args:
            optimizer: whose rates change.
            validated_every: epochs from one validation to the next.

        Raises:
            MisconfigurationException: if the options do not go together.
        """
        main = None if self.make is None else self.make(optimizer)
        if main is None and self.warmup == 0:
            return optimizer
        if isinstance(main, ReduceLROnPlateau):
            return self._on_plateau(optimizer, main, validated_every)
        if self.monitor is not None:
            raise MisconfigurationException(
                f"lr_monitor={self.monitor} has no effect: {type(main).__name__} looks at no "
                "number; only ReduceLROnPlateau does."
            )
        if self.warmup and isinstance(main, WarmupCosine):
            raise MisconfigurationException(
                "WarmupCosine has a warm-up of its own, warmup_epochs: leave lr_warmup out."
            )
        scheduler = self._warmed_up(optimizer, main)
        if self.interval == "epoch":
            return {"optimizer": optimizer, "lr_scheduler": scheduler}
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": self.interval},
        }

    def _on_plateau(
        self, optimizer: Optimizer, main: ReduceLROnPlateau, validated_every: int
    ) -> OptimizerLRScheduler:
        if self.warmup or self.interval == "step":
            option = "lr_warmup" if self.warmup else "lr_interval=step"
            raise MisconfigurationException(
                "ReduceLROnPlateau steps after an epoch of validation, by what it has seen before: "
                f"leave {option} out, or take another schedule."
            )
        # `main` has one if it is Lightning's `ReduceLROnPlateau`, and not torch's.
        monitor: str = self.monitor or getattr(main, "monitor", None) or "val/loss"
        frequency = 1 if _of_training(monitor) else validated_every
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": main, "monitor": monitor, "frequency": frequency},
        }

    def _warmed_up(self, optimizer: Optimizer, main: LRScheduler | None) -> LRScheduler:
        if self.warmup == 0:
            assert main is not None
            return main
        if main is None:
            return LinearLR(optimizer, start_factor=1 / (self.warmup + 1), total_iters=self.warmup)
        return WarmUp(optimizer, main, self.warmup)


def check_validated(trainer: Trainer) -> None:
    """Refuse a plateau of a number that no validation will log, at the start of training.

    Raises:
        MisconfigurationException: if there is none.
    """
    monitors = [monitor for _, monitor in _on_plateaus(trainer) if not _of_training(monitor)]
    if not monitors:
        return
    if trainer.val_dataloaders is None:  # Lightning asks for them before the first validation
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        trainer.training = True
    if sum(trainer.num_val_batches) == 0:
        raise MisconfigurationException(
            f"ReduceLROnPlateau looks at {monitors[0]}, but there is no validation: set images "
            "aside for it and limit_val_batches above 0, let lr_monitor name a number of training, "
            "such as train/loss, or take another schedule."
        )


def check_monitored(trainer: Trainer) -> None:
    """Refuse a plateau of a number that was not logged, at the end of an epoch of training.

    Raises:
        MisconfigurationException: if it was not.
    """
    for every, monitor in _on_plateaus(trainer):
        due = (trainer.current_epoch + 1) % every == 0 and not trainer.fit_loop.restarting
        if due and not _of_training(monitor) and monitor not in trainer.callback_metrics:
            there = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise MisconfigurationException(
                f"ReduceLROnPlateau looks at {monitor}, which was not logged: let lr_monitor name "
                f"one of the numbers that were ({there})."
            )


def _on_plateaus(trainer: Trainer) -> list[tuple[int, str]]:
    """For every `ReduceLROnPlateau`: how many epochs lie between steps, and what it looks at."""
    configs = [config for config in trainer.lr_scheduler_configs if config.reduce_on_plateau]
    return [(config.frequency, str(config.monitor)) for config in configs]


def _of_training(monitor: str) -> bool:
    """Whether training logs a number, so that it is there without any validation."""
    return monitor.startswith("train/")
