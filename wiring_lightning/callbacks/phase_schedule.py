"""Training in phases: learn the wiring, freeze it, fine-tune the weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from wiring_lightning._checks import counted, plain_number
from wiring_lightning.callbacks._at_start import refuse_a_second, refuse_untaught_in
from wiring_lightning.callbacks.wiring_callback import find_learners

# A `max_epochs` that nobody chose: Lightning's default, and no limit.
NOT_GIVEN = (1000, -1)
# What learners count in epochs themselves.
_IN_EPOCHS = ("freeze_epoch", "warmup_epochs", "dense_epochs")


@dataclass
class Phase:
    """A part of the training with fixed learning rates.

    Args:
        epochs: length in epochs.
        lr: learning rate of the weights, in all groups of all optimizers; not changed by default.
        gate_lr: learning rate of the wiring's scores; not changed by default.
        freeze: whether the wiring is frozen, for good, when this phase begins.
    """

    epochs: int
    lr: float | None = None
    gate_lr: float | None = None
    freeze: bool = False

    def __post_init__(self) -> None:
        # Optimizers hold the rates, and so do checkpoints; Lightning takes plain epochs only.
        self.epochs = plain_number(self.epochs)
        self.lr, self.gate_lr = plain_number(self.lr), plain_number(self.gate_lr)


class PhaseSchedule(Callback):
    """Run the phases of MaskConnect and GateConnect (their implementation details) from a config.

    A fit lasts as long as the phases together. If the trainer is given another `max_epochs`, the
    phases become shorter or longer in proportion, in whole epochs, and a line says so; 1000, which
    Lightning sets if nothing is given, and -1 do not count. A learner's own number of epochs, such
    as `freeze_epoch`, stays as it is, and a warning says so. The phase depends on the current epoch
    only, so a resumed run needs no state.

    Args:
        phases: the phases in order, each a `Phase` or a mapping with its keys: epochs, and
            optionally lr, gate_lr and freeze.

    Raises:
        MisconfigurationException: if there is no phase, a phase is shorter than one epoch or has a
            negative rate, a phase freezes or sets `gate_lr` but no callback learns a wiring,
            `max_epochs` is smaller than the number of phases, a learning rate scheduler or
            `StochasticWeightAveraging` sets rates, too, or an optimizer holds the scores of gates
            that no callback learns.

    Example:
        >>> schedule = PhaseSchedule([Phase(120, lr=0.1, gate_lr=0.2), Phase(100, 0.1, freeze=True),
        ...                           Phase(50, lr=0.01), Phase(50, lr=0.001)])
        >>> schedule.max_epochs, schedule.index(119), schedule.index(120)
        (320, 0, 1)
    """

    def __init__(self, phases: list[Phase]) -> None:
        self.phases = [_as_phase(phase) for phase in phases]
        if not self.phases:
            raise MisconfigurationException(
                "PhaseSchedule needs at least one phase, such as {epochs: 30, lr: 0.1}."
            )
        for number, phase in enumerate(self.phases, start=1):
            _check(number, phase)
        self._running = self.phases  # with the lengths that they have in the present fit
        self._entered = False  # whether this fit has begun a phase

    @property
    def max_epochs(self) -> int:
        """Length of all phases together; once a fit has begun, in this fit."""
        return sum(phase.epochs for phase in self._running)

    def index(self, epoch: int) -> int:
        """Number of the phase, from 0, that an epoch belongs to; the last one after the end."""
        for number, phase in enumerate(self._running):
            if epoch < phase.epochs:
                return number
            epoch -= phase.epochs
        return len(self.phases) - 1

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        refuse_a_second(self, trainer)
        steers = any(phase.freeze or phase.gate_lr is not None for phase in self.phases)
        if steers and not find_learners(trainer):
            raise MisconfigurationException(
                "PhaseSchedule has a phase with `freeze` or `gate_lr`, but no callback learns a "
                "wiring: add MaskConnect to the trainer's callbacks, or remove these keys."
            )
        self._running, self._entered = self.phases, False
        if trainer.fast_dev_run:
            return
        wanted = trainer.max_epochs
        if wanted not in (None, self.max_epochs, *NOT_GIVEN):
            self._stretch_to(wanted)
            self._say_what_stays(trainer)
        trainer.fit_loop.max_epochs = self.max_epochs

    def _stretch_to(self, epochs: int) -> None:
        """Let the phases last so many epochs, in proportion."""
        if epochs < len(self.phases):
            raise MisconfigurationException(
                f"PhaseSchedule: {len(self.phases)} phases need at least as many epochs, but the "
                f"trainer was given max_epochs={epochs}: give it more, or use fast_dev_run for a "
                "quick check."
            )
        before = [phase.epochs for phase in self.phases]
        after = shares(epochs, before)
        self._running = [
            replace(phase, epochs=length) for phase, length in zip(self.phases, after, strict=True)
        ]
        rank_zero_info(
            f"PhaseSchedule: with max_epochs={epochs} the phases last {_listed(after)} epochs; "
            f"without max_epochs they last {_listed(before)}."
        )

    def _say_what_stays(self, trainer: Trainer) -> None:
        """Name the numbers of epochs that belong to a learner, and so are no part of a phase."""
        stay = [
            f"{name}={value} of {type(learner).__name__}"
            for learner in find_learners(trainer)
            for name in _IN_EPOCHS
            if (value := getattr(learner, name, None))
        ]
        if stay:
            rank_zero_warn(
                f"PhaseSchedule: the phases follow max_epochs={self.max_epochs}, but "
                f"{' and '.join(stay)} {'stay' if stay[1:] else 'stays'} as given: change "
                f"{'them' if stay[1:] else 'it'}, too, if the whole run is to be shorter or longer."
            )

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_untaught_in(trainer.optimizers, pl_module, find_learners(trainer))
        rates = {phase.lr for phase in self.phases}
        if trainer.lr_scheduler_configs and rates != {None}:
            raise MisconfigurationException(
                "PhaseSchedule sets the learning rate of each phase, but the model also has a "
                "learning rate scheduler, which would overwrite it: remove one of the two."
            )
        averaging = any(isinstance(one, StochasticWeightAveraging) for one in trainer.callbacks)
        if averaging and rates != {None}:
            raise MisconfigurationException(
                "PhaseSchedule sets the learning rate of each phase, so `swa_lrs` of "
                "StochasticWeightAveraging would have no effect: remove `lr` from the phases, or "
                "average with WeightAveraging."
            )
        for optimizer in trainer.optimizers:
            own = optimizer.defaults.get("lr")
            if None not in rates and own not in rates:
                rank_zero_info(
                    "PhaseSchedule: the phases set the learning rate; that of the optimizer, "
                    f"{own}, is not used."
                )
        begin = 0
        for phase in self._running:
            if phase.freeze:
                for learner in find_learners(trainer):
                    learner.check_freeze(begin)
                    learner.phase_epoch = begin
                break
            begin += phase.epochs

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that resumes inside an epoch does not call `on_train_epoch_start`.
        self.enter(trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.enter(trainer)
        number = self.index(trainer.current_epoch)
        if trainer.current_epoch == sum(phase.epochs for phase in self._running[:number]):
            rank_zero_info(f"Phase {number + 1} of {len(self._running)}: {self._running[number]}")

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # A tensor of the CPU, because Lightning would copy a number to the device and back.
        phase = torch.tensor(float(self.index(trainer.current_epoch) + 1), device="cpu")
        pl_module.log(
            "wiring/phase", phase, prog_bar=True, on_step=True, on_epoch=False, batch_size=1
        )

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A fit with nothing left to do starts no epoch, so the last one that was started counts.
        started = trainer.fit_loop.epoch_progress.current.ready
        reached = self.index(max(started - 1, 0))
        missed = self.phases[reached + 1 :]
        # If nothing was left to train, a learner may have missed what an earlier fit has seen.
        unseen = missed if self._entered else self.phases
        unfrozen = any(phase.freeze for phase in unseen) and not all(
            learner.frozen for learner in find_learners(trainer)
        )
        if trainer.fast_dev_run or not (missed or unfrozen):
            return
        rank_zero_warn(
            f"PhaseSchedule: training ended in phase {reached + 1} of {len(self.phases)}, "
            f"after {counted(trainer.current_epoch, 'epoch')}"
            f"{', so the wiring is not frozen' if unfrozen else ''}."
        )

    def enter(self, trainer: Trainer) -> None:
        """Set the rates of the present phase, and freeze if it is frozen."""
        self._entered = True
        number = self.index(trainer.current_epoch)
        phase = self.phases[number]
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                if phase.lr is not None:
                    _set_rate(group, phase.lr)
        learners = find_learners(trainer)
        # The edges of sparse weights learn with the rate of the weights. If nothing else learns,
        # `set_lr` says so.
        rated = [learner for learner in learners if learner.has_rate] or learners
        for learner in learners:
            if phase.gate_lr is not None and learner in rated:
                learner.set_lr(phase.gate_lr)
            if any(earlier.freeze for earlier in self.phases[: number + 1]):
                learner.freeze()


def shares(total: int, parts: Sequence[int]) -> list[int]:
    """Divide a whole number in proportion to others, at least 1 for each.

    Args:
        total: at least as many as there are parts.
        parts: positive.

    Example:
        >>> shares(15, [14, 10, 6]), shares(4, [14, 10, 6]), shares(3, [98, 1, 1])
        ([7, 5, 3], [2, 1, 1], [1, 1, 1])
    """
    ends = [0]
    for number in range(len(parts)):
        # The nearest whole number, with halves upward, so that it does not depend on rounding.
        exact = (2 * total * sum(parts[: number + 1]) + sum(parts)) // (2 * sum(parts))
        latest = total - (len(parts) - number - 1)
        ends.append(min(max(exact, ends[-1] + 1), latest))
    return [end - begin for begin, end in pairwise(ends)]


def _listed(lengths: Sequence[int]) -> str:
    """All of the lengths, as in a sentence: `30, 20 and 10`."""
    *before, last = map(str, lengths)
    return f"{', '.join(before)} and {last}" if before else last


def _set_rate(group: dict[str, Any], lr: float) -> None:
    """Set the learning rate of a group of parameters."""
    if isinstance(group["lr"], torch.Tensor):  # capturable optimizers keep it on the device
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def _as_phase(phase: Any) -> Phase:
    if isinstance(phase, Phase):
        return phase
    try:
        return Phase(**phase)
    except TypeError as error:
        raise MisconfigurationException(
            f"PhaseSchedule: {phase!r} is no phase; the keys are epochs, lr, gate_lr and freeze."
        ) from error


def _check(number: int, phase: Phase) -> None:
    if phase.epochs < 1:
        raise MisconfigurationException(
            f"PhaseSchedule: phase {number} must last at least one epoch, got {phase.epochs}."
        )
    for name, rate in (("lr", phase.lr), ("gate_lr", phase.gate_lr)):
        if rate is not None and not 0 <= rate < math.inf:
            raise MisconfigurationException(
                f"PhaseSchedule: {name} of phase {number} must be a number from 0 up, got {rate}."
            )
