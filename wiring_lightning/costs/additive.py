"""Costs that are sums over nodes, groups and edges."""

from torch import Tensor

from wiring_lightning.wiring import Wiring


def parameters(wiring: Wiring, live: bool = True) -> Tensor:
    """Count the network's own parameters; gates and scores are not counted.

    Args:
        wiring: one architecture, or a batch of them.
        live: count only nodes and edges on an active path from the input to the output; otherwise
            count all candidates.

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

    Counts convolutions and linear layers. As in the papers, it does not count batch norms,
    activations, and the sums of a gate's sources, but it counts the sums of a fabric (a counter of
    FLOPs does not). Arguments and result as for `parameters`.

    Example:
        >>> from wiring_lightning.wiring import make_wiring
        >>> wiring = make_wiring(["in", "used", "unused", "out"], source=[0, 0, 1],
        ...                      target=[1, 2, 3], active=[True] * 3, multiply_adds=[0, 5, 70, 2])
        >>> int(multiply_adds(wiring)), int(multiply_adds(wiring, live=False))
        (7, 77)
    """
    nodes = wiring.nodes
    return _additive(
        wiring, nodes.multiply_adds, nodes.group_multiply_adds, wiring.multiply_adds, live
    )


def _additive(
    wiring: Wiring, per_node: Tensor, per_group: Tensor, per_edge: Tensor, live: bool
) -> Tensor:
    if not live:
        total = per_node.sum() + per_group.sum() + per_edge.sum()
        return total.expand(wiring.active.shape[:-1])
    nodes = (wiring.live_nodes * per_node).sum(-1)
    groups = (wiring.live_groups * per_group).sum(-1)
    return nodes + groups + (wiring.live_edges * per_edge).sum(-1)
