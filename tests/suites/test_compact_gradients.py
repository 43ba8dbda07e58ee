"""A compact network can be trained further: its gradients are those of the frozen network."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.export.networks import TRACED, images_for, made
from tests.methods import Method, over
from wiring_lightning.backbones import ResNet
from wiring_lightning.nn import Adjacency, BernoulliGate, Gate


def _frozen(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, Gate | BernoulliGate):
            module.freeze()
    return network.double().eval()


def _gradients(network: nn.Module, images: Tensor, recomputed: bool = False) -> dict[str, Tensor]:
    """The gradients of the images and of all weights that have one."""
    images = images.clone().requires_grad_()
    logits = checkpoint(network, images, use_reentrant=False) if recomputed else network(images)
    logits.square().sum().backward()
    assert images.grad is not None
    own = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"images": images.grad, **own}


@over([method for method in TRACED if hasattr(method.backbone, "compact")])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gradients_are_those_of_the_frozen_network(method: Method, training: bool) -> None:
    network, images = _frozen(made(method)), images_for(method, 3).double()
    small = network.compact().train(training)
    expected, found = _gradients(network.train(training), images), _gradients(small, images)
    torch.testing.assert_close(found["images"], expected["images"], rtol=1e-8, atol=1e-12)
    # Absent edges have a gradient, too, and the compact form has none of them. What connections are
    # multiplied with is a number there.
    edges = {f"{n}.weight" for n, m in network.named_modules() if isinstance(m, Adjacency)}
    factors = {f"{n}.log_weights" for n, m in network.named_modules() if isinstance(m, Gate)}
    for name in expected.keys() - edges - factors:
        gradient = expected[name]
        # Rows that nobody reads are gone, and had no gradient. Others may be in another order.
        rest = float(found[name].norm()) if name in found else 0.0
        assert rest == pytest.approx(float(gradient.norm()), rel=1e-8, abs=1e-12), name


@pytest.mark.parametrize(
    ("depth", "fan_in", "identity", "weighted", "training"),
    [
        (14, 1, "sum", False, False),
        (14, 2, "mean", True, False),
        (20, 2, "mean", False, True),
    ],
)
def test_blocks_that_only_later_stages_read(
    depth: int,
    fan_in: int,
    identity: str,
    weighted: bool,
    training: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = torch.randn(2, 1, 9, 9).double()
    for seed in range(3):
        torch.manual_seed(seed)
        kinds = {"identity": identity, "weighted": weighted, "wiring": "random"}
        network = _frozen(ResNet(depth, fan_in, 3, in_channels=1, **kinds))
        small = network.compact().train(training)
        expected = _gradients(network.train(training), images)
        ways = [_gradients(deepcopy(small), images), _gradients(deepcopy(small), images, True)]
        with monkeypatch.context() as compiling:
            compiling.setattr(torch.compiler, "is_compiling", lambda: True)
            ways.append(_gradients(small, images))
        for found in ways:
            assert found.keys() <= expected.keys()
            for name, gradient in found.items():
                largest = expected[name].abs().max() + 1e-100
                wanted = expected[name] / largest
                torch.testing.assert_close(gradient / largest, wanted, rtol=0, atol=1e-9)
