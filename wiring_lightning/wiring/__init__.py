"""A network as a graph: nodes and edges as columns, and the builder of them."""

from wiring_lightning.wiring.builder import Choice, WiringBuilder, make_wiring
from wiring_lightning.wiring.counting import (
    StoredLayer as StoredLayer,
    count_by_source,
    count_multiply_adds,
    count_parameters,
    plain_layer as plain_layer,
    plain_layers as plain_layers,
)
from wiring_lightning.wiring.protocols import Planted, Priced, SuperNetwork, Wired, find_wired
from wiring_lightning.wiring.snapshot import Nodes, Wiring

__all__ = [
    "Choice",
    "Nodes",
    "Planted",
    "Priced",
    "SuperNetwork",
    "Wired",
    "Wiring",
    "WiringBuilder",
    "count_by_source",
    "count_multiply_adds",
    "count_parameters",
    "find_wired",
    "make_wiring",
]
