"""Budgeted Super Networks: sample architectures, and compute the gradient of their logits."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from wiring_lightning.functional.transfer import send


class Topology:
    """An acyclic graph whose edges are visited from the input to the output, level by level.

    Node 0 is the input and the last node is the output. A level holds the edges whose sources are
    equally far from the input. One level of all examples is one tensor operation. It works on the
    CPU: the tensors are small, and the host needs the result to choose the modules to run.

    Args:
        nodes: number of nodes, numbered such that every edge leads to a higher number.
        source: number of the node that each edge comes from.
        target: number of the node that each edge leads to.

    Raises:
        ValueError: if an edge does not lead to a higher number, or to no node at all.

    Example:
        >>> diamond = Topology(4, source=[0, 0, 1, 2], target=[1, 2, 3, 3])
        >>> outcomes = torch.tensor([[True, False, True, True]])
        >>> drawn = outcomes & diamond.asked(outcomes)  # the source of the last edge has no input
        >>> drawn.tolist(), diamond.live(drawn).tolist()
        ([[True, False, True, False]], [[True, False, True, False]])
    """

    def __init__(self, nodes: int, source: Sequence[int], target: Sequence[int]) -> None:
        if len(source) != len(target):
            raise ValueError(f"there are {len(source)} sources but {len(target)} targets.")
        for edge, (start, end) in enumerate(zip(source, target, strict=True)):
            if not 0 <= start < end < nodes:
                raise ValueError(
                    f"an edge must lead from a node to one with a higher number below {nodes}, but "
                    f"edge {edge} leads from {start} to {end}."
                )
        self.nodes = nodes
        self.edges = len(source)
        levels = _levels(nodes, source, target)
        order = [edge for level in levels for edge in level]
        self._sizes = [len(level) for level in levels]
        self._order = torch.tensor(order, dtype=torch.long, device="cpu")
        self._place = self._order.argsort()
        self._sources = _split([source[edge] for edge in order], self._sizes)
        self._targets = _split([target[edge] for edge in order], self._sizes)

    def asked(self, heads: Tensor) -> Tensor:
        """`[batch, edges]` edges that are sampled: those whose source is connected to the input.

        An edge is active where it is sampled and its outcome is true.

        Args:
            heads: `[batch, edges]` for each edge the outcome of its coin, drawn in any case; it
                counts only if the edge is sampled.
        """
        by_level = heads.t()[self._order].split(self._sizes)
        active_inputs = torch.zeros(self.nodes, len(heads), dtype=torch.int, device="cpu")
        active_inputs[0] = 1
        asked = []
        for outcome, source, target in zip(by_level, self._sources, self._targets, strict=True):
            asked.append(active_inputs[source] > 0)
            active_inputs.index_add_(0, target, (asked[-1] & outcome).int())
        return self._in_edge_order(asked, heads)

    def connected(self) -> Tensor:
        """`[1, edges]` the edges whose source is connected to the input if no edge is left out."""
        return self.asked(torch.ones(1, self.edges, dtype=torch.bool, device="cpu"))

    def live(self, drawn: Tensor) -> Tensor:
        """`[batch, edges]` drawn edges that are on a path to the output.

        Args:
            drawn: `[batch, edges]` the active edges, whose sources are connected to the input.
        """
        live = list(drawn.t()[self._order].split(self._sizes))
        live_outputs = torch.zeros(self.nodes, len(drawn), dtype=torch.int, device="cpu")
        live_outputs[-1] = 1
        for level in reversed(range(len(live))):
            live[level] = live[level] & (live_outputs[self._targets[level]] > 0)
            live_outputs.index_add_(0, self._sources[level], live[level].int())
        return self._in_edge_order(live, drawn)

    def _in_edge_order(self, levels: list[Tensor], like: Tensor) -> Tensor:
        """`[batch, edges]` from the edges by level."""
        if not levels:
            return torch.zeros_like(like)
        return torch.cat(levels)[self._place].t().contiguous()


def draw_edges(
    topology: Topology,
    logits: Tensor,
    learnable: Tensor,
    batch: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample one architecture per example (BSN, Section 3.2).

    Edges are visited from the input to the output. An edge whose source is connected to the input
    is active with probability `sigmoid(logit)`. Any other edge is inactive and is not sampled.

    Args:
        topology: the graph.
        logits: `[edges]` gamma before the logistic function, on the CPU.
        learnable: `[edges]` edges that are sampled; the others are active if their source is.
        batch: number of examples.
        generator: the random generator, on the CPU.

    Returns:
        Two masks `[batch, edges]`: the active edges, and the sampled edges, whose outcomes count in
        the probability of the architecture.

    Example:
        >>> chain = Topology(3, source=[0, 1], target=[1, 2])
        >>> logits, learnable = torch.tensor([0.0, 100.0]), torch.tensor([True, True])
        >>> generator = torch.Generator().manual_seed(0)
        >>> drawn, asked = draw_edges(chain, logits, learnable, 1000, generator)
        >>> bool((asked[:, 1] == drawn[:, 0]).all() and (drawn[:, 1] == drawn[:, 0]).all())
        True
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    probability = logits.detach().to(dtype).sigmoid().masked_fill(~learnable, 1.0)
    # Uniform in [0, 1), so that probabilities of 0 and 1 are exact.
    shape = batch, topology.edges
    outcomes = torch.rand(shape, dtype=dtype, device="cpu", generator=generator) < probability
    asked = topology.asked(outcomes)
    return asked & outcomes, asked & learnable


def most_probable_edges(topology: Topology, logits: Tensor, learnable: Tensor) -> Tensor:
    """The most probable architecture, `[edges]`, found edge by edge.

    An edge is active if its source is connected and its probability is above one half.

    Args:
        topology: the graph.
        logits: `[edges]` gamma before the logistic function, on the CPU.
        learnable: `[edges]` edges that are sampled; the others are active if their source is.

    Returns:
        A mask `[edges]` of the active edges.

    Example:
        >>> chain = Topology(3, source=[0, 1], target=[1, 2])
        >>> most_probable_edges(chain, torch.tensor([-1.0, 3.0]), torch.tensor([True, True]))
        tensor([False, False])
    """
    outcomes = ((logits.detach() > 0) | ~learnable).unsqueeze(0)
    return (topology.asked(outcomes) & outcomes).squeeze(0)


def log_probability(logits: Tensor, drawn: Tensor, asked: Tensor) -> Tensor:
    """Log-probability of sampled architectures, `log P(H | Gamma)` of BSN's Equation 7.

    Args:
        logits: `[edges]` gamma before the logistic function; the result is differentiable in it.
        drawn: `[batch, edges]` active edges.
        asked: `[batch, edges]` edges that were sampled.

    Returns:
        `[batch]`.

    Example:
        >>> both = torch.ones(1, 2, dtype=torch.bool)
        >>> log_probability(torch.zeros(2), both, both).exp()
        tensor([0.2500])
    """
    outcomes = functional.logsigmoid(torch.where(drawn, logits, -logits))
    return torch.where(asked, outcomes, 0.0).sum(-1)


def budgeted_objective(losses: Tensor, costs: Tensor, budget: float, penalty: float) -> Tensor:
    """Loss plus a penalty for cost above the budget (BSN, Equation 4).

    Args:
        losses: `[batch]` prediction loss of every example.
        costs: `[batch]` cost of the architecture that was sampled for it.
        budget: the cost up to which nothing is added.
        penalty: lambda, the penalty of a unit of cost above the budget.

    Returns:
        `[batch]`.

    Example:
        >>> losses, costs = torch.tensor([1.0, 1.0]), torch.tensor([80, 130])
        >>> budgeted_objective(losses, costs, budget=100.0, penalty=0.5)
        tensor([ 1., 16.])
    """
    # In float64, because float32 cannot represent large costs exactly.
    excess = (costs.double() - budget).clamp_min(0)
    dtype = torch.promote_types(losses.dtype, torch.float32)
    return losses + send((penalty * excess).to(dtype), losses.device)


def leave_one_out(objective: Tensor) -> Tensor:
    """Advantage of every example: its objective minus the mean of the *other* examples.

    Equation 7 of BSN subtracts the mean of the batch. That mean contains the example itself, so
    the expected gradient is too small by the factor 1 - 1 / batch. This advantage is the paper's
    difference divided by that factor. A single example has no baseline.

    Args:
        objective: `[batch]`, of independently sampled architectures.

    Returns:
        `[batch]`.

    Example:
        >>> leave_one_out(torch.tensor([1.0, 2.0, 6.0])).tolist()
        [-3.0, -1.5, 4.5]
    """
    count = len(objective)
    if count < 2:
        return objective
    return (objective - objective.mean()) * (count / (count - 1))


def policy_gradient(logits: Tensor, drawn: Tensor, asked: Tensor, advantage: Tensor) -> Tensor:
    """The first term of BSN's Equation 7 for the logits, averaged over the batch.

    The gradient of the log-probability is `1 - sigmoid(logit)` for a sampled edge that is active,
    `-sigmoid(logit)` for a sampled edge that is not, and 0 for an edge that was not sampled.

    Args:
        logits: `[edges]` gamma before the logistic function.
        drawn: `[batch, edges]` active edges.
        asked: `[batch, edges]` edges that were sampled.
        advantage: `[batch]` objective minus baseline of every example.

    Returns:
        `[edges]` gradient of the expected objective.

    Example:
        >>> drawn = torch.tensor([[True, False], [False, False]])
        >>> asked = torch.tensor([[True, True], [True, False]])
        >>> policy_gradient(torch.zeros(2), drawn, asked, torch.tensor([-1.0, 1.0]))
        tensor([-0.5000,  0.2500])
    """
    weights = advantage.to(logits.dtype) / len(advantage)
    active = weights @ (drawn & asked).to(logits.dtype)
    return active - logits.detach().sigmoid() * (weights @ asked.to(logits.dtype))


def _levels(nodes: int, source: Sequence[int], target: Sequence[int]) -> list[list[int]]:
    """Edges by the length of the longest path to their source."""
    sources_of: list[list[int]] = [[] for _ in range(nodes)]
    for start, end in zip(source, target, strict=True):
        sources_of[end].append(start)
    depth: list[int] = []
    for starts in sources_of:
        depth.append(max((depth[start] + 1 for start in starts), default=0))
    levels: list[list[int]] = [[] for _ in range(max(depth, default=0))]
    for edge, start in enumerate(source):
        levels[depth[start]].append(edge)
    return levels


def _split(numbers: list[int], sizes: list[int]) -> tuple[Tensor, ...]:
    return torch.tensor(numbers, dtype=torch.long, device="cpu").split(sizes)
