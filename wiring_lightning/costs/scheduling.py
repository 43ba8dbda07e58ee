"""The distributed cost: time steps when several nodes run side by side (BSN, Section 4.3)."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, overload

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from wiring_lightning._checks import check_counts
from wiring_lightning.costs.configured import ConfiguredCost
from wiring_lightning.wiring import Wiring

Order = Literal["critical_path", "node", "reverse_postorder"]

# Maximum number of cached costs.
_LIMIT = 200_000


@overload
def sequential_steps(
    wiring: Wiring, machines: int = 1, order: Order = "critical_path"
) -> Tensor: ...


@overload
def sequential_steps(
    wiring: None = None, machines: int = 1, order: Order = "critical_path"
) -> "SequentialSteps": ...


def sequential_steps(
    wiring: Wiring | None = None, machines: int = 1, order: Order = "critical_path"
) -> "Tensor | SequentialSteps":
    """Count time steps when up to `machines` nodes run side by side (greedy list scheduling).

    In each step, nodes whose sources are done start until all machines are in use. Nodes that take
    no step need no machine, but their targets start in the next step.

    Greedy scheduling is not optimal: for some rare graphs one more machine needs one more step.

    Args:
        wiring: one architecture, or a batch of them. Without it the result is a cost, a
            `SequentialSteps`.
        machines: number of nodes that can run at the same time.
        order: which nodes start first: those with the longest path to the output
            (`"critical_path"`), those that come first in the wiring (`"node"`), or those that come
            last in a depth-first post-order (`"reverse_postorder"`, which gives the numbers of the
            paper). It makes no difference for one machine.

    Raises:
        ValueError: if `machines` is below 1, there is no such order, a node takes more than one
            step, or live nodes form a cycle.

    Example:
        >>> from wiring_lightning.wiring import make_wiring
        >>> diamond = make_wiring(["in", "left", "right", "out"], source=[0, 0, 1, 2],
        ...                       target=[1, 2, 3, 3], active=[True] * 4)
        >>> [int(sequential_steps(diamond, machines=n)) for n in (1, 2)]
        [4, 3]
        >>> sequential_steps(machines=2)(diamond)
        tensor(3)
    """
    cost = SequentialSteps(machines, order)
    return cost if wiring is None else cost(wiring)


class SequentialSteps(ConfiguredCost):
    """`sequential_steps` as a cost with settings, which caches the result of each architecture.

    Args:
        machines: number of nodes that can run at the same time.
        order: which nodes start first, see `sequential_steps`.
    """

    def __init__(self, machines: int = 1, order: Order = "critical_path") -> None:
        check_counts(machines=machines)
        if order not in _RANKS:
            raise ValueError(f"order must be one of {', '.join(_RANKS)}, got {order!r}.")
        self.machines = machines
        self.order = order
        # By the settings, and the live nodes and edges of an architecture.
        self._known: dict[tuple[int, Order, bytes], int] = {}
        self._candidates: tuple[Tensor, Tensor, Tensor] | None = None

    @override
    def __call__(self, wiring: Wiring) -> Tensor:
        """The steps of one architecture, or of each in a batch."""
        steps = _steps_of_nodes(wiring)
        source, target = wiring.source.numpy(), wiring.target.numpy()
        self._forget_other_candidates(wiring)
        alive = wiring.live_nodes.reshape(-1, len(wiring.nodes)).numpy()
        edges = wiring.live_edges.reshape(-1, len(wiring.source)).numpy()
        prices = []
        packed = numpy.packbits(numpy.hstack([alive, edges]), axis=1)
        for own_alive, own_edges, bits in zip(alive, edges, packed, strict=True):
            key = self.machines, self.order, bits.tobytes()
            if key not in self._known:
                graph = _LiveGraph(own_alive, source[own_edges], target[own_edges], steps)
                self._known[key] = graph.schedule(self.machines, _RANKS[self.order](graph))
            prices.append(self._known[key])
        steps_of_all = torch.tensor(prices, dtype=torch.long, device="cpu")
        return steps_of_all.reshape(wiring.active.shape[:-1])

    def __repr__(self) -> str:
        return f"SequentialSteps(machines={self.machines}, order={self.order!r})"

    def _forget_other_candidates(self, wiring: Wiring) -> None:
        """Empty the cache if it is of another network, or full."""
        candidates = (wiring.source, wiring.target, wiring.nodes.steps)
        same = self._candidates is not None and all(
            torch.equal(old, new) for old, new in zip(self._candidates, candidates, strict=True)
        )
        if not same or len(self._known) > _LIMIT:
            self._known.clear()
            self._candidates = candidates


def steps_by_machines(wiring: Wiring, machines: Sequence[int]) -> dict[int, int]:
    """`sequential_steps` of one architecture on several numbers of machines, which share most work.

    Example:
        >>> from wiring_lightning.wiring import make_wiring
        >>> diamond = make_wiring(["in", "left", "right", "out"], source=[0, 0, 1, 2],
        ...                       target=[1, 2, 3, 3], active=[True] * 4)
        >>> steps_by_machines(diamond, [1, 2])
        {1: 4, 2: 3}
    """
    live, steps = wiring.live_edges, _steps_of_nodes(wiring)
    source, target = wiring.source[live].numpy(), wiring.target[live].numpy()
    graph = _LiveGraph(wiring.live_nodes.numpy(), source, target, steps)
    rank = _by_critical_path(graph)
    return {number: graph.schedule(number, rank) for number in machines}


def _steps_of_nodes(wiring: Wiring) -> list[int]:
    """How many steps each node takes, checked to be 0 or 1."""
    steps: list[int] = wiring.nodes.steps.tolist()
    if not set(steps) <= {0, 1}:
        raise ValueError(f"a node takes 0 or 1 steps, got {sorted(set(steps) - {0, 1})}.")
    return steps


class _LiveGraph:
    """The live part of one architecture: its nodes in topological order, and the targets of each.

    Args:
        alive: `[nodes]` its live nodes.
        source: `[edges]` where its live edges come from.
        target: `[edges]` where they lead to.
        steps: `[nodes]` 0 or 1 for each node.
    """

    def __init__(
        self,
        alive: NDArray[numpy.bool_],
        source: NDArray[numpy.int64],
        target: NDArray[numpy.int64],
        steps: Sequence[int],
    ) -> None:
        self.steps = steps
        self.targets = _group(source, target, len(steps))
        self.sources: list[int] = numpy.bincount(target, minlength=len(steps)).tolist()
        self.first = [
            node for node, live in enumerate(alive.tolist()) if live and not self.sources[node]
        ]
        self.nodes = self._in_order()
        if len(self.nodes) < alive.sum():
            raise ValueError("the live nodes form a cycle, which has no number of steps.")

    def _in_order(self) -> list[int]:
        """The live nodes that can be reached in topological order; those of a cycle are not."""
        waiting, nodes = list(self.sources), list(self.first)
        for node in nodes:  # the loop appends to this list
            for target in self.targets[node]:
                waiting[target] -= 1
                if not waiting[target]:
                    nodes.append(target)
        return nodes

    def schedule(self, machines: int, rank: Sequence[int]) -> int:
        """Number of steps if the ready nodes of lowest rank start first.

        Args:
            machines: how many nodes that take a step can run at the same time.
            rank: `[nodes]` a number for each node.
        """
        waiting, ready, total = list(self.sources), list(self.first), 0
        while ready:
            started, left, busy = [], [], 0
            for node in sorted(ready, key=rank.__getitem__):
                if busy + self.steps[node] <= machines:
                    busy += self.steps[node]
                    started.append(node)
                else:
                    left.append(node)
            total += busy > 0
            for node in started:
                for target in self.targets[node]:
                    waiting[target] -= 1
                    if not waiting[target]:
                        left.append(target)
            ready = left
        return total


def _group(
    source: NDArray[numpy.int64], target: NDArray[numpy.int64], nodes: int
) -> list[list[int]]:
    """The targets of each of the nodes, in the order of the edges."""
    targets: list[int] = target[source.argsort(kind="stable")].tolist()
    ends = numpy.bincount(source, minlength=nodes).cumsum().tolist()
    return [targets[start:end] for start, end in pairwise([0, *ends])]


def _by_critical_path(graph: _LiveGraph) -> Sequence[int]:
    """Nodes with the longest path to the output first.

    Nodes without steps count too, because their targets start one step later.
    """
    length = [0] * len(graph.steps)
    for node in reversed(graph.nodes):
        length[node] = 1 + max((length[target] for target in graph.targets[node]), default=0)
    rank = [0] * len(graph.steps)
    for place, node in enumerate(sorted(graph.nodes, key=lambda node: (-length[node], node))):
        rank[node] = place
    return rank


def _by_reverse_postorder(graph: _LiveGraph) -> Sequence[int]:
    """Reverse of a depth-first post-order that visits the last target of a node first."""
    rank, place = [0] * len(graph.steps), 0
    done = [False] * len(graph.steps)
    for first in graph.first:
        path = [first]
        while path:
            node = path[-1]
            deeper = [] if done[node] else [n for n in graph.targets[node] if not done[n]]
            if deeper:
                path += deeper
                continue
            path.pop()
            if not done[node]:
                done[node] = True
                place -= 1
                rank[node] = place
    return rank


_RANKS: dict[Order, Callable[[_LiveGraph], Sequence[int]]] = {
    "critical_path": _by_critical_path,
    "node": lambda graph: range(len(graph.steps)),
    "reverse_postorder": _by_reverse_postorder,
}
