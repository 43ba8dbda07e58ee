"""The base of callbacks that change the masks of sparse weights by rule."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.callbacks._run_length import RunLength, check_times
from wiring_lightning.callbacks._weight_choice import listed
from wiring_lightning.callbacks.sparse_layers import SparseGroup, SparseLayers
from wiring_lightning.functional.mask_times import DECAYS, Decay, MaskTimes
from wiring_lightning.optim.mask_scores import DROPS, GROWS, SCORES, Drop, Grow, Seen
from wiring_lightning.optim.scheduled_masks import FIRSTS, First, ScheduledMasks

Unit = Literal["step", "epoch"]
UNITS = get_args(Unit)


class MaskSchedule(SparseLayers[ScheduledMasks]):
    """Change the masks of sparse layers by rule: when, how many, what goes and what comes.

    Every `every` steps, until the share `until` of the training, the weights with the lowest score
    `drop` go and as many with the highest score `grow` come. The density can fall meanwhile from
    `initial_density` to its final value. Every rule is an argument, so a config can combine them
    freely. `SET`, `RigL` and the other methods are this class with other defaults. A method with a
    rule of its own overrides `drop_score`, `grow_score` or `make_times`.

    A change follows the optimizer's step, and sees the dense gradient of that step, averaged over
    accumulated batches and ranks. Absent weights get no gradient. Weights that come start at zero,
    and so does the optimizer's state of what goes or comes.

    Args:
        every: number of optimizer steps, or of epochs, from one change to the next.
        unit: what `every` counts: `step` or `epoch`.
        start: the share of the training after which changes begin.
        until: the share of the training after which nothing changes.
        fraction: the share of the present weights that is replaced in a change.
        fraction_decay: how that share falls from `start` to `until`: `constant`, `linear`,
            `cosine` or `cubic`.
        initial_density: density at the beginning of all layers; the final one if not given.
        density_decay: how the density falls from `start` to `until`: `linear`, `cosine` or `cubic`.
        first: how the first mask is chosen, if it leaves out anything: `random`, `magnitude`, or
            `sensitivity` (by the first gradient; until then the network is dense).
        drop: what goes: what is smallest in `magnitude` or in `sensitivity`, or at `random`.
        grow: what comes: what is largest in `gradient` or in `momentum`, or at `random`.
        average: by which factor the averaged gradient of `momentum` decays in a step.
        total_steps: number of optimizer steps of the training. By default what the trainer says:
            by its `max_steps`, its `max_epochs`, or the phases of `PhaseSchedule`.
        seed: seed of random choices; a choice depends on the seed, the layer and the step only.
        choice: the other arguments of `SparseLayers`, such as density and layers.

    Raises:
        MisconfigurationException: as for `SparseLayers`; if a number or a name is out of range; or
            if the length of the training is not known.

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
        super().__init__(**choice)
        self.every, self.unit = every, unit
        self.start, self.until = start, until
        self.fraction, self.fraction_decay = fraction, fraction_decay
        self.initial_density, self.density_decay = initial_density, density_decay
        self.first, self.drop, self.grow = first, drop, grow
        self.average = average
        self.total_steps = total_steps
        self.seed = seed
        self._check()
        self._length = RunLength(0, 0)
        self._over = False  # whether the training of this fit has ended

    def drop_score(self, seen: Seen) -> Tensor:
        """The score of the weights of a parameter, not negative; the lowest go."""
        return SCORES[self.drop](seen)

    def grow_score(self, seen: Seen) -> Tensor:
        """The score of the other weights of a parameter, not negative; the highest come."""
        return SCORES[self.grow](seen)

    def make_times(self, length: RunLength) -> MaskTimes:
        """After which steps masks change, and by how much, in a training of this length."""
        return MaskTimes(
            end=length.step_at(self.until),
            every=self.every * (length.epoch if self.unit == "epoch" else 1),
            start=length.step_at(self.start),
            fraction=self.fraction,
            fraction_decay=self.fraction_decay,
            initial_density=self.initial_density,
            density_decay=self.density_decay,
        )

    @property
    @override
    def due(self) -> bool:
        return all(rule.due for rule in self._rules)

    @override
    def unfinished(self, epochs: int) -> str | None:
        last = max((rule.times.final_step for rule in self._rules), default=0)
        too_few = 0 < epochs * self._length.epoch < last
        if self.due or not (self._over or too_few):
            return super().unfinished(epochs)
        return f"the layers have their final density only after step {max(last, 1)}"

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
        self._over = False
        self._length = RunLength.of(trainer, self.total_steps, self.unit == "epoch", self.mistake)
        super().on_fit_start(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._over = True

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if not self.due and any(rule.changes_next for rule in self._rules):
            self.remember_checkpoints(trainer)
        super().on_before_optimizer_step(trainer, pl_module, optimizer)

    @override
    def broken(self) -> str | None:
        wrong = [found for rule in self._rules for found in rule.excess()]
        return listed(wrong) if wrong else None

    @override
    def settled(self, group: int, values: list[Tensor]) -> list[Tensor]:
        rule, _, first = self._ruled_groups[group]
        return rule.settled(first, values)

    def _check(self) -> None:
        """Raise an error if an argument is out of range."""
        check_times(self)
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
