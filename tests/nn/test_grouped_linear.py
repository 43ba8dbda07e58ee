"""Linear layers side by side against torch's own, one by one."""

import pytest
import torch
from torch import nn

from wiring_lightning.nn import GroupedLinear


def test_every_group_is_a_linear_layer() -> None:
    layer, inputs = GroupedLinear(3, 5, 4), torch.randn(7, 3, 5, requires_grad=True)
    outputs = layer(inputs)
    for group in range(3):
        plain = nn.Linear(5, 4)
        plain.weight.data, plain.bias.data = layer.weight[group].T, layer.bias[group, 0]
        torch.testing.assert_close(outputs[:, group], plain(inputs[:, group]))


def test_some_groups_are_copied() -> None:
    layer, inputs = GroupedLinear(4, 5, 2), torch.randn(7, 4, 5)
    smaller = layer.keep([3, 1])
    torch.testing.assert_close(smaller(inputs[:, [3, 1]]), layer(inputs)[:, [3, 1]])
    smaller.weight.data.zero_()
    assert layer.weight.count_nonzero() == 40


def test_values_start_in_the_range_of_a_linear_layer() -> None:
    layer, plain = GroupedLinear(50, 16, 30), nn.Linear(16, 1500)
    for name in ("weight", "bias"):
        own, other = getattr(layer, name), getattr(plain, name)
        assert own.abs().max() <= 0.25
        assert float(own.std()) == pytest.approx(float(other.std()), rel=0.1)
