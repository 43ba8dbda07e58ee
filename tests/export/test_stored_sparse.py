"""A file of a network whose layers are stored as CSR has plain layers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.nn.sparse_layers import sparse_is_faster
from tests.nn.test_store_sparse import Twice
from wiring_lightning.export import export_network, load_exported
from wiring_lightning.export.tracing import plain_network
from wiring_lightning.nn import SparseConv2d, SparseLinear, store_sparse
from wiring_lightning.wiring import Wiring, make_wiring

IMAGES = torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def packed() -> nn.Module:
    torch.manual_seed(0)
    return store_sparse(Twice(), IMAGES, sparse_is_faster())


def test_all_places_of_a_layer_become_dense(packed: nn.Module) -> None:
    plain = plain_network(packed)
    assert not any(isinstance(m, SparseLinear | SparseConv2d) for m in plain.modules())
    assert plain.again[0] is plain.conv
    assert plain.again[1] is plain.linear
    assert isinstance(packed.conv, SparseConv2d)  # it was left as it is
    torch.testing.assert_close(plain(IMAGES), packed(IMAGES), atol=1e-5, rtol=1e-5)


def test_a_layer_alone_becomes_dense(packed: nn.Module) -> None:
    assert type(plain_network(packed.conv)) is nn.Conv2d
    assert type(plain_network(packed.linear)) is nn.Linear


class Itself(nn.Module):
    """A network that is compact already, and says so by giving itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(self.norm(images))

    def wiring(self) -> Wiring:
        return make_wiring(["image", "logits"], [0], [1], [True])

    def compact(self) -> nn.Module:
        return self


@pytest.mark.parametrize("held", [False, True], ids=["alone", "inside of another module"])
def test_the_network_that_is_exported_stays_as_it_is(held: bool) -> None:
    own = Itself()
    network = nn.Sequential(nn.BatchNorm2d(4), nn.Sequential(own))
    network = network if held else own
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plain = plain_network(network)
    assert not any(module.training for module in plain.modules())
    assert all(module.training for module in network.modules())
    assert not set(plain.modules()) & set(network.modules())
    with torch.no_grad():
        for value in plain.state_dict().values():
            value.zero_()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2", ".onnx"])
def test_a_file_computes_the_same(packed: nn.Module, suffix: str, tmp_path: Path) -> None:
    for name in {".safetensors": ["safetensors"], ".onnx": ["onnxscript", "onnxruntime"]}.get(
        suffix, []
    ):
        pytest.importorskip(name)
    path = tmp_path / f"net{suffix}"
    export_network(packed, path, IMAGES)
    loaded = load_exported(path, trust=True)
    with torch.no_grad():
        expected = packed(IMAGES)
        assert expected.std() > 1e-2
        torch.testing.assert_close(loaded(IMAGES), expected, atol=1e-4, rtol=1e-4)
