"""Parts of a batch: what their readers keep for the backward pass."""

import weakref

import pytest
import torch
from torch import nn

from wiring_lightning.functional.subsets import Subset, exchange, keep_state


def test_gradients_of_readers_that_are_not_used():
    some = Subset(torch.tensor([0, 2]), torch.tensor([True, False, True]))
    part = torch.randn(2, 5, requires_grad=True)
    _, (read, unused) = exchange([part], [some], [False], [some, some], 3)
    read.sum().backward()
    torch.testing.assert_close(part.grad, (part > 0).float())
    assert unused.shape == (2, 5)


def test_readers_of_a_part_keep_the_state_instead():
    subset = Subset(torch.tensor([0, 2]), torch.tensor([True, False, True]))
    state, conv = torch.randn(3, 4, 5, 5), nn.Conv2d(4, 4, 3)
    part = subset.pick(state)
    expected = torch.autograd.grad(conv(part).square().sum(), conv.weight)[0]
    with keep_state(state, part, subset):
        output = conv(part)
    memory = weakref.ref(part)
    del part
    assert memory() is None
    torch.testing.assert_close(torch.autograd.grad(output.square().sum(), conv.weight)[0], expected)


@pytest.mark.parametrize(
    "view",
    [
        lambda part: part.transpose(2, 3),
        lambda part: part.transpose(1, 2),
        lambda part: part.view(torch.int32).view(torch.float32).transpose(1, 3),
        lambda part: part.as_strided(part.shape, (64, 1, 4, 16)),
    ],
)
def test_a_view_of_a_part_is_kept_as_it_was_read(view):
    subset = Subset(torch.tensor([0, 2]), torch.tensor([True, False, True]))
    state = torch.randn(3, 4, 4, 4)
    weight = torch.randn(2, 4, 4, 4, requires_grad=True)
    part = subset.pick(state)
    with keep_state(state, part, subset):
        output = view(part) * weight
    output.sum().backward()
    torch.testing.assert_close(weight.grad, view(state[[0, 2]]))


def test_a_part_that_a_module_changed_is_kept_as_it_was_read():
    subset = Subset(torch.tensor([1]), torch.tensor([False, True]))
    state, weight = torch.tensor([[1.0], [-2.0]]), torch.ones(1, requires_grad=True)
    part = subset.pick(state)
    with keep_state(state, part, subset):
        output = part.mul_(5.0) * weight
    output.sum().backward()
    assert weight.grad == -10.0
