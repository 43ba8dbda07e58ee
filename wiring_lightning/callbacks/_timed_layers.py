"""The base of callbacks whose sparse layers change at given steps of a training."""

from typing import Any, TypeVar

from lightning.pytorch import LightningModule, Trainer
from torch import nn
from typing_extensions import override

from wiring_lightning._checks import check_counts
from wiring_lightning.callbacks._begins import Begins
from wiring_lightning.callbacks._run_length import RunLength
from wiring_lightning.callbacks.sparse_layers import SparseGroup, SparseLayers
from wiring_lightning.functional.mask_times import DECAYS, Decay, MaskTimes
from wiring_lightning.optim import StraightThrough, count_usable
from wiring_lightning.optim.scheduled_masks import ScheduledMasks

# What knows its steps, and after which of them it has its final number of weights.
TimedRule = TypeVar("TimedRule", bound=StraightThrough | ScheduledMasks)


class TimedLayers(Begins, SparseLayers[TimedRule]):
    """Sparse layers whose density can fall while they train.

    Args:
        every: number of optimizer steps, or of epochs, from one change to the next.
        start: the share of the training after which changes begin.
        until: the share of the training after which nothing changes.
        initial_density: density at the beginning of all layers, not below the final one, which it
            is if not given.
        density_decay: how the density falls: `linear`, `cosine` or `cubic`.
        total_steps: number of optimizer steps from the first one of this callback to the end of
            the training; by default what the trainer says.
        choice: the arguments of `SparseLayers`.

    Raises:
        MisconfigurationException: as for `SparseLayers`; if a number or a name is out of range; if
            the density would rise; or if the length of the training is needed and not known.
    """

    def __init__(
        self,
        every: int,
        start: float,
        until: float,
        initial_density: float | None,
        density_decay: Decay,
        total_steps: int | None,
        **choice: Any,
    ) -> None:
        super().__init__(**choice)
        self.every, self.start, self.until = every, start, until
        self.initial_density, self.density_decay = initial_density, density_decay
        self.total_steps = total_steps
        self._check_times()
        self._length = RunLength(0, 0)

    @property
    def has_times(self) -> bool:
        """Whether anything depends on the length of the training."""
        return True

    @property
    def in_epochs(self) -> bool:
        """Whether `every` counts epochs."""
        return False

    def make_times(self, length: RunLength) -> MaskTimes:
        """After which steps layers change, and by how much, in a training of this length."""
        return MaskTimes(
            end=length.step_at(self.until),
            every=self.every * (length.epoch if self.in_epochs else 1),
            start=length.step_at(self.start),
            initial_density=self.initial_density,
            density_decay=self.density_decay,
            total=length.total,
        )

    @property
    @override
    def kept_arguments(self) -> dict[str, Any]:
        # A beginning is over when a run resumes.
        return {**super().kept_arguments, "initial_density": self.initial_density}

    @override
    def find_groups(self, trainer: Trainer, module: nn.Module) -> list[SparseGroup]:
        groups = super().find_groups(trainer, module)
        if self.initial_density is None:
            return groups
        density = self.density
        if density is None:
            counts = [count_usable(group.weights, group.usable) for group in groups]
            final = min(
                group.k / max(count, 1) for group, count in zip(groups, counts, strict=True)
            )
        else:
            final = min(density.values()) if isinstance(density, dict) else density
        if self.initial_density < final:
            raise self.mistake(
                f"initial_density={self.initial_density} is below the final density {final:.3g}, "
                "to which the density falls; give a higher one, or none."
            )
        return groups

    @property
    @override
    def due(self) -> bool:
        return all(rule.due for rule in self._rules)

    @override
    def too_late(self, epochs: int) -> str | None:
        return self._not_due() if self._length.trained < self._final_step else None

    @override
    def missed(self) -> str | None:
        # A fit that went on with a longer training may have it all the same.
        denser = any(group.count()[0] > group.k for group in self._groups)
        return self._not_due() if denser else None

    def _not_due(self) -> str | None:
        """What is to come if the layers do not have their final density yet."""
        if self.due:
            return None
        return f"the layers have their final density only after step {max(self._final_step, 1)}"

    @property
    @override
    def still_counts(self) -> bool:
        return not self.due

    @property
    def _final_step(self) -> int:
        """The step after which the layers have their final density."""
        return max((rule.times.final_step for rule in self._rules if rule.times), default=0)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.find_begin(trainer)
        if self.has_times:
            batches = self.epoch_batches(trainer)
            self._length = RunLength.of(
                trainer, self, self.total_steps, self.in_epochs, self._begin, batches
            )
            if self._length.by_batches:
                self.count_on("total_steps and unit=step" if self.in_epochs else "total_steps")
        super().on_fit_start(trainer, pl_module)

    def _check_times(self) -> None:
        """Raise an error if an argument of the times is out of range."""
        check_counts(every=self.every, most=10**12, error=self.mistake)
        if self.total_steps is not None:
            check_counts(total_steps=self.total_steps, most=10**12, error=self.mistake)
        if not 0 <= self.start <= self.until <= 1:
            raise self.mistake(
                "start and until are shares of the training, with 0 <= start <= until <= 1, got "
                f"start={self.start} and until={self.until}."
            )
        if self.initial_density is not None and not 0 < self.initial_density <= 1:
            raise self.mistake(
                f"initial_density must be above 0 and at most 1, got {self.initial_density}."
            )
        falling = [name for name in DECAYS if name != "constant"]
        if self.density_decay not in falling:
            raise self.mistake(
                f"density_decay must be one of {', '.join(falling)}, got {self.density_decay}."
            )
