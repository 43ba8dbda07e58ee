"""`torch.export.export` takes every network as it is; for compact ones see `test_every_network`."""

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from tests.export.networks import TRACED, images_for, made
from tests.methods import Method, named, over
from wiring_lightning.nn import BernoulliGate

FAST = ("neural-graph", "conv-fabric")


def _check(network: nn.Module, images: Tensor) -> None:
    """Export with a free number of images, and compare for several of them."""
    shapes = ({0: Dim("batch", min=1)},)
    program = torch.export.export(network, (images[:2],), dynamic_shapes=shapes).module()
    for count in (1, 2, 5):
        with torch.no_grad():
            found, expected = program(images[:count]), network(images[:count])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 1e-3  # the comparison says something


def _as_it_is(method: Method) -> None:
    network, images = made(method).eval(), images_for(method)
    for module in network.modules():
        if isinstance(module, BernoulliGate):
            module.freeze()
    _check(network, images)


@over([method for method in TRACED if method.name in FAST])
def test_some_networks(method: Method) -> None:
    _as_it_is(method)


@pytest.mark.slow
@over([method for method in TRACED if method.name not in FAST])
def test_the_other_networks(method: Method) -> None:
    _as_it_is(method)


@pytest.mark.parametrize("name", ["conv-fabric", "resnet-fabric"])
def test_a_fabric_that_still_learns_says_what_to_do(name: str) -> None:
    method = named(name)
    network = made(method).eval()
    with pytest.raises(RuntimeError, match=r"cannot be exported, .* compact\(\) .* freeze"):
        torch.export.export(network, (images_for(method),))
    network(images_for(method))  # and nothing else changed
    _check(network.compact(), images_for(method))
