"""Neural graphs written node by node and edge by edge, as the paper's equations read."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from wiring_lightning.backbones import NeuralGraph


def static_outputs(network: NeuralGraph, inputs: Tensor) -> Tensor:
    """`[batch, inputs, h, w]` -> what the output nodes received, `[batch, outputs, h, w]`."""
    weight, sizes = network.adjacency.matrix(), network.sizes
    block = [number for number, size in enumerate(sizes) for _ in range(size)]
    count, last = len(block), len(sizes) - 1
    received = {v: inputs[:, v] if v < sizes[0] else torch.zeros_like(inputs[:, 0])
                for v in range(count)}  # fmt: skip
    total = {}
    for number in range(len(sizes)):
        members = [v for v in range(count) if block[v] == number]
        sent = {v: _filter(network, v, _normalize(network, v, received[v]).relu()) for v in members}
        for v in range(count):
            if block[v] > number:
                for u in members:
                    received[v] = received[v] + weight[v, u] * sent[u]
    for v in range(count - network.outputs, count):
        total[v] = received[v]
        for u in range(count):
            if block[u] == last:
                total[v] = total[v] + weight[v, u] * sent[u]
    return torch.stack(list(total.values()), 1)


def change(network: NeuralGraph, states: list[Tensor]) -> list[Tensor]:
    """Of all nodes: what they would be a step later (Equation 12), or the derivative (13)."""
    weight = network.adjacency.matrix()
    sent = [_filter(network, v, state.relu()) for v, state in enumerate(states)]
    return [
        _normalize(network, v, sum(weight[v, u] * sent[u] for u in range(len(states))))
        for v in range(len(states))
    ]


def first_states(network: NeuralGraph, inputs: Tensor) -> list[Tensor]:
    zeros = torch.zeros_like(inputs[:, 0])
    count = sum(network.sizes)
    return [inputs[:, v] if v < inputs.shape[1] else zeros for v in range(count)]


def runge_kutta(network: NeuralGraph, states: list[Tensor], steps: int) -> list[Tensor]:
    """The classical method of fourth order from 0 to 1.

    Steps are short at first: instance norm turns over when states leave zero.
    """
    times = [(step / steps) ** 3 for step in range(steps + 1)]

    def moved(by: float, along: list[Tensor]) -> list[Tensor]:
        return [state + by * slope for state, slope in zip(states, along, strict=True)]

    for start, end in pairwise(times):
        h = end - start
        a = change(network, states)
        b = change(network, moved(h / 2, a))
        c = change(network, moved(h / 2, b))
        d = change(network, moved(h, c))
        mean = [(p + 2 * q + 2 * r + s) / 6 for p, q, r, s in zip(a, b, c, d, strict=True)]
        states = moved(h, mean)
    return states


def logits(network: NeuralGraph, outputs: Tensor) -> Tensor:
    """From the maps of the output nodes, `[batch, outputs, 8, 8]`."""
    patch = outputs[:, :, 2:4, 2:4]
    return patch.mean((2, 3)) @ network.classifier.weight.t() + network.classifier.bias


def _normalize(network: NeuralGraph, v: int, maps: Tensor) -> Tensor:
    mean = maps.mean((1, 2), keepdim=True)
    variance = (maps - mean).square().mean((1, 2), keepdim=True)
    flat = (maps - mean) / (variance + 1e-5).sqrt()
    return flat * network.operations.scale[v] + network.operations.shift[v]


def _filter(network: NeuralGraph, v: int, maps: Tensor) -> Tensor:
    return functional.conv2d(maps[:, None], network.operations.filters[v][None, None], padding=1)[
        :, 0
    ]
