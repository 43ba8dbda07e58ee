"""How many weights each sparse layer or group keeps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from wiring_lightning._checks import check_counts, listed
from wiring_lightning.callbacks._kept_arguments import Before
from wiring_lightning.callbacks._weight_choice import SparseGroup, SparseWeight
from wiring_lightning.functional.densities import (
    DISTRIBUTIONS,
    Distribution,
    erdos_renyi_densities,
    round_counts,
)
from wiring_lightning.optim import count_usable

# One density for all, or one by pattern.
Density = float | dict[str, float]


@dataclass(frozen=True)
class EdgeCounts:
    """The user's choice of how sparse layers are.

    Args:
        density: share of the weights to keep, or shares by pattern.
        edges: number of weights to keep in every layer or group, instead of a density.
        distribution: how a density is shared out among layers.
        min_edges: how many weights a layer keeps at least, if it has as many.
        fail: makes an exception from a message.

    Raises:
        Exception: of `fail`, if a value is out of range, or two of them exclude each other.
    """

    density: Density | None
    edges: int | None
    distribution: Distribution
    min_edges: int
    fail: Callable[[str], Exception]

    def __post_init__(self) -> None:
        if self.density is not None and self.edges is not None:
            raise self.fail("give a density or a number of edges, not both.")
        by_pattern = self.density if isinstance(self.density, dict) else {"": self.density}
        if not by_pattern:
            raise self.fail("density has no pattern; give a number, or a density by pattern.")
        for pattern, density in by_pattern.items():
            if density is not None and not 0 < density <= 1:
                of = f" of {pattern}" if pattern else ""
                raise self.fail(f"density{of} must be above 0 and at most 1, got {density}.")
        if self.edges is not None:
            check_counts(edges=self.edges, most=10**12, error=self.fail)
        check_counts(least=0, min_edges=self.min_edges, most=10**12, error=self.fail)
        if self.distribution not in DISTRIBUTIONS:
            raise self.fail(
                f"there is no distribution {self.distribution}; there are "
                f"{', '.join(DISTRIBUTIONS)}."
            )
        if self.distribution in ("erdos_renyi", "erk") and not isinstance(
            self.density, float | int
        ):
            raise self.fail(f"distribution={self.distribution} shares out one density: give it.")
        if self.distribution == "global" and isinstance(self.density, dict):
            raise self.fail(
                "distribution=global has one density for all layers; give a number, not a density "
                "by pattern."
            )

    def group(self, members_by_name: Mapping[str, Sequence[SparseWeight]]) -> list[SparseGroup]:
        """Groups with their numbers of edges.

        Args:
            members_by_name: for each group its weights.

        Raises:
            Exception: of `fail`, if a group cannot have the number that is asked for.
        """
        found = [
            SparseGroup(name, members, k=0, least=self.min_edges)
            for name, members in members_by_name.items()
        ]
        counts = [count_usable(group.weights, group.usable) for group in found]
        numbers = self._numbers(found, counts)
        for group, k, count in zip(found, numbers, counts, strict=True):
            least = sum(min(self.min_edges, weight.numel()) for weight in group.weights)
            if k > count:
                raise self.fail(
                    f"{k} edges were asked for in {group.name}, but it has only {count} weights."
                )
            if len(group.members) > 1 and k < least:
                raise self.fail(
                    f"the layers of {group.name} share {k} edges, but min_edges asks for {least}; "
                    "give a higher density, or a smaller min_edges."
                )
        return [replace(group, k=k) for group, k in zip(found, numbers, strict=True)]

    def check_saved(
        self, saved: Mapping[str, int] | None, groups: Sequence[SparseGroup], before: Before
    ) -> None:
        """Raise an error if what a run goes on with, of which these are the numbers, had others."""
        wanted = {group.name: group.k for group in groups}
        if saved is not None and saved != wanted:
            names = [name for name in {**saved, **wanted} if saved.get(name) != wanted.get(name)]
            raise self.fail(
                f"{before.had} {saved.get(names[0], 0):,} edges in {names[0]}, but "
                f"{wanted.get(names[0], 0):,} are asked for now; {before.go_on} the same choice of "
                f"layers and edges, of which the same learn{before.otherwise}."
            )

    def _numbers(self, groups: Sequence[SparseGroup], counts: Sequence[int]) -> list[int]:
        """The number of edges of every group, of which `counts` could be one."""
        if self.edges is not None:
            return [self.edges] * len(groups)
        if self.density is None:
            return [self._own_number(group) for group in groups]
        members = [member for group in groups for member in group.members]
        shares = iter(self._shares(members))
        wanted = [
            sum(next(shares) * count_usable([m.parameter], [m.usable]) for m in group.members)
            for group in groups
        ]
        exact = self.distribution in ("erdos_renyi", "erk")
        means = [one / max(count, 1) for one, count in zip(wanted, counts, strict=True)]
        return round_counts(means, counts, max(1, self.min_edges), exact)

    def _shares(self, members: Sequence[SparseWeight]) -> list[float]:
        """The density of every weight, before rounding."""
        if isinstance(self.density, dict):
            return [self._share_by_pattern(member, self.density) for member in members]
        assert self.density is not None
        if self.distribution in ("erdos_renyi", "erk"):
            shapes = [member.parameter.shape for member in members]
            return erdos_renyi_densities(shapes, self.density, self.distribution == "erk")
        return [self.density] * len(members)

    def _share_by_pattern(self, member: SparseWeight, densities: Mapping[str, float]) -> float:
        for pattern, density in densities.items():
            if member.matches(pattern):
                return density
        raise self.fail(
            f"no pattern in `density` matches {member.name}; add one (there are "
            f"{listed(list(densities))}), or exclude it."
        )

    def _own_number(self, group: SparseGroup) -> int:
        """The number of edges of a group of graphs."""
        if len(group.graphs) < len(group.members):
            raise self.fail(
                f"the number of edges of {group.name} is not known; give either a density or a "
                "number of edges."
            )
        return sum(graph.edges for graph in group.graphs)
