"""Functions that run a network on an example of the user's leave the example as it is."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wiring_lightning.costs import layer_costs, multiply_adds_by_weight, sparse_multiply_adds
from wiring_lightning.nn import remove_dead_channels, store_sparse
from wiring_lightning.nn.own_tensors import with_own_tensors


class Normalises(nn.Module):
    """Writes into its images, as preprocessing does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)
        self.last.weight.data[:, ::2] = 0

    def forward(self, images: Tensor) -> Tensor:
        images.sub_(0.5).div_(0.25)
        return self.last(self.first(images).relu())


FUNCTIONS = [
    sparse_multiply_adds, multiply_adds_by_weight, layer_costs, store_sparse, remove_dead_channels
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_network_that_writes_into_its_images_does_not_reach_the_users(
    function: Callable[..., Any],
) -> None:
    if function is remove_dead_channels:
        pytest.importorskip("torch_pruning")
    images = torch.rand(1, 3, 8, 8)
    kept, network = images.clone(), Normalises().eval()
    result = function(network, images)
    assert torch.equal(images, kept)
    if isinstance(result, nn.Module):
        expected = network(kept.clone())
        torch.testing.assert_close(result(kept.clone()), expected, atol=1e-5, rtol=1e-4)
    if function is remove_dead_channels:
        assert result.first.out_channels == 3


def test_tensors_are_copied_wherever_they_are() -> None:
    pair = namedtuple("pair", ["left", "right"])
    tensor = torch.ones(2, requires_grad=True)
    example = {"a": (tensor, 3), "b": [pair(tensor * 2, None)], "c": OrderedDict(d=tensor)}
    own = with_own_tensors(example)
    own["a"][0].zero_()
    own["b"][0].left.zero_()
    own["c"]["d"].zero_()
    assert float(tensor.detach().sum()) == 2
    assert float(example["b"][0].left.detach().sum()) == 4
    assert (own["a"][1], own["b"][0].right) == (3, None)
    assert [type(value) for value in own.values()] == [tuple, list, OrderedDict]
