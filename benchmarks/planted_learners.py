"""Every learner of the package, and the controls, on one interface for planted wirings."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.planted_networks import (
    DrawnEdges,
    SparseLayer,
    Task,
    WeightedEdges,
    fixed_gate,
    random_wiring,
)
from wiring_lightning.functional import budgeted_objective, normalize_scores
from wiring_lightning.nn import Gate
from wiring_lightning.optim import EdgeSet, GateSGD, Reinforce, StraightThrough

PENALTY = 0.1  # of BSN, for an edge above the budget


class Learner:
    """Edges of a student that stay as they are; a subclass learns them.

    Args:
        edges: the layer between codes and targets.
    """

    def __init__(self, edges: nn.Module) -> None:
        self.edges = edges

    def start(self, optimizer: Optimizer, steps: int) -> None:
        """Begin; `optimizer` has all weights but not the scores, and learns for `steps` steps."""

    def step(self, losses: Tensor) -> None:
        """Learn after a step of the optimizer, from the loss `[batch]` of each example."""

    def freeze(self) -> None:
        """Fix the edges."""

    def found(self) -> Tensor:
        """`[targets, sources]` the edges of evaluation mode."""
        edges: Tensor = self.edges.best if isinstance(self.edges, Gate) else self.edges.found()  # type: ignore[operator]
        return edges


class Gates(Learner):
    """MaskConnect and its variants; `forget` freezes to a random wiring instead of the learned."""

    def __init__(self, task: Task, seed: int, forget: bool = False, **options: Any) -> None:
        super().__init__(Gate(*task.wiring.shape, task.fan_in))
        self.seed, self.forget, self.options = seed, forget, options

    def start(self, optimizer: Optimizer, steps: int) -> None:  # noqa: ARG002
        """Make the optimizer of the scores."""
        assert isinstance(self.edges, Gate)
        if self.options.get("explore") == "swap":
            self.options["anneal_steps"] = steps
        self.rule = GateSGD([self.edges], seed=self.seed, **self.options)

    def step(self, losses: Tensor) -> None:  # noqa: ARG002
        """Update the scores, and draw."""
        self.rule.step()
        self.rule.zero_grad()

    def freeze(self) -> None:
        """Choose the wiring for good."""
        if self.forget:
            assert isinstance(self.edges, Gate)
            scores = self.edges.scores
            with torch.no_grad():
                scores.copy_(normalize_scores(torch.rand_like(scores)))
        self.rule.freeze()


class Weights(Learner):
    """DNW: the largest weights are the edges."""

    def start(self, optimizer: Optimizer, steps: int) -> None:  # noqa: ARG002
        """Hand the sparse weights to the rule."""
        if isinstance(self.edges, SparseLayer):
            sparse = EdgeSet([self.edges.weight], self.edges.kept)
        else:
            assert isinstance(self.edges, WeightedEdges)
            graph = self.edges.graph
            sparse = EdgeSet([graph.weight], graph.edges, [graph.usable], [graph.take_absent()])
        self.rule = StraightThrough(optimizer, [sparse])

    def freeze(self) -> None:
        """Fix the edges; their weights learn on."""
        self.rule.freeze()


class Draws(Learner):
    """BSN: edges that are drawn for each example, under a budget of T * K edges."""

    def __init__(self, task: Task, seed: int, lr: float) -> None:
        self.drawn = DrawnEdges(*task.wiring.shape)
        super().__init__(self.drawn)
        self.lr, self.budget = lr, float(task.wiring.sum())
        self.drawn.gate.seed(seed)

    def start(self, optimizer: Optimizer, steps: int) -> None:  # noqa: ARG002
        """Make the optimizer of the probabilities."""
        self.rule = Reinforce([self.drawn.gate], lr=self.lr)

    def step(self, losses: Tensor) -> None:
        """Follow the policy gradient."""
        objective = budgeted_objective(losses, self.drawn.cost, self.budget, PENALTY)
        self.rule.observe(objective)
        self.rule.step()
        self.rule.zero_grad()

    def freeze(self) -> None:
        """Fix the most probable edges."""
        self.rule.freeze()


Make = Callable[[Task, int], Learner]


def _fixed(cover: bool) -> Make:
    def make(task: Task, seed: int) -> Learner:
        generator = torch.Generator().manual_seed(1000 + seed)
        return Learner(fixed_gate(random_wiring(*task.wiring.shape, task.fan_in, generator, cover)))

    return make


def _gates(**options: Any) -> Make:
    return lambda task, seed: Gates(task, seed, **options)


LEARNERS: dict[str, Make] = {
    "random": _fixed(cover=False),
    "random, all sources read": _fixed(cover=True),
    "planted": lambda task, _seed: Learner(fixed_gate(task.wiring)),
    "drawn uniformly, then random": _gates(lr=0.0, forget=True),
    "MaskConnect": _gates(),
    "MaskConnect, lr 0.05": _gates(lr=0.05),
    "MaskConnect, center": _gates(center=True),
    "MaskConnect, project": _gates(update="project"),
    "MaskConnect, project, draw_every 3": _gates(update="project", draw_every=3),
    "MaskConnect, swap, lr 1, draw_every 25": _gates(explore="swap", lr=1.0, draw_every=25),
    "MaskConnect, balance, center": _gates(balance=True, center=True),
    "DNW on weights": lambda task, _seed: Weights(SparseLayer(*task.wiring.shape, task.fan_in)),
    "DNW on edges": lambda task, _seed: Weights(WeightedEdges(*task.wiring.shape, task.fan_in)),
    "BSN": lambda task, seed: Draws(task, seed, lr=1.0),
}
CONTROLS = tuple(LEARNERS)[:4]
