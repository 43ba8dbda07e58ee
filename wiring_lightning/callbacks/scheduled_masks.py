"""The base of callbacks that change the masks of sparse weights by rule."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning._checks import check_seed, listed
from wiring_lightning.callbacks._run_length import RunLength, steps_in
from wiring_lightning.callbacks._timed_layers import TimedLayers
from wiring_lightning.callbacks.sparse_layers import SparseGroup
from wiring_lightning.functional.mask_times import DECAYS, Decay, MaskTimes
from wiring_lightning.optim import count_present, count_usable
from wiring_lightning.optim.mask_scores import DROPS, GROWS, SCORES, Drop, Grow, Seen
from wiring_lightning.optim.scheduled_masks import FIRSTS, First, ScheduledMasks

Unit = Literal["step", "epoch"]
UNITS = get_args(Unit)


class MaskSchedule(TimedLayers[ScheduledMasks]):
    """Change the masks of sparse layers by rule: when, how many, what goes and what comes.

    Every `every` steps, until the share `until` of the training, the weights with the lowest score
    `drop` go and as many with the highest score `grow` come. The density can fall meanwhile from
    `initial_density` to its final value. Every rule is an argument, so a config can combine them
    freely. `SET`, `RigL` and the other methods are this class with other defaults. A method with a
    rule of its own overrides `drop_score`, `grow_score` or `make_times`.

    A change follows the optimizer's step, and sees the dense gradient of that step, averaged over
    accumulated batches and ranks. Absent weights get no gradient. Weights that come start at zero,
    and so does the optimizer's state of what goes or comes. A change after the last step of the
    training moves nothing. If so few changes fit into a run that nothing ever moves, a warning says
    so when the fit starts.

    Args:
        every: number of optimizer steps, or of epochs, from one change to the next.
        unit: what `every` counts: `step` or `epoch`.
        start: the share of the training after which changes begin.
        until: the share of the training after which nothing changes.
        fraction: the share of the present weights that is replaced in a change.
        fraction_decay: how that share falls from `start` to `until`: `constant`, `linear`,
            `cosine` or `cubic`.
        initial_density: density at the beginning of all layers, not below the final one, which it
            is if not given.
        density_decay: how the density falls from `start` to `until`: `linear`, `cosine` or `cubic`.
        first: how the first mask is chosen, if it leaves out anything: `random`, `magnitude`, or
            `sensitivity` (by the first gradient; until then the network is dense).
        drop: what goes: what is smallest in `magnitude` or in `sensitivity`, or at `random`.
        grow: what comes: what is largest in `gradient` or in `momentum`, or at `random`.
        average: by which factor the averaged gradient of `momentum` decays in a step.
        total_steps: number of optimizer steps from the first one of this callback to the end of
            the training. By default what the trainer says: by its `max_steps`, its `max_epochs`, or
            the phases of `PhaseSchedule`. With manual optimization that is one step for each batch.
        seed: seed of random choices; a choice depends on the seed, the layer and the step only.
        choice: the other arguments of `SparseLayers`, such as density and layers.

    Raises:
        MisconfigurationException: as for `SparseLayers`; if a number or a name is out of range; or
            if something changes with time, and the length of the training is not known.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> learner = MaskSchedule(drop="sensitivity", grow="random", fraction=0.1, density=0.2)
        >>> trainer = Trainer(callbacks=[learner], logger=False, enable_checkpointing=False,
        ...                   accelerator="cpu")
    """

    masks_gradients = True

    def __init__(
        self,
        every: int = 100,
        unit: Unit = "step",
        start: float = 0.0,
        until: float = 0.75,
        fraction: float = 0.0,
        fraction_decay: Decay = "constant",
        initial_density: float | None = None,
        density_decay: Decay = "cubic",
        first: First = "random",
        drop: Drop = "magnitude",
        grow: Grow = "gradient",
        average: float = 0.9,
        total_steps: int | None = None,
        seed: int = 0,
        **choice: Any,
    ) -> None:
        super().__init__(every, start, until, initial_density, density_decay, total_steps, **choice)
        self.unit = unit
        self.fraction, self.fraction_decay = fraction, fraction_decay
        self.first, self.drop, self.grow = first, drop, grow
        self.average = average
        check_seed(seed, error=self.mistake)
        self.seed = seed
        self._told = False  # that the first choice waits for gradients
        self._check()

    @property
    @override
    def has_times(self) -> bool:
        own = type(self).make_times is not MaskSchedule.make_times
        return own or self.fraction > 0 or self.initial_density is not None

    @property
    @override
    def in_epochs(self) -> bool:
        return self.unit == "epoch"

    @property
    @override
    def kept_arguments(self) -> dict[str, Any]:
        # What the first masks followed from; random changes may go on with another seed.
        only_first = self.first == "random" and "random" not in (self.drop, self.grow)
        seed = {"seed": self.seed} if only_first else {}
        return {**super().kept_arguments, "first": self.first, **seed}

    def drop_score(self, seen: Seen) -> Tensor:
        """The score of the weights of a parameter, not negative; the lowest go."""
        return SCORES[self.drop](seen)

    def grow_score(self, seen: Seen) -> Tensor:
        """The score of the other weights of a parameter, not negative; the highest come."""
        return SCORES[self.grow](seen)

    @override
    def make_times(self, length: RunLength) -> MaskTimes:
        times = super().make_times(length)
        return replace(times, fraction=self.fraction, fraction_decay=self.fraction_decay)

    @override
    def make_rule(self, optimizer: Optimizer, groups: Sequence[SparseGroup]) -> ScheduledMasks:
        for group in groups:
            group.fill_in()
        return ScheduledMasks(
            optimizer,
            [group.edge_set() for group in groups],
            self.make_times(self._length),
            self.drop_score,
            self.grow_score,
            self.first if self._restored is None else None,
            self.seed,
            self.average if self.grow == "momentum" else 0.0,
            [group.name for group in groups],
        )

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._told = False
        super().on_fit_start(trainer, pl_module)
        last = self._length.total
        if self.freeze_epoch is not None and math.isfinite(self.epoch_batches(trainer)):
            batches = self.epoch_batches(trainer)
            frozen_at = steps_in(trainer, self.freeze_epoch, batches)
            last = min(last, frozen_at - self._begin.before(trainer, batches))
        wanted = self.fraction > 0 and not trainer.fast_dev_run
        if wanted and not any(rule.moves_any(last) for rule in self._rules):
            rank_zero_warn(
                f"{type(self).__name__}: no change in this run moves a weight, so the first choice "
                "of weights stays: use fewer steps from one change to the next (`every`, or "
                "`delta_t` of RigL), or train longer."
            )

    @override
    def before_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        super().before_step(trainer, optimizer)
        waiting = [rule for rule in self._rules if rule.waiting and rule.optimizer is optimizer]
        if self._told or not waiting:
            return
        groups = [group for rule, group, _ in self._ruled_groups if rule in waiting]
        members = [member for group in groups for member in group.members]
        if idle := [member.name for member in members if member.parameter.grad is None]:
            self._told = True
            rank_zero_warn(
                f"{type(self).__name__}: {listed(idle)} had no gradient in a step, so the network "
                "stays dense until all sparse weights have one in the same step; exclude layers "
                "that do not learn."
            )

    @override
    def missed(self) -> str | None:
        missed = super().missed()
        if missed is not None or self.frozen:
            return missed
        for rule in self._rules:
            end = rule.times.end
            if rule.moves_any(end, since=rule.steps):
                return f"masks change until step {end}, of which there were {rule.steps}"
        return None

    @property
    @override
    def still_counts(self) -> bool:
        moves = any(rule.moves_any(rule.times.end, since=rule.steps) for rule in self._rules)
        return super().still_counts or (moves and not self.frozen)

    @override
    def broken(self) -> str | None:
        wrong = []
        for rule in self._rules:
            groups = [group for own, group, _ in self._ruled_groups if own is rule]
            wrong += rule.excess([group.weights for group in groups])
        return listed(wrong) if wrong else None

    @override
    def settled(self, group: int, values: list[Tensor]) -> list[Tensor]:
        rule, _, first = self._ruled_groups[group]
        return rule.settled(first, values)

    @override
    def valid(self, group: int, values: list[Tensor]) -> bool:
        rule, _, first = self._ruled_groups[group]
        masks = rule.masks[first : first + len(values)]
        return count_present(values) <= count_usable(values, masks)

    def _check(self) -> None:
        """Raise an error if another argument is out of range."""
        for name in ("fraction", "average"):
            value = getattr(self, name)
            if not 0 <= value <= 1 or (name == "average" and value == 1):
                most = "below" if name == "average" else "at most"
                raise self.mistake(f"{name} must be at least 0 and {most} 1, got {value}.")
        words: dict[str, Sequence[str]] = {
            "unit": UNITS,
            "fraction_decay": DECAYS,
            "first": FIRSTS,
            "drop": DROPS,
            "grow": GROWS,
        }
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise self.mistake(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)}."
                )
