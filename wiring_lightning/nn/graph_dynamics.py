"""How signals run through a neural graph: block by block, step by step, or in continuous time.

Maps are `[nodes, batch, height, width]`, as in `NodeOperations`; the matrix of edge weights is
`[receivers, senders]`, both in node order.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint
from typing_extensions import override

from wiring_lightning.nn.node_operations import NodeOperations, filter_maps, normalize_maps


def run_blocks(
    inputs: Tensor, weights: Tensor, operations: NodeOperations, sizes: Sequence[int], outputs: int
) -> Tensor:
    """A static graph (DNW, Section 2.1): blocks of nodes, each sending to all later blocks.

    A node normalises what it received, rectifies it, and filters it. The last block sends to the
    output nodes, which are its own last ones: the result is what they received in all.

    Args:
        inputs: `[sizes[0], batch, height, width]`, what the nodes of the first block receive.
        weights: of the edges.
        operations: of all nodes.
        sizes: nodes in every block.
        outputs: number of output nodes.

    Returns:
        `[outputs, batch, height, width]`.
    """
    shape, sizes = inputs.shape[1:], list(sizes)
    # Split once, so that the gradient of the weights is put together once.
    parts = [rows.split(sizes, 1) for rows in weights.split(sizes)]
    nodes = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
    received = inputs.flatten(1)
    sent: list[Tensor] = []
    for block, arriving in enumerate(parts):
        if block:
            received = arriving[0] @ sent[0]
            for matrix, maps in zip(arriving[1:block], sent[1:], strict=True):
                received.addmm_(matrix, maps)  # in place: no pass over memory but the product's own
        maps = operations.normalize(received.view(-1, *shape), nodes[block]).relu_()
        sent.append(filter_maps(maps, operations.filters_for(maps, nodes[block])).flatten(1))
    total = torch.addmm(received[-outputs:], parts[-1][-1][-outputs:], sent[-1])
    return total.view(outputs, *shape)


def run_steps(
    inputs: Tensor, weights: Tensor, operations: NodeOperations, steps: int, outputs: int
) -> Tensor:
    """A graph in discrete time (DNW, Equation 12): the same edges and operations in every step.

    In a step every node rectifies and filters its state, and normalises what it receives, which is
    its next state. All states but those of the inputs start at zero, and only those of the outputs
    are asked for in the end; what this spares is not computed.

    Args:
        inputs: `[inputs, batch, height, width]`, the first states of the first nodes.
        weights: of the edges.
        operations: of all nodes.
        steps: number of steps.
        outputs: number of output nodes, which are the last ones.

    Returns:
        `[outputs, batch, height, width]`.
    """
    states, shape = inputs, inputs.shape[1:]
    filters = operations.filters_for(inputs)
    for step in range(1, steps + 1):
        senders = slice(len(states))
        receivers = slice(-outputs if step == steps else 0, None)
        sent = filter_maps(states.relu(), filters[senders]).flatten(1)
        received = (weights[receivers, senders] @ sent).view(-1, *shape)
        states = operations.normalize(received, receivers)
    return states


def run_continuously(
    inputs: Tensor,
    weights: Tensor,
    operations: NodeOperations,
    outputs: int,
    tolerance: float,
    adjoint: bool,
) -> Tensor:
    """A graph in continuous time (DNW, Equation 13), from 0 to 1 by an adaptive solver.

    What would be the next state in discrete time is the derivative of the state here.

    Args:
        inputs: `[inputs, batch, height, width]`, the first states of the first nodes; those of the
            others are zero.
        weights: of the edges.
        operations: of all nodes.
        outputs: number of output nodes, which are the last ones.
        tolerance: of the solver, relative and absolute.
        adjoint: get gradients from a second solution, backwards in time, instead of keeping every
            evaluation: less memory, more time, and an error of the size of the tolerance.

    Returns:
        `[outputs, batch, height, width]`.

    Raises:
        ValueError: if the first states are not finite, so that no step is small enough.
    """
    if not inputs.isfinite().all():
        raise ValueError(
            "a graph in continuous time got images or weights that are not finite: has the loss "
            "diverged?"
        )
    derivative = Derivative(weights, operations, inputs)
    others = inputs.new_zeros(len(weights) - len(inputs), *inputs.shape[1:])
    times = torch.tensor([0.0, 1.0], dtype=inputs.dtype, device=inputs.device)
    settings = {"rtol": tolerance, "atol": tolerance, "method": "dopri5"}
    if adjoint:
        settings["adjoint_params"] = derivative.tensors
    solve = odeint_adjoint if adjoint else odeint
    states: Tensor = solve(derivative, torch.cat([inputs, others]), times, **settings)[-1]
    return states[-outputs:]


class Derivative(nn.Module):
    """The change of all states of a graph in continuous time.

    Args:
        weights: of the edges.
        operations: of all nodes.
        maps: any maps of the size that the states have.
    """

    def __init__(self, weights: Tensor, operations: NodeOperations, maps: Tensor) -> None:
        super().__init__()
        self.tensors = (
            weights,
            operations.filters_for(maps),
            operations.scale,
            operations.shift,
        )

    @override
    def forward(self, _time: Tensor, states: Tensor) -> Tensor:
        """Rectify, filter, send, normalise."""
        weights, filters, scale, shift = self.tensors
        sent = filter_maps(states.relu(), filters).flatten(1)
        change = normalize_maps((weights @ sent).view(states.shape), scale, shift)
        return change.to(states.dtype)
