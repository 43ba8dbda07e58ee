"""Layers stored sparse inside of every network."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from tests.export.networks import TRACED, images_for, made
from tests.methods import Method, over
from tests.nn.sparse_layers import sparse_is_faster
from wiring_lightning import backbones, costs
from wiring_lightning.export.tracing import plain_network
from wiring_lightning.nn import SparseConv2d, SparseLinear, store_dense, store_sparse
from wiring_lightning.nn.replacing import replace_modules
from wiring_lightning.nn.store_sparse import _stored_sparse


@over([one for one in TRACED if one.name != "gated-heads"])  # its layers are grouped ones
@pytest.mark.parametrize("compact", [False, True], ids=["whole", "compact"])
def test_a_network_stored_sparse_computes_the_same(method: Method, compact: bool) -> None:
    network = method.backbone(**method.arguments).double().eval()
    if compact:
        if not hasattr(network, "compact"):
            pytest.skip(f"{method.name}: the network has no compact form")
        network = deepcopy(network.compact())
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data *= torch.rand_like(layer.weight) < 0.3
    images = images_for(method, 4).double()
    with torch.no_grad():
        expected = network(images)
        packed = store_sparse(network, images, sparse_is_faster())
        assert any(isinstance(layer, SparseConv2d | SparseLinear) for layer in packed.modules())
        for other in (packed, store_dense(packed)):
            torch.testing.assert_close(other(images), expected, rtol=1e-9, atol=1e-12)


OWN = [one for one in TRACED if hasattr(backbones, one.backbone.__name__)]


def _stored(network: nn.Module) -> nn.Module:
    """A copy with every layer stored sparse that can be, without measuring any."""
    for layer in network.modules():
        if type(layer) in (nn.Conv2d, nn.Linear):
            layer.weight.data *= torch.rand_like(layer.weight) < 0.4
    packed = deepcopy(network)
    sparse = {one: stored for one in packed.modules() if (stored := _stored_sparse(one))}
    return replace_modules(packed, sparse)


def _costs(network: nn.Module) -> list[int]:
    wiring = network.wiring()
    return [int(cost(wiring, live=live)) for cost in (costs.parameters, costs.multiply_adds)
            for live in (True, False)]  # fmt: skip


@over(OWN)
@pytest.mark.parametrize("compact", [False, True], ids=["whole", "compact"])
@torch.no_grad()
def test_a_network_stored_sparse_costs_and_exports_the_same(method: Method, compact: bool) -> None:
    network, images = made(method).double().eval(), images_for(method, 2).double()
    if compact:
        network = deepcopy(network.compact())
    packed = _stored(network)
    expected = network(images)
    if hasattr(network, "wiring"):
        assert _costs(packed) == _costs(network)
    if hasattr(network, "compact"):
        for fold in (False, True):
            small, wanted = (one.compact(fold_batch_norm=fold) for one in (packed, network))
            torch.testing.assert_close(small(images), expected, rtol=1e-9, atol=1e-10)
            assert not hasattr(wanted, "wiring") or _costs(small) == _costs(wanted)
    plain = plain_network(packed)
    assert not any(isinstance(one, SparseConv2d | SparseLinear) for one in plain.modules())
    torch.testing.assert_close(plain(images), expected, rtol=1e-9, atol=1e-10)
