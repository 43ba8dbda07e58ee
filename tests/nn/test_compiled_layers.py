"""Compiled modules call the layers that compute something of their own, in one graph."""

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.layers import Halved, Rectified, Standardised
from wiring_lightning.nn import Branches, DenseLayer
from wiring_lightning.nn.hooks import computes_as

_Change = Callable[[nn.Module], Any]


def _of_class(kind: type[nn.Module]) -> _Change:
    return lambda layer: setattr(layer, "__class__", kind)


def _own_forward(layer: nn.Module) -> None:
    kind: Any = type(layer)
    layer.forward = MethodType(lambda self, given: kind.forward(self, 2 * given), layer)


def _prune(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", amount=0.5)


_CONV: dict[str, _Change] = {
    "class": _of_class(Standardised),
    "weight of a class": _of_class(Halved),
    "own forward": _own_forward,
    "hook": lambda layer: layer.register_forward_hook(lambda _, inputs, output: 3 * output),
    "hook before": lambda layer: layer.register_forward_pre_hook(lambda _, inputs: 3 * inputs[0]),
    "pruned": _prune,
}


def _compiled(module: nn.Module) -> Any:
    torch._dynamo.reset()
    return torch.compile(module, backend="eager", fullgraph=True)


def _changed_compiles_alike(module: nn.Module, layer: nn.Module, how: _Change, *given: Any) -> None:
    """A layer is changed in an eager and in a compiled module: both answers change, and agree."""
    with torch.no_grad():
        before = module(*given)
    how(layer)
    compiled = _compiled(module)
    for _ in range(2):  # a weight that a hook computes must be computed each time
        module.zero_grad()
        expected = module(*given)
        expected.square().sum().backward()
        gradients = {name: weight.grad for name, weight in module.named_parameters()}
        module.zero_grad()
        found = compiled(*given)
        found.square().sum().backward()
        torch.testing.assert_close(found, expected)
        for name, weight in module.named_parameters():
            torch.testing.assert_close(weight.grad, gradients[name])
    assert (expected - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["weight of a class", "hook", "pruned"])
def test_a_dense_layer_calls_its_convolution(kind: str) -> None:
    layer = DenseLayer([3, 2], growth=2).eval()
    outputs = [torch.randn(2, 3, 5, 5), torch.randn(2, 2, 5, 5)]
    gates = torch.tensor([1.0, 2.0])
    _changed_compiles_alike(layer, layer.conv, _CONV[kind], outputs, gates)


def test_branches_call_their_norm() -> None:
    branches = Branches(2, 4, 2, 4, shared_input=True).eval()
    given = torch.randn(2, 1, 4, 4, 4)
    _changed_compiles_alike(branches, branches.expand_norm, _of_class(Rectified), given)


class _Asks(nn.Module):
    """What it computes tells what `computes_as` says of its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return images + 1 if computes_as(nn.Conv2d, self.layer) else images


@pytest.mark.parametrize("kind", _CONV)
def test_what_is_changed_is_seen_while_compiling(kind: str) -> None:
    asks, nothing = _Asks(), torch.zeros(1)
    assert float(_compiled(asks)(nothing)) == 1
    _CONV[kind](asks.layer)
    assert float(_compiled(asks)(nothing)) == 0
    with torch.no_grad():
        exported = torch.export.export(asks, (nothing,), strict=False)
    assert float(exported.module()(nothing)) == 0


@pytest.mark.skipif(
    torch.__version__.startswith("2.11"), reason="torch 2.11 does not compile again for a hook"
)
def test_a_hook_that_comes_later_is_seen() -> None:
    asks, nothing = _Asks(), torch.zeros(1)
    compiled = _compiled(asks)
    assert float(compiled(nothing)) == 1
    hook = asks.layer.register_forward_hook(lambda *_: None)
    assert float(compiled(nothing)) == 0
    hook.remove()
    assert float(compiled(nothing)) == 1
