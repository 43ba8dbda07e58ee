"""Dead outputs and inputs of sparse layers, against what the layer computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wiring_lightning.nn import Adjacency
from wiring_lightning.nn.weights import find_dead, find_weights

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 9, bias=False), (6,)),
    "1d": (lambda: nn.Conv1d(6, 9, 2, bias=False), (6, 5)),
    "2d": (lambda: nn.Conv2d(6, 9, 3, bias=False), (6, 5, 5)),
    "groups": (lambda: nn.Conv2d(6, 9, 1, groups=3, bias=False), (6, 2, 2)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6, bias=False), (6, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 9, 2, bias=False), (6, 3, 3)),
    "transposed groups": (lambda: nn.ConvTranspose1d(6, 9, 2, groups=3, bias=False), (6, 3)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_dead_channels_are_those_that_carry_nothing(kind: str) -> None:
    make, shape = LAYERS[kind]
    torch.manual_seed(1)
    layer, inputs = make().double(), torch.randn(1, *shape, dtype=torch.double)
    weight = next(find_weights(layer))
    with torch.no_grad():
        edges = torch.rand_like(weight.parameter) < 0.5 / weight.parameter[0].numel()
        weight.parameter.mul_(edges)
    rows, columns = find_dead(weight, edges)
    answer: Tensor = layer(inputs)
    assert rows.tolist() == [not channel.any() for channel in answer[0].flatten().split(
        answer[0][0].numel())]  # fmt: skip
    changes = []
    for channel in range(len(columns)):
        other = inputs.clone()
        other[0, channel] += 1
        changes.append(not torch.equal(layer(other), answer))
    assert columns.tolist() == [not change for change in changes]
    assert 0 < int(rows.sum()) < len(rows)
    assert 0 < int(columns.sum()) < len(columns)


def test_channels_of_a_graph_that_can_have_no_edge_are_not_dead() -> None:
    usable = torch.tensor([[False, False, False], [True, True, False]])
    graph: Any = Adjacency(usable, edges=1)
    weight = next(find_weights(graph))
    rows, columns = find_dead(weight, torch.tensor([[False] * 3, [True, False, False]]))
    assert rows.tolist() == [False, False]
    assert columns.tolist() == [False, True, False]
