"""Weights that stay at zero, and how many of them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from wiring_lightning.optim import (
    EdgeSet,
    MaskedWeights,
    PrunedWeights,
    StraightThrough,
    mask_largest,
)


def weight_of(size: int) -> nn.Parameter:
    return nn.Parameter(torch.linspace(1, 2, size)[torch.randperm(size)])


@pytest.mark.parametrize(
    ("size", "k", "progress", "left"),
    [
        (10, 0, 0.0, 10),
        (10, 0, 0.26, 7),  # 2.6 of ten are removed
        (10, 0, 0.24, 8),
        (10, 4, 0.3, 8),  # 1.8 of six
        (10, 4, 1.0, 4),
        (101, 1, 0.29, 72),  # 100 * 0.29 is 28.999999999999996
    ],
)
def test_pruning_rounds_to_the_nearest_number(
    size: int, k: int, progress: float, left: int
) -> None:
    weight = weight_of(size)
    before = weight.detach().clone()
    rule = PrunedWeights(SGD([weight], lr=0.1), [EdgeSet([weight], k)])
    rule.prune(progress)
    assert int(weight.count_nonzero()) == left
    assert torch.equal(weight != 0, before >= before.sort(descending=True).values[left - 1])


def test_what_was_removed_does_not_come_back() -> None:
    weight = weight_of(20)
    sgd = SGD([weight], lr=0.5, momentum=0.9)
    rule = PrunedWeights(sgd, [EdgeSet([weight], 5)])
    gone = torch.zeros(20, dtype=torch.bool)
    for progress in (0.2, 0.4, 0.3, 1.0, 0.0):  # a step back brings nothing back either
        rule.prune(progress)
        weight.grad = torch.randn(20)
        sgd.step()
        assert not weight[gone].any()
        gone |= weight == 0
    assert int(gone.sum()) == 15


def test_absent_weights_stay_absent_whatever_momentum_is_left() -> None:
    weight = weight_of(6)
    sgd = SGD([weight], lr=0.5, momentum=0.9)
    weight.grad = torch.ones(6)
    sgd.step()
    keep = torch.tensor([True, False] * 3)
    rule = MaskedWeights(sgd, [weight], [keep])
    for _ in range(3):
        weight.grad = torch.ones(6)
        rule.mask_gradients()
        assert weight.grad.tolist() == [1, 0] * 3
        sgd.step()
        assert torch.equal(weight != 0, keep)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize(
    "make",
    [
        lambda sgd, weight: MaskedWeights(sgd, [weight], [weight.detach().abs() > 0.25]),
        lambda sgd, weight: StraightThrough(sgd, [EdgeSet([weight], 2)]),
    ],
)
@pytest.mark.parametrize("masked", [True, False])
def test_a_gradient_that_is_no_number_passes_an_absent_weight(
    make: Any, value: float, masked: bool
) -> None:
    weight = nn.Parameter(torch.tensor([0.5, -0.5, 0.125]))
    rule = make(SGD([weight], lr=1.0), weight)
    rule.freeze()
    weight.grad = torch.tensor([0.25, 0.25, value])
    if masked:
        rule.mask_gradients()
        assert weight.grad.tolist() == [0.25, 0.25, 0.0]
    rule.optimizer.step()
    assert weight.tolist() == [0.25, -0.75, 0.0]


def test_gradients_of_an_embedding_may_be_sparse() -> None:
    layer = nn.Embedding(4, 2, sparse=True)
    mask = torch.tensor([[True, False]] * 4)
    rule = MaskedWeights(SGD(layer.parameters(), lr=1.0), [layer.weight], [mask])
    layer(torch.tensor([1, 3])).sum().backward()
    rule.mask_gradients()
    assert layer.weight.grad is not None
    assert layer.weight.grad.to_dense().tolist() == [[0, 0], [1, 0], [0, 0], [1, 0]]


def test_a_penalty_pulls_every_weight_to_zero() -> None:
    weight = nn.Parameter(torch.tensor([0.5, -0.25, 0.0]))
    rule = MaskedWeights(SGD([weight], lr=1.0), [weight], [None])
    weight.grad = torch.tensor([1.0, 1.0, 1.0])
    rule.penalize(0.25)
    assert weight.grad.tolist() == [1.25, 0.75, 1.0]


@pytest.mark.parametrize("k", [0, 1, 4, 6])
def test_the_largest_of_several_tensors_are_marked(k: int) -> None:
    weights = [torch.tensor([[3.0, -1.0], [0.5, 3.0]]), torch.tensor([-3.0, 2.0, 9.0])]
    usable: list[Tensor | None] = [None, torch.tensor([True, True, False])]
    marked = torch.cat([mask.flatten() for mask in mask_largest(weights, k, usable)])
    order = [0, 3, 4, 5, 1, 2]  # of equal magnitudes the lower index first; 9.0 is not usable
    assert marked.nonzero().flatten().tolist() == sorted(order[:k])
