"""What a wiring costs. Every cost takes a `Wiring` and prices its live part, as after pruning.

A wiring that holds a batch of sampled architectures gets one price per sample.
"""

import torch
from torch import Tensor

from wiring_lightning.wiring import Wiring


def parameters(wiring: Wiring, live: bool = True) -> Tensor:
    """Count the network's own parameters; gates and scores are not counted.

    Args:
        wiring: one architecture, or a batch of them.
        live: count only what is on an active path from the input to the output; otherwise count
            everything that could be.

    Returns:
        An integer tensor, a scalar or `[...]` like the batch.

    Example:
        >>> from wiring_lightning.wiring import make_wiring
        >>> wiring = make_wiring(["in", "used", "unused", "out"], source=[0, 0, 1],
        ...                      target=[1, 2, 3], active=[True] * 3, parameters=[1, 20, 300, 4000])
        >>> int(parameters(wiring)), int(parameters(wiring, live=False))
        (4021, 4321)
    """
    nodes = wiring.nodes
    return _additive(wiring, nodes.parameters, nodes.group_parameters, wiring.parameters, live)


def multiply_adds(wiring: Wiring, live: bool = True) -> Tensor:
    """Count multiply-adds for one example.

    Convolutions and linear layers are counted; batch norms, activations and the additions that
    gates select are free, as in the papers. Arguments and result as for `parameters`.
    """
    nodes = wiring.nodes
    return _additive(
        wiring, nodes.multiply_adds, nodes.group_multiply_adds, wiring.multiply_adds, live
    )


def sequential_steps(wiring: Wiring, machines: int = 1) -> Tensor:
    """Count time steps when up to `machines` nodes run side by side (greedy list scheduling).

    In each step every node whose sources are done may start, in node order, until all machines are
    taken. Nodes that take no step are free, but what they feed waits for the next step.

    Args:
        wiring: one architecture, or a batch of them.
        machines: how many nodes can run at the same time.

    Greedy scheduling is not optimal: for rare graphs one more machine takes a step more.

    Raises:
        ValueError: if `machines` is below 1, a node takes more than one step, or live nodes form a
            cycle.

    Example:
        >>> from wiring_lightning.wiring import make_wiring
        >>> diamond = make_wiring(["in", "left", "right", "out"], source=[0, 0, 1, 2],
        ...                       target=[1, 2, 3, 3], active=[True] * 4)
        >>> [int(sequential_steps(diamond, machines=n)) for n in (1, 2)]
        [4, 3]
    """
    if machines < 1:
        raise ValueError(f"machines must be at least 1, got {machines}.")
    cost = wiring.nodes.steps.tolist()
    if not set(cost) <= {0, 1}:
        raise ValueError(f"a node takes 0 or 1 steps, got {sorted(set(cost) - {0, 1})}.")
    batch = wiring.active.shape[:-1]
    live_nodes = wiring.live_nodes.reshape(-1, len(wiring.nodes)).tolist()
    live_edges = wiring.live_edges.reshape(-1, len(wiring.source)).tolist()
    ends = list(zip(wiring.source.tolist(), wiring.target.tolist(), strict=True))
    totals = [
        _schedule(nodes, [end for end, alive in zip(ends, edges, strict=True) if alive], cost,
                  machines)
        for nodes, edges in zip(live_nodes, live_edges, strict=True)
    ]  # fmt: skip
    return torch.tensor(totals, dtype=torch.long).reshape(batch)


def _additive(
    wiring: Wiring, per_node: Tensor, per_group: Tensor, per_edge: Tensor, live: bool
) -> Tensor:
    if not live:
        total = per_node.sum() + per_group.sum() + per_edge.sum()
        return total.expand(wiring.active.shape[:-1])
    nodes = (wiring.live_nodes * per_node).sum(-1)
    groups = (wiring.live_groups * per_group).sum(-1)
    return nodes + groups + (wiring.live_edges * per_edge).sum(-1)


def _schedule(
    live: list[bool], edges: list[tuple[int, int]], cost: list[int], machines: int
) -> int:
    """Steps of one architecture; `cost[node]` is 0 or 1."""
    waiting = [0] * len(live)
    listeners: list[list[int]] = [[] for _ in live]
    for source, target in edges:
        waiting[target] += 1
        listeners[source].append(target)
    ready = [node for node, alive in enumerate(live) if alive and waiting[node] == 0]
    steps = 0
    while ready:
        started, left, busy = [], [], 0
        for node in sorted(ready):
            if busy + cost[node] <= machines:
                busy += cost[node]
                started.append(node)
            else:
                left.append(node)
        steps += busy > 0
        for node in started:
            for target in listeners[node]:
                waiting[target] -= 1
                if waiting[target] == 0:
                    left.append(target)
        ready = left
    if any(waiting[node] for node, alive in enumerate(live) if alive):
        raise ValueError("the live nodes form a cycle, which has no number of steps.")
    return steps
