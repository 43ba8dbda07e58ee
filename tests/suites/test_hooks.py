"""Layers of torch inside of every network are called if that matters, with the same result."""

from collections import Counter
from copy import deepcopy
from itertools import product
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from tests.methods import NETWORKS, Method, over

LAYERS = nn.Conv2d | nn.Linear | nn.BatchNorm2d


def _layers(network: nn.Module) -> dict[str, nn.Module]:
    return {name: part for name, part in network.named_modules() if isinstance(part, LAYERS)}


def _count_calls(network: nn.Module, way: str) -> Counter[str]:
    """Counts by a hook, by a subclass with its own `forward`, or by a `forward` of the layer."""
    calls = Counter[str]()
    for name, layer in _layers(network).items():
        kind = type(layer)

        def forward(self: nn.Module, given: Tensor, name: str = name, kind: Any = kind) -> Tensor:
            calls.update([name])
            return kind.forward(self, given)

        if way == "hook":
            layer.register_forward_hook(lambda *_, name=name: calls.update([name]))
        elif way == "subclass":
            layer.__class__ = type("Own", (kind,), {"forward": forward})
        else:
            layer.forward = MethodType(forward, layer)
    return calls


def _answer(network: nn.Module, images: Tensor, grad: bool) -> Tensor:
    torch.manual_seed(1)  # a fabric draws in every forward pass
    with torch.set_grad_enabled(grad):
        return network(images)


@over(NETWORKS, "network")
@pytest.mark.parametrize(
    "form", ["training", "compiled training", "evaluation", "compact", "folded", "compiled folded"]
)
def test_every_layer_whose_call_matters_is_called(
    method: Method, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling, form = form.startswith("compiled"), form.removeprefix("compiled ")
    # Branches would be computed in C, without calls of their layers, if that were right. That is in
    # float32.
    compact = form in ("compact", "folded")
    dtype, tolerance = (torch.float32, 1e-4) if compact else (torch.float64, 1e-9)
    network = method.task().backbone.to(dtype).train(form == "training")
    if compact:
        if not hasattr(network, "compact"):
            pytest.skip(f"{method.name}: the network has no compact form")
        try:
            network = network.compact(**{"fold_batch_norm": True} if form == "folded" else {})
        except TypeError:
            pytest.skip(f"{method.name}: its norms cannot be folded")
    images = torch.rand(4, 1, 8, 8).to(dtype)
    expected = _answer(deepcopy(network), images, grad=True)
    if compiling:  # the same code as torch.compile and export read, without their work
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    usual = form == "training"  # whether gradients are wanted
    for way, grad in [*product(["hook", "subclass", "forward"], [usual]), ("hook", not usual)]:
        hooked = deepcopy(network)
        calls = _count_calls(hooked, way)
        found = _answer(hooked, images, grad)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        assert calls.keys() == _layers(hooked).keys()


@over(NETWORKS, "network")
def test_weights_that_a_hook_computes_learn(method: Method) -> None:
    network = method.task().backbone.double().train()
    masked = deepcopy(network)
    for name, layer in _layers(network).items():
        if isinstance(layer, nn.Conv2d):
            prune.random_unstructured(layer, "weight", 0.5)
            masked.get_submodule(name).weight.data *= layer.weight_mask
    images, labels = torch.rand(4, 1, 8, 8).double(), torch.arange(4)
    assert torch.equal(_answer(network, images, True), _answer(network, images, True))
    torch.testing.assert_close(_answer(network, images, True), _answer(masked, images, True))
    learned = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=0.1)
    before = [layer.weight.detach().clone() for layer in _layers(network).values()]
    for _ in range(2):
        optimizer.zero_grad()
        functional.cross_entropy(_answer(network, images, True), labels).backward()
        optimizer.step()
    _answer(network, images, True)
    for old, (name, layer) in zip(before, _layers(network).items(), strict=True):
        own = layer.weight
        if isinstance(layer, nn.Conv2d):
            own = layer.weight_orig
            assert torch.equal(layer.weight, own * layer.weight_mask)
        # No block may read this one, so that it has no gradient.
        if own.grad is not None and own.grad.any():
            assert not torch.equal(layer.weight, old), name
