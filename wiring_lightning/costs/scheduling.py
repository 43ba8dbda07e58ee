"""The distributed cost: time steps when several nodes run side by side (BSN, Section 4.3)."""

from collections.abc import Sequence
from itertools import compress
from typing import Literal, overload

import numpy
import torch
from torch import Tensor
from typing_extensions import override

from wiring_lightning.costs.configured import ConfiguredCost
from wiring_lightning.wiring import Wiring

Order = Literal["critical_path", "node", "reverse_postorder"]

# Prices that are kept. A search meets few architectures again before it narrows down.
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

    In each step every node whose sources are done may start until all machines are taken. Nodes
    that take no step are free, but what they feed waits for the next step.

    Greedy scheduling is not optimal: for rare graphs one more machine takes a step more.

    Args:
        wiring: one architecture, or a batch of them. Without it the result is the cost itself, a
            `SequentialSteps`.
        machines: how many nodes can run at the same time.
        order: which nodes come first: those with the longest path of steps to the output
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
    """`sequential_steps` with settings, for a search: remembers the price of each architecture.

    Args:
        machines: how many nodes can run at the same time.
        order: which nodes come first, see `sequential_steps`.

    Raises:
        ValueError: as `sequential_steps`.
    """

    def __init__(self, machines: int = 1, order: Order = "critical_path") -> None:
        if machines < 1:
            raise ValueError(f"machines must be at least 1, got {machines}.")
        if order not in _RANKS:
            raise ValueError(f"order must be one of {', '.join(_RANKS)}, got {order!r}.")
        self.machines = machines
        self.order = order
        self._known: dict[bytes, int] = {}
        self._candidates: tuple[Tensor, Tensor, Tensor] | None = None

    @override
    def __call__(self, wiring: Wiring) -> Tensor:
        """Price one architecture, or each of a batch."""
        graph = _Graph(wiring)
        self._forget_other_candidates(wiring)
        alive = wiring.live_nodes.reshape(-1, len(wiring.nodes)).numpy()
        edges = wiring.live_edges.reshape(-1, len(wiring.source)).numpy()
        prices = []
        for number, key in enumerate(numpy.packbits(numpy.hstack([alive, edges]), axis=1)):
            name = key.tobytes()
            if name not in self._known:
                part = graph.live_part(alive[number].tolist(), edges[number].tolist())
                rank = _RANKS[self.order](part)
                self._known[name] = part.schedule(self.machines, rank)
            prices.append(self._known[name])
        return torch.tensor(prices, dtype=torch.long).reshape(wiring.active.shape[:-1])

    def __repr__(self) -> str:
        return f"SequentialSteps(machines={self.machines}, order={self.order!r})"

    def _forget_other_candidates(self, wiring: Wiring) -> None:
        candidates = (wiring.source, wiring.target, wiring.nodes.steps)
        same = self._candidates is not None and all(
            torch.equal(old, new) for old, new in zip(self._candidates, candidates, strict=True)
        )
        if not same or len(self._known) > _LIMIT:
            self._known.clear()
            self._candidates = candidates


class _Graph:
    """The candidates of a wiring as plain numbers."""

    def __init__(self, wiring: Wiring) -> None:
        self.steps: list[int] = wiring.nodes.steps.tolist()
        if not set(self.steps) <= {0, 1}:
            wrong = sorted(set(self.steps) - {0, 1})
            raise ValueError(f"a node takes 0 or 1 steps, got {wrong}.")
        self.ends = list(zip(wiring.source.tolist(), wiring.target.tolist(), strict=True))

    def live_part(self, nodes: list[bool], edges: list[bool]) -> "_Part":
        """The architecture with these nodes and edges."""
        return _Part(nodes, list(compress(self.ends, edges)), self.steps)


class _Part:
    """One architecture: its nodes in an order that data can flow in, and who listens to whom."""

    def __init__(
        self, alive: Sequence[bool], ends: Sequence[tuple[int, int]], steps: Sequence[int]
    ) -> None:
        self.steps = steps
        self.listeners: list[list[int]] = [[] for _ in steps]
        self.sources = [0] * len(steps)
        for source, target in ends:
            self.listeners[source].append(target)
            self.sources[target] += 1
        self.first = [node for node, live in enumerate(alive) if live and not self.sources[node]]
        self.nodes = self._in_order()
        if len(self.nodes) < sum(alive):
            raise ValueError("the live nodes form a cycle, which has no number of steps.")

    def _in_order(self) -> list[int]:
        waiting, nodes = list(self.sources), list(self.first)
        for node in nodes:  # grows on the way
            for listener in self.listeners[node]:
                waiting[listener] -= 1
                if not waiting[listener]:
                    nodes.append(listener)
        return nodes

    def schedule(self, machines: int, rank: Sequence[int]) -> int:
        """Number of steps if, of the nodes that are ready, those of lowest rank start."""
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
                for listener in self.listeners[node]:
                    waiting[listener] -= 1
                    if not waiting[listener]:
                        left.append(listener)
            ready = left
        return total


def _by_number(part: _Part) -> Sequence[int]:
    return range(len(part.steps))


def _by_critical_path(part: _Part) -> Sequence[int]:
    """Nodes with the longest way to the output first.

    A free node counts like any other here: what it feeds has to wait for the next step.
    """
    way = [0] * len(part.steps)
    for node in reversed(part.nodes):
        way[node] = 1 + max((way[listener] for listener in part.listeners[node]), default=0)
    rank = [0] * len(part.steps)
    for place, node in enumerate(sorted(part.nodes, key=lambda node: (-way[node], node))):
        rank[node] = place
    return rank


def _by_reverse_postorder(part: _Part) -> Sequence[int]:
    """Depth first from the last listener to the first; a node follows all that it can reach."""
    rank, place = [0] * len(part.steps), 0
    done = [False] * len(part.steps)
    for first in part.first:
        path = [first]
        while path:
            node = path[-1]
            deeper = [] if done[node] else [n for n in part.listeners[node] if not done[n]]
            if deeper:
                path += deeper
                continue
            path.pop()
            if not done[node]:
                done[node] = True
                place -= 1
                rank[node] = place
    return rank


_RANKS = {
    "critical_path": _by_critical_path,
    "node": _by_number,
    "reverse_postorder": _by_reverse_postorder,
}
