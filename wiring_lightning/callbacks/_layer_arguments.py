"""Which layers are sparse, and how sparse, as the arguments say when a fit starts."""

from collections.abc import Sequence

from typing_extensions import override

from wiring_lightning.callbacks._edge_counts import Density, EdgeCounts
from wiring_lightning.callbacks._weight_choice import WeightChoice, as_patterns
from wiring_lightning.callbacks.wiring_callback import WiringCallback
from wiring_lightning.functional.densities import Distribution


class LayerArguments(WiringCallback):
    """A learner whose arguments choose layers; one that is set between two fits counts in the next.

    The attributes are the arguments of `SparseLayers`. So nothing that follows from them is kept.
    """

    density: Density | None
    edges: int | None
    layers: Sequence[str] | None
    first_dense: bool
    groups: dict[str, list[str]]
    exclude: Sequence[str]
    distribution: Distribution
    last_dense: bool
    min_edges: int
    vectors: Sequence[str]

    @property
    @override
    def state_key(self) -> str:
        """Includes the choice of layers, so a trainer can have several callbacks of one class."""
        layers, exclude = self._patterns, as_patterns(self.exclude)
        if layers is None and not self.groups and not exclude:
            return super().state_key
        return self._generate_state_key(layers=layers, groups=self.groups, exclude=exclude)

    def edge_counts(self) -> EdgeCounts:
        """How sparse the layers are; an error if an argument is out of range."""
        return EdgeCounts(self.density, self.edges, self.distribution, self.min_edges, self.mistake)

    def weight_choice(self) -> WeightChoice:
        """Which weights are sparse; an error if arguments exclude each other."""
        return WeightChoice(
            self._patterns,
            as_patterns(self.exclude),
            self.first_dense,
            {name: list(as_patterns(own)) for name, own in self.groups.items()},
            self.mistake,
            self.last_dense,
            as_patterns(self.vectors),
            together=self.distribution == "global",
        )

    @property
    def _patterns(self) -> tuple[str, ...] | None:
        if self.layers is not None:
            return as_patterns(self.layers)
        return tuple(self.density) if isinstance(self.density, dict) else None
