"""Budgeted Super Networks: architectures drawn at random, and how their probabilities learn."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


class Topology:
    """A graph without cycles whose edges are visited from the input to the output, many at a time.

    Node 0 is the input and the last node is the output. Edges whose sources are equally far from
    the input form a level; a level of all examples is one step, so a draw takes as many steps as
    the longest path has edges. Draws are small and the host has to know them, so this works on the
    CPU.

    Args:
        nodes: number of nodes, numbered such that every edge leads to a higher number.
        source: number of the node that each edge comes from.
        target: number of the node that each edge leads to.

    Raises:
        ValueError: if an edge does not lead to a higher number, or to no node at all.

    Example:
        >>> diamond = Topology(4, source=[0, 0, 1, 2], target=[1, 2, 3, 3])
        >>> heads = torch.tensor([[True, False, True, True]])  # what the coins would show
        >>> drawn = heads & diamond.asked(heads)  # nobody asks the coin of the last edge
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
        """Which edges are drawn at all: those whose source is connected to the input.

        Args:
            heads: `[batch, edges]` which edges would be there if their sources were connected.

        Returns:
            `[batch, edges]`; an edge is there if it is asked for and its coin shows heads.
        """
        coins = heads.t()[self._order].split(self._sizes)
        ways = torch.zeros(self.nodes, len(heads), dtype=torch.int, device="cpu")
        ways[0] = 1
        asked = []
        for coin, source, target in zip(coins, self._sources, self._targets, strict=True):
            asked.append(ways[source] > 0)
            ways.index_add_(0, target, (asked[-1] & coin).int())
        return self._gathered(asked, heads)

    def live(self, drawn: Tensor) -> Tensor:
        """Which drawn edges lie on a path to the output.

        Args:
            drawn: `[batch, edges]` edges whose sources are connected to the input.

        Returns:
            `[batch, edges]`.
        """
        on = drawn.t()[self._order].split(self._sizes)
        ways = torch.zeros(self.nodes, len(drawn), dtype=torch.int, device="cpu")
        ways[-1] = 1
        live = list(on)
        for level in reversed(range(len(on))):
            live[level] = on[level] & (ways[self._targets[level]] > 0)
            ways.index_add_(0, self._sources[level], live[level].int())
        return self._gathered(live, drawn)

    def _gathered(self, levels: list[Tensor], like: Tensor) -> Tensor:
        """Edges in their own order again, examples first."""
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
    """Draw one architecture per example (BSN, Section 3.2).

    From the input to the output: if the source of an edge is connected to the input by the edges
    drawn so far, the edge is there with probability `sigmoid(logit)`; otherwise it is not there and
    nothing is drawn.

    Args:
        topology: the graph.
        logits: `[edges]` gamma before the logistic function, on the CPU.
        learnable: `[edges]` edges that are drawn; the others are there if their source is.
        batch: number of examples.
        generator: the source of randomness, on the CPU.

    Returns:
        Two `[batch, edges]`: edges that are there, and edges whose draw counts in the probability.

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
    heads = torch.rand(shape, dtype=dtype, device="cpu", generator=generator) < probability
    asked = topology.asked(heads)
    return asked & heads, asked & learnable


def most_probable_edges(topology: Topology, logits: Tensor, learnable: Tensor) -> Tensor:
    """The likelier outcome of every draw: `[edges]`, in the order in which edges are drawn.

    An edge is there if its source is connected and its probability is above one half.

    Example:
        >>> chain = Topology(3, source=[0, 1], target=[1, 2])
        >>> most_probable_edges(chain, torch.tensor([-1.0, 3.0]), torch.tensor([True, True]))
        tensor([False, False])
    """
    heads = ((logits.detach() > 0) | ~learnable).unsqueeze(0)
    return (topology.asked(heads) & heads).squeeze(0)


def log_probability(logits: Tensor, drawn: Tensor, asked: Tensor) -> Tensor:
    """Log-probability of drawn architectures, `log P(H | Gamma)` of BSN's Equation 7.

    Args:
        logits: `[edges]` gamma before the logistic function; the result is differentiable in it.
        drawn: `[batch, edges]` edges that are there.
        asked: `[batch, edges]` edges that were drawn: the others had no choice.

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
    """What a drawn architecture has to answer for (BSN, Equation 4).

    Args:
        losses: `[batch]` prediction loss of every example.
        costs: `[batch]` cost of the architecture that was drawn for it.
        budget: the cost up to which nothing is added.
        penalty: lambda, what a unit of cost above the budget adds.

    Returns:
        `[batch]`.

    Example:
        >>> losses, costs = torch.tensor([1.0, 1.0]), torch.tensor([80, 130])
        >>> budgeted_objective(losses, costs, budget=100.0, penalty=0.5)
        tensor([ 1., 16.])
    """
    # The excess is taken before the cast: large costs are no float32 numbers.
    excess = (costs.double() - budget).clamp_min(0)
    dtype = torch.promote_types(losses.dtype, torch.float32)
    return losses + (penalty * excess).to(losses.device, dtype)


def leave_one_out(objective: Tensor) -> Tensor:
    """Advantage of every example: its objective minus the mean of the *other* examples.

    Equation 7 of BSN subtracts the mean of the batch. That mean contains the example itself, which
    shrinks the gradient, in expectation, by 1 - 1 / batch. Without the example it does not: this is
    batch / (batch - 1) times the paper's difference. A single example has no baseline.

    Args:
        objective: `[batch]`, of independently drawn architectures.

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

    The log-probability of a drawn edge has the gradient `1 - sigmoid(logit)`, that of an edge which
    was asked for and is not there `-sigmoid(logit)`, and an edge that was not asked for has none.

    Args:
        logits: `[edges]` gamma before the logistic function.
        drawn: `[batch, edges]` edges that are there.
        asked: `[batch, edges]` edges that were drawn: the others had no choice.
        advantage: `[batch]` what every example's draw is worth; positive is bad.

    Returns:
        `[edges]` gradient of the expected objective.

    Example:
        >>> drawn = torch.tensor([[True, False], [False, False]])
        >>> asked = torch.tensor([[True, True], [True, False]])
        >>> policy_gradient(torch.zeros(2), drawn, asked, torch.tensor([-1.0, 1.0]))
        tensor([-0.5000,  0.2500])
    """
    weights = advantage.to(logits.dtype) / len(advantage)
    came = weights @ (drawn & asked).to(logits.dtype)
    return came - logits.detach().sigmoid() * (weights @ asked.to(logits.dtype))


def _levels(nodes: int, source: Sequence[int], target: Sequence[int]) -> list[list[int]]:
    """Edges by the distance of their source from the nodes without inputs, on the longest path."""
    into: list[list[int]] = [[] for _ in range(nodes)]
    for start, end in zip(source, target, strict=True):
        into[end].append(start)
    depth: list[int] = []
    for starts in into:
        depth.append(max((depth[start] + 1 for start in starts), default=0))
    levels: list[list[int]] = [[] for _ in range(max(depth, default=0))]
    for edge, start in enumerate(source):
        levels[depth[start]].append(edge)
    return levels


def _split(numbers: list[int], sizes: list[int]) -> tuple[Tensor, ...]:
    return torch.tensor(numbers, dtype=torch.long, device="cpu").split(sizes)
