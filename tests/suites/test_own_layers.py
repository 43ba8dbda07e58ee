"""Every network with layers that compute something of their own: its compact form does the same."""

from itertools import cycle

import pytest
import torch
from torch import nn

from tests.export.networks import images_for, made
from tests.layers import COMPUTED, OWN, changed, is_same, sums, with_computed_weights
from tests.methods import Method, named, over

# One of each kind of `compact()`.
_OWN = [
    named(name)
    for name in (
        "resnext-learned", "resnet-learned", "densenet-learned", "conv-fabric", "sparsenet",
        "sparse-resnet", "mobilenet-dnw", "discrete-graph",
    )
]  # fmt: skip
_COMPUTED = [method for method in _OWN if method.name not in ("resnet-learned", "sparsenet")]


def _check(method: Method, network: nn.Module) -> None:
    """The compact forms compute what the network does, and leave it as it is."""
    images, before = images_for(method).double(), sums(network)
    forms = [network.compact(), network.compact(fold_batch_norm=True)]
    assert is_same(network, before)
    with torch.no_grad():
        expected = network(images)
        for small in forms:
            torch.testing.assert_close(small(images), expected, atol=1e-8, rtol=1e-6)
    assert is_same(network, before)


@pytest.mark.parametrize("kind", OWN)
@over(_OWN)
def test_layers_that_compute_something_else_are_left_as_they_are(method: Method, kind: str) -> None:
    network = made(method).double().eval()
    for module in network.modules():
        OWN[kind](module)
    _check(method, network)


# Every kind in one network, and every network with one kind.
_PAIRS = [
    *((_COMPUTED[0], kind) for kind in COMPUTED),
    *zip(_COMPUTED[1:], cycle(COMPUTED), strict=False),
]


@pytest.mark.parametrize(
    ("method", "kind"), [pytest.param(*pair, id=f"{pair[0].name}-{pair[1]}") for pair in _PAIRS]
)
def test_weights_that_are_computed_become_plain(method: Method, kind: str) -> None:
    network = with_computed_weights(made(method).double(), kind)
    images = images_for(method).double()
    network(images).square().mean().backward()  # a weight of a hook is no leaf now
    network.load_state_dict(changed(network.state_dict()))  # and not up to date
    _check(method, network.eval())
    small = network.compact()
    assert not any(name.endswith(("_orig", "_g", "_mask", "_u")) for name in small.state_dict())
    assert not any("parametrizations" in name for name in small.state_dict())
