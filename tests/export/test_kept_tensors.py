"""Networks that keep an activation of their last training step are copied like any others."""

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wiring_lightning.backbones import DenseNet
from wiring_lightning.export import export_network, plain_network
from wiring_lightning.nn import remove_dead_channels, store_dense, store_sparse
from wiring_lightning.nn.plain_weights import with_plain_weights

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Pair = namedtuple("Pair", ["first", "second"])
PLACES: dict[str, Any] = {
    "attribute": lambda kept: kept,
    "list": lambda kept: [kept, [kept]],
    "mapping": lambda kept: {"last": {"one": kept}},
    "named": lambda kept: Pair("a word", kept),
}


class Keeps(nn.Module):
    """A network that keeps an activation, and adds what it saw to a buffer."""

    def __init__(self, place: Any) -> None:
        super().__init__()
        self.conv, self.head, self.place, self.kept = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), place, 0
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images).mean((2, 3))
        if self.training:
            self.kept = self.place(features)
            self.seen = self.seen + features.mean(0)
        logits: Tensor = self.head(features)
        return logits


def trained(network: nn.Module) -> nn.Module:
    network.train()(IMAGES).square().sum().backward()
    return network


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [] if isinstance(value, str) else [one for part in parts for one in tensors_in(part)]


COPIES: dict[str, Any] = {
    "with_plain_weights": with_plain_weights,
    "store_dense": store_dense,
    "store_sparse": lambda network: store_sparse(network, IMAGES),
    "remove_dead_channels": lambda network: remove_dead_channels(network, IMAGES),
    "plain_network": plain_network,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", COPIES)
def test_kept_tensors_are_detached_copies(how: str, place: str) -> None:
    if how == "remove_dead_channels":
        pytest.importorskip("torch_pruning")
    network = trained(Keeps(PLACES[place]))
    copied = COPIES[how](network)
    for one, other in zip(tensors_in(network.kept), tensors_in(copied.kept), strict=True):
        assert torch.equal(one, other)
        assert one.requires_grad
        assert not other.requires_grad
        assert one.data_ptr() != other.data_ptr()
    assert torch.equal(copied.seen, network.seen)
    assert not copied.seen.requires_grad
    torch.testing.assert_close(copied.eval()(IMAGES), network.eval()(IMAGES))


def test_a_list_that_holds_itself_is_copied() -> None:
    network = trained(Keeps(PLACES["list"]))
    network.kept.append(network.kept)
    assert with_plain_weights(network).kept[-1] is not network.kept


def test_a_network_that_keeps_an_activation_is_exported(tmp_path: Path) -> None:
    done = export_network(trained(Keeps(PLACES["attribute"])), tmp_path / "a.safetensors", IMAGES)
    assert done.agreement == 1


def test_a_backbone_that_keeps_an_activation_becomes_compact() -> None:
    network = DenseNet(depth=7, growth=2, fan_in=1, image_size=8)
    network.stem.register_forward_hook(lambda layer, _, output: setattr(layer, "kept", output))
    small = trained(network).compact()
    torch.testing.assert_close(small(IMAGES), network.eval()(IMAGES))
