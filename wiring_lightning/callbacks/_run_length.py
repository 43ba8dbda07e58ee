"""How many optimizer steps and epochs a training has, and shares of it."""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, takewhile
from typing import Any, Protocol

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.utilities import rank_zero_warn


class Asking(Protocol):
    """A callback that asks for a length, and says what is wrong with it."""

    def mistake(self, text: str) -> Exception:
        """The exception for wrong use of the callback."""
        ...


@dataclass(frozen=True)
class Begin:
    """How much of a training was over when a learner began.

    Args:
        steps: number of steps of all optimizers, as `max_steps` counts them.
        epochs: number of whole epochs.
        batches: number of batches of the epoch after them.
    """

    steps: int = 0
    epochs: int = 0
    batches: int = 0

    @classmethod
    def of(cls, steps: int, loops: Mapping[str, Any]) -> "Begin":
        """After so many steps of a fit whose loop has this state."""
        epoch, batch = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        done = epoch["current"]["processed"]
        # The counts of batches stay until the next epoch begins.
        inside = epoch["current"]["ready"] > done
        return cls(steps, done, batch["current"]["processed"] if inside else 0)

    def before(self, trainer: Trainer, batches: float) -> int:
        """How many steps that is if every step counts as `steps_in` counts."""
        whole = steps_in(trainer, self.epochs, batches)
        in_epoch = steps_in(trainer, self.epochs + 1, batches) - whole
        ended = self.batches >= batches
        inside = in_epoch if ended else self.batches // accumulated_in(trainer, self.epochs)
        return whole + inside


@dataclass(frozen=True)
class RunLength:
    """The length of a training, from the first step of a learner on.

    Args:
        total: number of optimizer steps in all, as the user or the trainer says.
        epoch: number of optimizer steps of every epoch; 0 if it is not known, or not the same.
        trained: number of steps after which the trainer stops.
        by_batches: whether the number of batches of an epoch decides any of the above that is used.
    """

    total: int
    epoch: int
    trained: float = math.inf
    by_batches: bool = False

    @classmethod
    def of(
        cls,
        trainer: Trainer,
        callback: Asking,
        total_steps: int | None,
        in_epochs: bool,
        begin: Begin,
        batches: float,
    ) -> "RunLength":
        """The length of a fit that has started.

        Args:
            trainer: the trainer.
            callback: the callback whose `on_fit_start` this is.
            total_steps: what the user says about the length, if anything.
            in_epochs: whether the length of an epoch must be known.
            begin: what was over when the callback began, perhaps in an earlier fit.
            batches: number of batches of every epoch.

        Raises:
            MisconfigurationException: if the length is not known, or zero.
        """
        epoch = steps_in(trainer, 1, batches)
        same = len(set(_accumulation(trainer).values())) == 1
        epochs = most_epochs(trainer, callback)
        in_steps = trainer.max_steps - begin.steps if trainer.max_steps >= 0 else math.inf
        by_epochs = math.inf
        if epoch and epochs is not None:
            by_epochs = steps_in(trainer, epochs, batches) - begin.before(trainer, batches)
        trained = min(in_steps, by_epochs)
        total = trained if total_steps is None else total_steps
        # Lightning takes the length of data that it does not load for unknown.
        if total <= 0 or (total_steps is None and trainer.limit_train_batches == 0):
            raise callback.mistake(_no_step(begin))
        if not math.isfinite(total):
            other = "max_epochs" if epoch else "limit_train_batches"
            raise callback.mistake(
                f"the length of the training is not known: give the trainer max_steps or {other}, "
                "or this callback total_steps."
            )
        if in_epochs and not (epoch and same):
            problem = "the data have no length"
            if epoch:
                problem = "GradientAccumulationScheduler makes the steps of epochs differ"
            raise callback.mistake(f"{problem}, so count in steps: unit=step.")
        _tell_guess(trainer, callback, total_steps, total, epoch if in_epochs else 0)
        if total_steps is not None and not trainer.lightning_module.automatic_optimization:
            trained = math.inf  # nobody but the user knows how many steps an optimizer takes
        by_batches = in_epochs or (total_steps is None and by_epochs <= in_steps)
        return cls(int(total), epoch if same else 0, trained, by_batches)

    def step_at(self, share: float) -> int:
        """The number of steps after a share of the training."""
        return round(share * self.total)


def steps_in(trainer: Trainer, epochs: int, batches: float) -> int:
    """How many optimizer steps so many epochs of so many batches have; 0 if it is not known."""
    if not math.isfinite(batches):
        return 0
    accumulated = _accumulation(trainer)
    return sum(
        max(min(end, epochs) - begin, 0) * math.ceil(batches / accumulated[begin])
        for begin, end in pairwise([*sorted(accumulated), epochs])
    )


def _load_data(trainer: Trainer) -> None:
    """Make the trainer ask for its training data, without which the number of batches is not known.

    Lightning restores its loops after `on_fit_start`. Data that it asks for earlier would be those
    of epoch 0, and would not get the position that a checkpoint holds. So the loops come first.
    """
    # Lightning forgets the checkpoint once all is restored.
    loops = trainer._checkpoint_connector._loaded_checkpoint.get("loops")
    if loops is not None and trainer.train_dataloader is None:
        trainer.fit_loop.load_state_dict(loops["fit_loop"])
        trainer.fit_loop.setup_data()
        # The position counts once: Lightning would keep it for data that are reloaded later.
        loops["fit_loop"]["state_dict"].pop("combined_loader", None)
    trainer.fit_loop.setup_data()


def _no_step(begin: Begin) -> str:
    """What is wrong if nothing is left to train, in words."""
    if begin.steps:
        return (
            f"the training has no step after step {begin.steps}, with which this callback begins: "
            "give the trainer a higher max_steps or max_epochs."
        )
    return (
        "the training has no step: give the trainer limit_train_batches, max_steps and max_epochs "
        "above 0."
    )


def _tell_guess(
    trainer: Trainer, callback: Asking, total_steps: int | None, total: float, epoch: int
) -> None:
    """Say which length is taken where a batch can have any number of steps."""
    if trainer.lightning_module.automatic_optimization or trainer.fast_dev_run:
        return
    taken, other = [], []
    if total_steps is None:
        taken.append(f"the training has {int(total):,} steps of each optimizer")
        other.append("give total_steps")
    if epoch:
        taken.append(f"an epoch has {epoch:,} steps of each optimizer")
        other.append("count in steps (unit=step)")
    if taken:
        rank_zero_warn(
            f"{type(callback).__name__}: with manual optimization a batch is taken to have one "
            f"step, so {' and '.join(taken)}; if that is not so, {' and '.join(other)}."
        )


def has_other_batches(trainer: Trainer, counted: float) -> bool:
    """Whether the present epoch of training has another number of batches than was counted."""
    epochs = most_epochs(trainer)
    # `StochasticWeightAveraging` counts one more in the epoch that it adds.
    trains = epochs is None or trainer.current_epoch < epochs
    return trains and trainer.num_training_batches != counted


def batches_of_epoch(trainer: Trainer) -> float:
    """How many batches an epoch of a fit has now; infinity if it is not known."""
    _load_data(trainer)
    return trainer.num_training_batches


def learning_epochs(
    trainer: Trainer, batches: Callable[[Trainer], float] = batches_of_epoch
) -> int | None:
    """The number of epochs after which a fit stops, in `on_train_start`; `None` if never.

    With manual optimization `max_steps` says nothing about epochs: a batch can have any number of
    steps.

    Args:
        trainer: the trainer.
        batches: gives the number of batches of every epoch, if it matters.
    """
    epochs, steps = most_epochs(trainer), trainer.max_steps
    if steps < 0 or not trainer.lightning_module.automatic_optimization:
        return epochs
    count = partial(steps_in, trainer, batches=batches(trainer))
    if not count(1):
        return epochs
    # No step is left out, so there are at most as many epochs as steps.
    needed = bisect_left(range(steps), steps, key=count)
    return needed if epochs is None else min(epochs, needed)


def most_epochs(trainer: Trainer, callback: object = None) -> int | None:
    """The `max_epochs` of a trainer; `None` if there is no limit.

    `StochasticWeightAveraging` adds an epoch in which only statistics of batch norms change. It is
    not counted. In `on_fit_start` of a callback, only those before it have added theirs.
    """
    epochs = trainer.max_epochs
    if epochs is None or epochs < 0:
        return None
    before = takewhile(lambda other: other is not callback, trainer.callbacks)
    return epochs - any(
        isinstance(other, StochasticWeightAveraging) and other._model_contains_batch_norm is True
        for other in before
    )


def accumulated_in(trainer: Trainer, epoch: int) -> int:
    """How many batches are one step in an epoch, from 0."""
    scheduled = _accumulation(trainer)
    return scheduled[max(start for start in scheduled if start <= epoch)]


def _accumulation(trainer: Trainer) -> dict[int, int]:
    """How many batches are one step, by the epoch from which on they are."""
    for callback in trainer.callbacks:
        if isinstance(callback, GradientAccumulationScheduler):
            # Only the first epoch tells the trainer.
            return callback.scheduling
    return {0: trainer.accumulate_grad_batches}
