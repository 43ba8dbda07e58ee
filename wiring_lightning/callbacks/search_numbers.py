"""Statistics of a search that are logged after each epoch."""

import math
from dataclasses import dataclass

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from wiring_lightning.functional import draw_edges
from wiring_lightning.nn import BernoulliGate

_DRAWS = 1000
# Probabilities beyond these count as decided.
_NEAR_0, _NEAR_1 = 0.05, 0.95


@dataclass
class Sampled:
    """Costs of the architectures that were sampled in an epoch."""

    count: int = 0
    cost: float = 0.0
    within: int = 0

    def add(self, prices: Tensor, budget: float) -> None:
        """Add the costs of a batch of architectures, which are on the CPU."""
        self.count += len(prices)
        self.cost += float(prices.double().sum())
        self.within += int((prices <= budget).sum())

    def on_all_ranks(self, trainer: Trainer) -> "Sampled":
        """The sums over the ranks; one that has sampled nothing takes part, too."""
        if trainer.world_size == 1:
            return self
        own = torch.tensor([self.count, self.cost, self.within], dtype=torch.float64)
        summed = trainer.strategy.reduce(own.to(trainer.strategy.root_device), reduce_op="sum")
        count, cost, within = summed.tolist()
        return Sampled(int(count), cost, int(within))

    def means(self) -> dict[str, float]:
        """Mean cost, and share within the budget; empty if no architecture was sampled."""
        if not self.count:
            return {}
        return {"cost_sampled": self.cost / self.count, "within_budget": self.within / self.count}


@torch.no_grad()
def gate_numbers(gate: BernoulliGate) -> dict[str, float]:
    """Entropy and decided edges of a gate; empty if it draws no edge.

    `entropy_bits` is the entropy of the sampled architecture. By the chain rule it is the sum over
    all edges of the edge's own entropy times the probability that the edge is sampled, which is
    estimated from samples. `entropy` is the mean of these over the edges that are sampled: 1 if
    every edge has probability 1/2.

    Example:
        >>> gate = BernoulliGate(nodes=2, source=[0, 0], target=[1, 1], initial=0.0)
        >>> gate_numbers(gate)
        {'entropy': 1.0, 'entropy_bits': 2.0, 'near_0': 0.0, 'near_1': 0.0}
    """
    logits, learnable = gate.logits.cpu(), gate.learnable_edges.cpu()
    if not learnable.any():
        return {}
    generator = torch.Generator().manual_seed(0)
    _, drawn = draw_edges(gate.topology, logits, learnable, _DRAWS, generator)
    probability = logits[learnable].double().sigmoid()
    nats = -torch.xlogy(probability, probability) - torch.xlogy(1 - probability, 1 - probability)
    asked = drawn[:, learnable].double().mean(0)  # how often an architecture draws each edge
    bits = float(asked @ nats) / math.log(2)
    return {
        "entropy": bits / max(float(asked.sum()), 1 / _DRAWS),
        "entropy_bits": bits,
        "near_0": float((probability < _NEAR_0).double().mean()),
        "near_1": float((probability > _NEAR_1).double().mean()),
    }
