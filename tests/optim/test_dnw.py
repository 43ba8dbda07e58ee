"""The rule against Algorithm 1 written out by hand, and against a twin in autograd."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.optim import LBFGS, SGD, AdamW, Optimizer

from wiring_lightning.optim import EdgeSet, StraightThrough

MAKERS: dict[str, Callable[..., Optimizer]] = {
    "SGD": partial(SGD, lr=0.3, momentum=0.9, weight_decay=0.01),
    "Nesterov": partial(SGD, lr=0.3, momentum=0.9, weight_decay=0.01, nesterov=True),
    "AdamW": partial(AdamW, lr=0.05, weight_decay=0.1),
}


class KeepLargest(Function):
    """The straight-through estimator as autograd code: masked forward, untouched backward."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, k: int) -> Tensor:
        order = weight.flatten().abs().argsort(descending=True, stable=True)
        mask = torch.zeros(weight.numel(), dtype=torch.bool)
        mask[order[:k]] = True
        return weight * mask.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(2)
    return [(torch.randn(16, 6).double(), torch.randint(3, (16,))) for _ in range(count)]


@pytest.mark.parametrize("name", MAKERS)
def test_every_optimizer_takes_the_steps_of_an_autograd_twin(name: str) -> None:
    k = 10
    ours, twin = network(), network()
    optimizer, other = MAKERS[name](ours.parameters()), MAKERS[name](twin.parameters())
    rule = StraightThrough(optimizer, [EdgeSet([ours[0].weight], k)])
    swaps = 0
    for images, labels in batches(40):
        before = ours[0].weight != 0
        optimizer.zero_grad()
        functional.cross_entropy(ours(images), labels).backward()
        optimizer.step()
        other.zero_grad()
        hidden = functional.linear(images, KeepLargest.apply(twin[0].weight, k), twin[0].bias)
        functional.cross_entropy(twin[2](torch.tanh(hidden)), labels).backward()
        other.step()
        torch.testing.assert_close(rule.latent[0], twin[0].weight.detach(), atol=1e-12, rtol=1e-12)
        assert torch.equal(ours[0].weight.detach(), KeepLargest.apply(twin[0].weight.detach(), k))
        torch.testing.assert_close(ours[2].weight, twin[2].weight, atol=1e-12, rtol=1e-12)
        assert int((ours[0].weight != 0).sum()) == k
        swaps += int((before & (ours[0].weight == 0)).sum())
    assert swaps > 5


def test_ten_steps_of_algorithm_1_by_hand() -> None:
    """A graph of five nodes: 0 and 1 are inputs, 4 is the output, edges lead to higher nodes only.

    DNW, Algorithm 1: the input of node v is the sum over real edges of w_uv Z_u, nodes rectify,
    and every edge, real or not, moves along -<Z_u, dL/dI_v>; then the k largest are real.
    """
    k, lr, momentum, decay = 4, 0.15, 0.9, 0.01
    pairs = [(u, v) for v in range(2, 5) for u in range(v)]
    torch.manual_seed(0)
    weights = {pair: float(value) for pair, value in zip(pairs, torch.randn(9), strict=True)}
    velocity = dict.fromkeys(pairs, 0.0)
    inputs, target = torch.randn(20, 2).double(), torch.randn(20).double()

    matrix = nn.Parameter(torch.zeros(5, 5, dtype=torch.float64))
    usable = torch.zeros(5, 5, dtype=torch.bool)
    with torch.no_grad():
        for (u, v), value in weights.items():
            matrix[v, u] = value
            usable[v, u] = True
    sgd = SGD([matrix], lr=lr, momentum=momentum, weight_decay=decay)
    rule = StraightThrough(sgd, [EdgeSet([matrix], k, [usable])])

    real = set(sorted(pairs, key=lambda pair: -abs(weights[pair]))[:k])
    swapped = 0
    for _ in range(10):
        # By hand: states, then the gradient of every node's input from the last node backwards.
        state = {0: inputs[:, 0], 1: inputs[:, 1]}
        total: dict[int, Tensor] = {}
        for v in (2, 3, 4):
            total[v] = sum(
                (weights[u, v] * state[u] for u in range(v) if (u, v) in real),
                torch.zeros(20, dtype=torch.float64),
            )
            state[v] = total[v].clamp_min(0) if v < 4 else total[v]
        slope = {4: 2 * (state[4] - target) / 20}
        for u in (3, 2):
            arriving = sum(
                (weights[u, v] * slope[v] for v in range(u + 1, 5) if (u, v) in real),
                torch.zeros(20, dtype=torch.float64),
            )
            slope[u] = arriving * (total[u] > 0)
        for u, v in pairs:
            gradient = float((state[u] * slope[v]).sum()) + decay * weights[u, v]
            velocity[u, v] = momentum * velocity[u, v] + gradient
            weights[u, v] -= lr * velocity[u, v]
        previous, real = real, set(sorted(pairs, key=lambda pair: -abs(weights[pair]))[:k])
        swapped += len(previous - real)

        # With the optimizer: plain autograd on the sparse matrix.
        sgd.zero_grad()
        nodes = [inputs[:, 0], inputs[:, 1]]
        for v in (2, 3, 4):
            summed = torch.stack(nodes, 1) @ matrix[v, :v]
            nodes.append(summed.relu() if v < 4 else summed)
        (nodes[4] - target).square().mean().backward()
        sgd.step()

        for (u, v), value in weights.items():
            assert float(rule.latent[0][v, u]) == pytest.approx(value, rel=1e-10)
            expected = value if (u, v) in real else 0.0
            assert float(matrix[v, u]) == pytest.approx(expected, rel=1e-10)
        assert not matrix[~usable].any()
    assert swapped >= 2


def test_a_swap_lowers_the_loss_for_a_small_enough_step() -> None:
    """DNW, Section 2.2: of two edges into one node, taking the one that overtakes is better.

    Compared as in the paper's proof: the loss with the new edge, against the loss if the old one
    had stayed, both with their updated weights and the states of the other nodes fixed.
    """
    torch.manual_seed(0)
    images, labels = torch.randn(32, 18).double(), torch.randint(2, (32,)).double()
    swaps = 0
    for _ in range(40):
        node = nn.Linear(18, 1, bias=False).double()
        with torch.no_grad():  # two weights a hair apart: a small step can swap only them
            weight = node.weight.view(-1)
            sizes = torch.linspace(0.2, 1.0, 18, dtype=torch.float64)[torch.randperm(18)]
            weight.copy_(sizes * (torch.rand(18) - 0.5).sign() * 1e-4)
            order = weight.abs().argsort(descending=True)
            sign = weight[order[9]].sign()
            weight[order[9]] = sign * weight[order[8]].abs() * (1 - 1e-9)
        sgd = SGD(node.parameters(), lr=1e-10)
        rule = StraightThrough(sgd, [EdgeSet([node.weight], 9)])
        edges = rule.masks[0].clone()
        functional.binary_cross_entropy_with_logits(node(images)[:, 0], labels).backward()
        sgd.step()
        if torch.equal(edges, rule.masks[0]):
            continue
        swaps += 1
        stayed = images @ torch.where(edges, rule.latent[0], 0.0).t()
        with torch.no_grad():
            losses = [
                float(functional.binary_cross_entropy_with_logits(logits[:, 0], labels))
                for logits in (node(images), stayed)
            ]
        assert losses[0] < losses[1]
    assert swaps >= 10


@pytest.mark.parametrize("closure", [False, True])
def test_closures_and_plain_steps_agree(closure: bool) -> None:
    model = network()
    sgd = MAKERS["SGD"](model.parameters())
    StraightThrough(sgd, [EdgeSet([model[0].weight], 10)])
    seen = []
    for images, labels in batches(5):

        def compute(images: Tensor = images, labels: Tensor = labels) -> Tensor:
            sgd.zero_grad()
            seen.append(int((model[0].weight != 0).sum()))
            loss = functional.cross_entropy(model(images), labels)
            loss.backward()
            return loss

        if closure:
            sgd.step(compute)
        else:
            compute()
            sgd.step()
    assert seen == [10] * 5
    other = network()
    plain = MAKERS["SGD"](other.parameters())
    StraightThrough(plain, [EdgeSet([other[0].weight], 10)])
    for images, labels in batches(5):
        plain.zero_grad()
        functional.cross_entropy(other(images), labels).backward()
        plain.step()
    assert torch.equal(model[0].weight, other[0].weight)


def test_an_optimizer_that_evaluates_often_sees_the_sparse_network_each_time() -> None:
    model = network()
    optimizer = LBFGS(model.parameters(), lr=0.1, max_iter=5)
    StraightThrough(optimizer, [EdgeSet([model[0].weight], 10)])
    images, labels = batches(1)[0]
    seen = []

    def compute() -> Tensor:
        optimizer.zero_grad()
        seen.append(int((model[0].weight != 0).sum()))
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    optimizer.step(compute)
    assert len(seen) > 2
    assert set(seen) == {10}


def test_channels_last_and_contiguous_weights_agree() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3)
    with torch.no_grad():
        conv.weight.copy_(torch.randint(-2, 3, conv.weight.shape).float())  # many ties
    other = deepcopy(conv).to(memory_format=torch.channels_last)
    for layer in (conv, other):
        StraightThrough(SGD(layer.parameters(), lr=0.1), [EdgeSet([layer.weight], 50)])
    assert torch.equal(conv.weight, other.weight)
    assert other.weight.is_contiguous(memory_format=torch.channels_last)
    assert int((conv.weight != 0).sum()) == 50


def test_weights_may_move_to_other_memory_between_steps() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, bias=False)
    moving = deepcopy(conv)
    pairs = []
    for layer in (conv, moving):
        sgd = SGD(layer.parameters(), lr=0.1)
        pairs.append((layer, sgd, StraightThrough(sgd, [EdgeSet([layer.weight], 50)])))
    layouts = [torch.channels_last, torch.channels_last, torch.contiguous_format] * 3
    for step, layout in enumerate(layouts):
        gradient = torch.randn(conv.weight.shape)
        for layer, sgd, _ in pairs:
            layer.weight.grad = gradient.clone()
            sgd.step()
        assert torch.equal(conv.weight, moving.weight), step
        assert int((moving.weight != 0).sum()) == 50
        moving.to(memory_format=layout)
        pairs[1][2].latent[0] = pairs[1][2].latent[0].clone()


def test_a_group_shares_one_count() -> None:
    small, large = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        small.weight.mul_(0.01)
    weights = [small.weight, large.weight]
    sgd = SGD(weights, lr=0.1)
    StraightThrough(sgd, [EdgeSet(weights, 12)])
    assert int((small.weight != 0).sum()) == 0
    assert int((large.weight != 0).sum()) == 12


def test_frozen_edges_stay_and_learn() -> None:
    model = network()
    sgd = MAKERS["SGD"](model.parameters())
    rule = StraightThrough(sgd, [EdgeSet([model[0].weight], 10)])
    rule.freeze()
    edges = model[0].weight != 0
    start = model[0].weight.detach().clone()
    for images, labels in batches(20):
        sgd.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        sgd.step()
        assert torch.equal(model[0].weight != 0, edges)
    assert (model[0].weight - start)[edges].abs().min() > 0


def test_a_state_continues_bit_for_bit() -> None:
    def fresh() -> tuple[nn.Sequential, Optimizer, StraightThrough]:
        model = network()
        sgd = MAKERS["SGD"](model.parameters())
        return model, sgd, StraightThrough(sgd, [EdgeSet([model[0].weight], 10)])

    def run(model: nn.Module, sgd: Optimizer, data: list[tuple[Tensor, Tensor]]) -> None:
        for images, labels in data:
            sgd.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            sgd.step()

    data = batches(20)
    whole, sgd, _ = fresh()
    run(whole, sgd, data)
    first, sgd, rule = fresh()
    run(first, sgd, data[:9])
    saved = deepcopy((first.state_dict(), sgd.state_dict(), rule.state_dict()))
    second, sgd, rule = fresh()
    second.load_state_dict(saved[0])
    sgd.load_state_dict(saved[1])
    rule.load_state_dict(saved[2])
    assert int((second[0].weight != 0).sum()) == 10
    run(second, sgd, data[9:])
    for ours, expected in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("freeze", [False, True])
def test_a_state_is_enough_for_the_sparse_weights(freeze: bool) -> None:
    """Whatever the parameters held, they get the weights of the state; frozen edges stay."""
    saved, other = network(), network()
    rules = []
    for model in (saved, other):
        sgd = MAKERS["SGD"](model.parameters())
        rules.append(StraightThrough(sgd, [EdgeSet([model[0].weight], 10)]))
        images, labels = batches(1)[0]
        functional.cross_entropy(model(images), labels).backward()
        sgd.step()
    if freeze:
        rules[0].freeze()
    with torch.no_grad():
        rules[1].latent[0].neg_()
        other[0].weight.zero_()
    rules[1].load_state_dict(deepcopy(rules[0].state_dict()))
    assert torch.equal(other[0].weight, saved[0].weight)
    edges = saved[0].weight != 0
    other[0].weight.grad = torch.where(edges, 0.0, 100.0).double()
    rules[1].optimizer.step()
    assert torch.equal(other[0].weight != 0, edges) == freeze


def test_bad_arguments_get_one_clear_sentence() -> None:
    layer, other = nn.Linear(2, 3), nn.Linear(2, 3)
    sgd = SGD(layer.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"between 0 and 6, .* got 7"):
        EdgeSet([layer.weight], 7)
    with pytest.raises(ValueError, match=r"between 0 and 2, .* got 3"):
        EdgeSet([layer.weight], 3, [torch.eye(3, 2) > 0])
    with pytest.raises(ValueError, match=r"mask of shape \(2,\)"):
        EdgeSet([layer.weight], 1, [torch.ones(2, dtype=torch.bool)])
    with pytest.raises(ValueError, match="not in the optimizer"):
        StraightThrough(sgd, [EdgeSet([other.weight], 2)])
    with pytest.raises(ValueError, match="in two edge sets"):
        StraightThrough(sgd, [EdgeSet([layer.weight], 2), EdgeSet([layer.weight], 1)])
    rule = StraightThrough(sgd, [EdgeSet([layer.weight], 2)])
    with pytest.raises(ValueError, match="other shapes"):
        rule.load_state_dict({"latent": [torch.zeros(1)], "masks": [], "thresholds": []})
