"""Compact networks compute what hooks of any module change, and no other function in silence."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.export.networks import NETWORKS, images_for, made
from tests.methods import Method, named, over
from wiring_lightning.backbones import GatedHeads
from wiring_lightning.export import ExportError, export_network


def _changed(values: Any) -> Any:
    """The same, with other numbers."""
    if isinstance(values, tuple):
        return tuple(map(_changed, values))
    return 1.5 * values if isinstance(values, Tensor) and values.is_floating_point() else values


def _after(module: nn.Module) -> None:
    module.register_forward_hook(lambda _module, _inputs, output: _changed(output))


def _before(module: nn.Module) -> None:
    module.register_forward_pre_hook(
        lambda _module, inputs, named: (_changed(inputs), named), with_kwargs=True
    )


_NETWORKS = [one for one in NETWORKS if one.backbone.__module__.startswith("wiring_lightning.")]


def _parts(network: nn.Module) -> list[str]:
    """The last module of each class, which reads more than the first ones do."""
    return list({type(part): name for name, part in network.named_modules()}.values())


@pytest.mark.parametrize("hook", [_after, _before])
@over(_NETWORKS)
def test_a_hook_of_any_module_counts(method: Method, hook: Callable[[nn.Module], None]) -> None:
    network = made(method).double().eval()
    images = images_for(method).double()
    with torch.no_grad():
        plain, reached = network(images), 0
        for name in _parts(network):
            hooked = deepcopy(network)
            hook(hooked.get_submodule(name))
            expected = hooked(images)
            if torch.equal(expected, plain):  # it is not called, or a norm undoes the change
                continue
            reached += 1
            for fold in (False, True):
                found = hooked.compact(fold_batch_norm=fold)(images)
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=name)
        assert reached > 3


# Networks whose compact form is built anew, with the part that is.
_PARTS = [
    ("resnext-learned", ""), ("resnet-learned", ""), ("conv-fabric", ""), ("conv-fabric", "fabric"),
    ("mobilenet-dnw", ""), ("mobilenet-dnw", "graphs.graph2"), ("gated-heads", ""),
    ("gated-heads", "gates.heads"),
]  # fmt: skip


@pytest.mark.parametrize("of", ["class", "object"])
@pytest.mark.parametrize(("name", "part"), _PARTS)
def test_a_forward_of_their_own_is_refused(name: str, part: str, of: str, tmp_path: Path) -> None:
    network = GatedHeads() if name == "gated-heads" else made(named(name))
    own: Any = network.get_submodule(part)
    plain = own.forward
    if of == "class":
        kind = type(own)
        own.__class__ = type("Own", (kind,), {"forward": lambda self, x: kind.forward(self, x)})
    else:
        own.forward = lambda images: plain(images)
    said = "has a forward of its own, which compact"
    with pytest.raises(ValueError, match=said):
        network.compact()
    with pytest.raises(ExportError, match=said):
        export_network(network, tmp_path / "net.pt2", images_for(named("resnet-learned")))


def test_a_class_with_a_compact_of_its_own_may_use_that_of_its_base() -> None:
    network: Any = made(named("resnext-learned")).eval()
    kind: Any = type(network)

    class Halved(kind):
        def forward(self, images: Tensor) -> Tensor:
            return 0.5 * super().forward(images)

        def compact(self, fold_batch_norm: bool = False) -> nn.Module:
            small = super().compact(fold_batch_norm)
            small.register_forward_hook(lambda _module, _inputs, output: 0.5 * output)
            return small

    network.__class__ = Halved
    images = images_for(named("resnext-learned"))
    torch.testing.assert_close(network.compact()(images), network(images))


def test_a_dense_layer_with_a_forward_of_its_own_stays() -> None:
    network: Any = made(named("densenet-learned")).double().eval()
    layer: Any = network.stages["stage1"][-1]
    kind = type(layer)
    layer.__class__ = type("Own", (kind,), {"forward": lambda *given: 2 * kind.forward(*given)})
    images = images_for(named("densenet-learned")).double()
    torch.testing.assert_close(network.compact()(images), network(images))
