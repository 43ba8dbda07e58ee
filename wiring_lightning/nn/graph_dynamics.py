"""The forward pass of a neural graph: block by block, step by step, or in continuous time.

In all functions, `inputs` are `[inputs, batch, height, width]`, what the first nodes receive (in a
static graph) or their initial states. `weights` are those of the edges, `[receivers, senders]`. The
result is `[outputs, batch, height, width]`, and the output nodes are the last ones.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint
from typing_extensions import override

from wiring_lightning.functional.transforms import is_transformed
from wiring_lightning.nn.graph_solver import solve
from wiring_lightning.nn.node_operations import NodeOperations, filter_maps, normalize_maps

# The solver counts time in float64, which Apple's GPUs do not have.
_TIME = {"mps": torch.float32}


def run_blocks(
    inputs: Tensor, weights: Tensor, operations: NodeOperations, sizes: Sequence[int], outputs: int
) -> Tensor:
    """A static graph (DNW, Section 2.1): `sizes[b]` nodes in block b, which send to later blocks.

    A node applies instance norm, ReLU and its filter to what it receives. The last block also sends
    to its own output nodes; the result is the sum of all that these receive.
    """
    shape, sizes = inputs.shape[1:], list(sizes)
    # One split, so that the gradient of the weights is assembled once.
    parts = [rows.split(sizes, 1) for rows in weights.split(sizes)]
    nodes = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
    received = inputs.flatten(1)
    sent: list[Tensor] = []
    for block, arriving in enumerate(parts):
        if block:
            received = arriving[0] @ sent[0]
            for matrix, maps in zip(arriving[1:block], sent[1:], strict=True):
                # In place: no extra pass over memory. Autocast leaves such calls alone.
                received.addmm_(matrix.to(maps.dtype), maps)
        maps = operations.normalize(received.unflatten(1, shape), nodes[block]).relu_()
        sent.append(filter_maps(maps, operations.filters_for(maps, nodes[block])).flatten(1))
    total = torch.addmm(received[-outputs:], parts[-1][-1][-outputs:], sent[-1])
    return total.view(outputs, *shape)


def run_steps(
    inputs: Tensor, weights: Tensor, operations: NodeOperations, steps: int, outputs: int
) -> Tensor:
    """A graph in discrete time (DNW, Equation 12): the same edges and operations in every step.

    In a step every node sends its rectified and filtered state; instance norm of what it receives
    is its next state. Other nodes than the inputs start at zero, so they send nothing in the first
    step. The last step computes only the outputs.
    """
    states, shape = inputs, inputs.shape[1:]
    filters = operations.filters_for(inputs)
    for step in range(1, steps + 1):
        senders = slice(len(states))
        receivers = slice(-outputs if step == steps else 0, None)
        sent = filter_maps(states.relu(), filters[senders]).flatten(1)
        received = (weights[receivers, senders] @ sent).unflatten(1, shape)
        states = operations.normalize(received, receivers)
    return states


def run_continuously(
    inputs: Tensor,
    weights: Tensor,
    operations: NodeOperations,
    outputs: int,
    tolerance: float,
    adjoint: bool,
    rectify_states: bool = False,
) -> Tensor:
    """A graph in continuous time (DNW, Equation 13), from 0 to 1 by an adaptive solver.

    The next state of discrete time is the derivative of the state here. Other nodes than the inputs
    start at zero. See `backbones.NeuralGraph` for `tolerance`, `adjoint` and `rectify_states`.

    Raises:
        ValueError: if the inputs are not finite: the solver would not end. Also if the numbers are
            too coarse for the tolerance.
    """
    exporting = torch.compiler.is_exporting()
    if not exporting and not inputs.isfinite().all():
        raise ValueError(
            "a graph in continuous time got images or weights that are not finite: has the loss "
            "diverged?"
        )
    if not exporting and inputs.shape[1] == 0:  # the solver needs an error to choose its steps
        return inputs.new_empty(outputs, *inputs.shape[1:])
    derivative = Derivative(weights, operations, inputs, rectify_states)
    others = inputs.new_zeros(len(weights) - len(inputs), *inputs.shape[1:])
    start = torch.cat([inputs, others])
    if exporting or is_transformed():
        return solve(derivative.compute, start, tolerance, rectify_states)[-outputs:]
    times = torch.tensor([0.0, 1.0], dtype=inputs.dtype, device=inputs.device)
    options = {"dtype": _TIME.get(inputs.device.type, torch.float64)}
    settings = {"rtol": tolerance, "atol": tolerance, "method": "dopri5", "options": options}
    if adjoint:
        settings["adjoint_params"] = derivative.tensors
    # Its steps depend on the data, so `torch.compile` cannot record them.
    integrate = torch.compiler.disable(odeint_adjoint if adjoint else odeint)
    try:
        states: Tensor = integrate(derivative, start, times, **settings)[-1]
    except AssertionError as error:
        if "underflow in dt" not in str(error):
            raise
        number = str(inputs.dtype).removeprefix("torch.")
        raise ValueError(
            f"a graph in continuous time found no step with an error below its tolerance of "
            f"{tolerance:g} in {number}: compute in bfloat16 or float32, or raise the tolerance."
        ) from error
    return states[-outputs:]


class Derivative(nn.Module):
    """The derivative of all states of a graph in continuous time.

    Args:
        weights: `[receivers, senders]` of the edges.
        operations: of the nodes.
        maps: any maps of the height and width of the states, for which filters are prepared.
        rectify_states: whether `forward` also rectifies the states that it is given, in place. The
            result then depends on where a solver asks for a derivative, and its tolerance does not
            bound by how much.
    """

    def __init__(
        self,
        weights: Tensor,
        operations: NodeOperations,
        maps: Tensor,
        rectify_states: bool = False,
    ) -> None:
        super().__init__()
        self.rectify_states = rectify_states
        filters = operations.filters_for(maps)
        self.tensors = (weights, filters, operations.scale, operations.shift)

    @override
    def forward(self, _time: Tensor, states: Tensor) -> Tensor:
        """The derivative at any time; the states are rectified in place if that was asked for."""
        return self.compute(states.relu_() if self.rectify_states else states)

    def compute(self, states: Tensor) -> Tensor:
        """The derivative `[nodes, batch, height, width]`: rectify, filter, send, normalise."""
        weights, filters, scale, shift = self.tensors
        rectified = states.relu()
        sent = filter_maps(rectified, filters).flatten(1)
        change = normalize_maps((weights @ sent).view(states.shape), scale, shift)
        return change.to(states.dtype)
