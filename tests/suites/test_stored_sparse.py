"""Layers stored sparse inside of every network."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from tests.methods import METHODS, Method, over
from tests.nn.sparse_layers import sparse_is_faster
from wiring_lightning.nn import SparseConv2d, SparseLinear, store_dense, store_sparse


@over(METHODS, "network")
@pytest.mark.parametrize("compact", [False, True], ids=["whole", "compact"])
def test_a_network_stored_sparse_computes_the_same(method: Method, compact: bool) -> None:
    network = method.task().backbone.double().eval()
    if compact:
        if not hasattr(network, "compact"):
            pytest.skip(f"{method.name}: the network has no compact form")
        network = deepcopy(network.compact())
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data *= torch.rand_like(layer.weight) < 0.3
    images = torch.rand(4, 1, 8, 8).double()
    with torch.no_grad():
        expected = network(images)
        packed = store_sparse(network, images, sparse_is_faster())
        assert any(isinstance(layer, SparseConv2d | SparseLinear) for layer in packed.modules())
        for other in (packed, store_dense(packed)):
            torch.testing.assert_close(other(images), expected, rtol=1e-9, atol=1e-12)
