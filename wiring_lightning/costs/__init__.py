"""Costs of a wiring. A cost is a function from a `Wiring` to the cost of its live part.

A wiring with a batch of sampled architectures gets one cost per sample. You can use a function of
your own, or a `ConfiguredCost`.

Networks without a wiring have their weights counted: `layer_costs`, `sparse_multiply_adds`.
"""

from wiring_lightning.costs.additive import multiply_adds, parameters
from wiring_lightning.costs.by_weight import (
    SparseCost as SparseCost,
    multiply_adds_by_weight,
    sparse_multiply_adds,
)
from wiring_lightning.costs.configured import ConfiguredCost
from wiring_lightning.costs.layers import LayerCost, layer_costs
from wiring_lightning.costs.measured import Latency, latency
from wiring_lightning.costs.named import Cost, CostName, named_cost
from wiring_lightning.costs.noisy import NoisyCost
from wiring_lightning.costs.scheduling import Order, SequentialSteps, sequential_steps

__all__ = [
    "ConfiguredCost",
    "Cost",
    "CostName",
    "Latency",
    "LayerCost",
    "NoisyCost",
    "Order",
    "SequentialSteps",
    "latency",
    "layer_costs",
    "multiply_adds",
    "multiply_adds_by_weight",
    "named_cost",
    "parameters",
    "sequential_steps",
    "sparse_multiply_adds",
]
