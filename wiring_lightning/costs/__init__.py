"""What a wiring costs. Every cost takes a `Wiring` and prices its live part, as after pruning.

A wiring that holds a batch of sampled architectures gets one price per sample. Anything that does
the same is a cost: a function of your own, or a `ConfiguredCost`.
"""

from wiring_lightning.costs.additive import multiply_adds, parameters
from wiring_lightning.costs.configured import ConfiguredCost
from wiring_lightning.costs.measured import Latency, latency
from wiring_lightning.costs.named import Cost, CostName, named_cost
from wiring_lightning.costs.noisy import NoisyCost
from wiring_lightning.costs.scheduling import Order, SequentialSteps, sequential_steps

__all__ = [
    "ConfiguredCost",
    "Cost",
    "CostName",
    "Latency",
    "NoisyCost",
    "Order",
    "SequentialSteps",
    "latency",
    "multiply_adds",
    "named_cost",
    "parameters",
    "sequential_steps",
]
