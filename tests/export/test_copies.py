"""A network that was read from a file can be copied, pickled, averaged and exported again."""

import io
import pickle
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tests.export.networks import images_for, made
from tests.methods import named
from wiring_lightning.export import DescribedNetwork, describe, export_network, plain_network, trace
from wiring_lightning.nn import store_dense, store_sparse

IMAGES = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Filled(nn.Module):
    """A network with operators that make a tensor on the device of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.conv(images)).mean((2, 3))
        more = torch.full((images.shape[0], 2), 0.5, device=images.device, dtype=images.dtype)
        return torch.cat([features, more, more.new_zeros(images.shape[0], 1)], 1)


def _saved(network: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": deepcopy,
    "a copy of a copy": lambda network: deepcopy(deepcopy(network)),
    "pickle": lambda network: pickle.loads(pickle.dumps(network)),
    "torch.save": _saved,
    "an average": AveragedModel,
    "store_dense": store_dense,
    "store_sparse": lambda network: store_sparse(network, IMAGES),
    "plain_network": plain_network,
}


def _read(network: nn.Module, images: Tensor) -> DescribedNetwork:
    return DescribedNetwork(*describe(trace(plain_network(network), images[0], sparse=True)))


@cache
def _parts() -> Any:
    """What describes `Filled`: tracing takes longest."""
    return describe(trace(plain_network(Filled()), IMAGES[0], sparse=True))


def _filled() -> DescribedNetwork:
    return DescribedNetwork(*deepcopy(_parts()))


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_computes_the_same_and_has_weights_of_its_own(how: str) -> None:
    network = _filled()
    network.weights.conv.bias.requires_grad_(False)  # type: ignore[union-attr]
    before = network(IMAGES)
    copied = COPIES[how](network)
    assert torch.equal(copied(IMAGES), before)
    weights = dict(copied.named_parameters())
    assert [weight.requires_grad for weight in weights.values()] == [True, False, True, True]
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(1)
    assert not torch.equal(copied(IMAGES), before)
    assert torch.equal(network(IMAGES), before)
    torch.testing.assert_close(copied.double()(IMAGES.double()).float(), copied.float()(IMAGES))


@pytest.mark.parametrize("name", ["conv-fabric", "discrete-graph"])
def test_networks_of_this_package_are_copied_too(name: str) -> None:
    method = named(name)
    images = images_for(method)
    network = _read(made(method), images)
    for how in ("deepcopy", "pickle"):
        assert torch.equal(COPIES[how](network)(images), network(images))


def test_what_was_read_is_exported_again(tmp_path: Any) -> None:
    network = _filled()
    done = export_network(network, tmp_path / "again.pt2", IMAGES)
    assert done.difference < 1e-5
