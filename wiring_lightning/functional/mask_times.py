"""When the masks of sparse weights change, and by how much."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Decay = Literal["constant", "linear", "cosine", "cubic"]
DECAYS = get_args(Decay)


def decay(name: Decay, progress: float) -> float:
    """A factor that falls from 1 to 0 while `progress` rises from 0 to 1; `constant` stays at 1.

    `cosine` is `(1 + cos(pi p)) / 2` (RigL, Equation 1) and `cubic` is `(1 - p)^3` (gradual
    pruning, Equation 1).

    Raises:
        ValueError: if there is no such decay.

    Example:
        >>> [decay(name, 0.5) for name in ("constant", "linear", "cosine", "cubic")]
        [1.0, 0.5, 0.5, 0.125]
    """
    progress = min(max(progress, 0.0), 1.0)
    if name == "constant":
        return 1.0
    if name == "linear":
        return 1 - progress
    if name == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if name == "cubic":
        return (1 - progress) ** 3
    raise ValueError(f"there is no decay {name}; there are {', '.join(DECAYS)}.")


@dataclass(frozen=True)
class MaskTimes:
    """After which optimizer steps masks change, how many weights there are, and how many move.

    Masks change after the steps `start + every`, `start + 2 every`, ... up to `end`. Steps count
    from 1. If `start` is `end`, a density that falls does so at once, after that step. Derive from
    this class for other times and numbers, as `AlternatingTimes` does.

    Args:
        end: the last step after which masks can change; 0 if they never do.
        every: number of steps from one change to the next.
        start: the step from which the changes count.
        fraction: the share of the present weights that is dropped and grown in a change.
        fraction_decay: how that share falls from `start` to `end`.
        initial_density: density of the first mask; the final one if not given.
        density_decay: how the density goes from the first to the final one.
        total: the last step of the training, if it is known. A change after it moves nothing,
            because what comes could not learn any more.

    Example:
        >>> times = MaskTimes(end=300, every=100, fraction=0.3, fraction_decay="cosine")
        >>> [step for step in range(500) if times.changes(step)]
        [100, 200, 300]
        >>> [times.moved(step, edges=1000) for step in (100, 200, 300)]
        [225, 75, 0]
        >>> pruning = MaskTimes(end=300, every=100, initial_density=1.0)
        >>> [pruning.edges(step, final=100, count=1000) for step in (0, 100, 200, 300)]
        [1000, 367, 133, 100]
    """

    end: int
    every: int = 100
    start: int = 0
    fraction: float = 0.0
    fraction_decay: Decay = "constant"
    initial_density: float | None = None
    density_decay: Decay = "cubic"
    total: int | None = None

    @property
    def final_step(self) -> int:
        """The step after which masks have their final number of weights."""
        return 0 if self.initial_density is None else self._last

    def changes(self, step: int) -> bool:
        """Whether masks change after this step."""
        if self.start == self.end and self.initial_density is not None:
            return step == self.end > 0
        return self.start < step <= self.end and (step - self.start) % self._period == 0

    def edges(self, step: int, final: int, count: int) -> int:
        """How many weights the masks have after this step.

        Args:
            step: number of optimizer steps so far.
            final: how many they have in the end.
            count: how many there are in all.
        """
        if self.initial_density is None or step >= self.final_step:
            return final
        first = max(final, round(self.initial_density * count))
        # The present number is that of the last change.
        changes = max(step - self.start, 0) // self._period
        progress = changes * self._period / max(self._last - self.start, 1)
        return final + round((first - final) * decay(self.density_decay, progress))

    def edges_after(self, step: int, present: int, final: int, count: int) -> int:
        """How many weights the masks have after this step, if they had `present` before it.

        That is `edges`, but the number rises only where `edges` itself does. So what is gone stays
        gone in a training that goes on with other times, such as a longer one.

        Args:
            step: as for `edges`.
            present: how many weights there were before.
            final: as for `edges`.
            count: as for `edges`.
        """
        after = self.edges(step, final, count)
        rises = after > present and after > self.edges(step - 1, final, count)
        return after if rises else min(after, present)

    def moved(self, step: int, edges: int) -> int:
        """How many of the present weights are dropped, and replaced by others, after this step."""
        if self.end <= self.start or step > self.end or step == self.total:
            return 0
        progress = (step - self.start) / (self.end - self.start)
        return round(self.fraction * decay(self.fraction_decay, progress) * edges)

    def moves_any(self, final: int, count: int, until: int, since: int = 0) -> bool:
        """Whether a change after the step `since`, up to `until`, moves a weight.

        Args:
            final: as for `edges`.
            count: as for `edges`.
            until: the last step to look at.
            since: the step before the first one.
        """
        for step in filter(self.changes, range(since + 1, min(until, self.end) + 1)):
            before, after = (self.edges(t, final, count) for t in (step - 1, step))
            if self.moved(step, min(before, after)):
                return True
        return False

    @property
    def _period(self) -> int:
        """Steps from one change to the next; at least one change is made."""
        return max(1, min(self.every, self.end - self.start))

    @property
    def _last(self) -> int:
        """The step of the last change."""
        return self.start + (self.end - self.start) // self._period * self._period


@dataclass(frozen=True)
class AlternatingTimes(MaskTimes):
    """Sparse and dense phases by turns (AC/DC).

    The network is dense up to the step `start`. Then sparse and dense phases of `every` steps
    follow each other, sparse ones first. After the step `end` it is sparse for good. The density of
    dense phases is `initial_density`.

    Example:
        >>> times = AlternatingTimes(start=10, every=10, end=35, initial_density=1.0)
        >>> [step for step in range(50) if times.changes(step)]
        [10, 20, 30, 35]
        >>> [times.edges(step, final=1, count=9) for step in (0, 10, 20, 30, 35)]
        [9, 1, 9, 1, 1]
    """

    @property
    def final_step(self) -> int:
        """The step after which the network is sparse for good."""
        return self.end

    def changes(self, step: int) -> bool:
        """Whether a phase begins after this step."""
        if not self.start <= step <= self.end:
            return False
        return step == self.end or (step - self.start) % self.every == 0

    def edges(self, step: int, final: int, count: int) -> int:
        """How many weights the present phase has."""
        phase = (step - self.start) // self.every  # below 0 before the first one
        if step >= self.end or (phase >= 0 and phase % 2 == 0):
            return final
        return max(final, round((self.initial_density or 1.0) * count))
