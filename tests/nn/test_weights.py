"""Dead outputs and inputs of sparse layers, against what the layer computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

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


class _Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


class _WithRows(nn.Module):
    """As adapters of low rank: something that learns is added."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.rand(8, 1))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.rows


def parametrized(kind: nn.Module, out: int = 8) -> nn.Module:
    return parametrize.register_parametrization(nn.Linear(8, out), "weight", kind)


FILLING: dict[str, Callable[[], nn.Module]] = {
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(8, 8)),
    "orthogonal by householder": lambda: parametrizations.orthogonal(
        nn.Linear(8, 5), orthogonal_map="householder"
    ),
    "symmetric": lambda: parametrized(_Symmetric()),
    "softmax": lambda: parametrized(nn.Softmax(1)),
    "low rank": lambda: parametrized(_WithRows()),
}
KEEPING: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Linear(8, 8),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(8, 8)),
    "weight norm of one column": lambda: parametrizations.weight_norm(nn.Conv1d(1, 8, 2)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(8, 8)),
    "older weight norm": lambda: weight_norm(nn.Linear(8, 8)),
    "older spectral norm": lambda: spectral_norm(nn.Linear(8, 8)),
    "tanh": lambda: parametrized(nn.Tanh()),
}


@pytest.mark.parametrize("kind", [*FILLING, *KEEPING])
def test_a_weight_is_there_if_the_layer_multiplies_with_it(kind: str) -> None:
    layer = (FILLING | KEEPING)[kind]().train()
    weight = next(one for one in find_weights(layer) if not one.is_vector)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert weight.fills_zeros == (kind in FILLING)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    with torch.no_grad():
        weight.parameter.view(-1)[::3] = 0
        computed: Any = layer.eval().weight
        if "older" in kind:  # computed in the next forward pass
            layer(torch.ones(1, 8))
            computed = layer.weight
        assert torch.equal(weight.present, computed != 0)
