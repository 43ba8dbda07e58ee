"""Dead channels beside functions that multiply matrices, as in the attention of a Swin."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import swin_transformer as swin

from wiring_lightning.nn import remove_dead_channels

pytest.importorskip("torch_pruning")

IMAGES = torch.randn(2, 3, 8, 8)


@pytest.fixture(autouse=True)
def no_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that grows without an end is an error, in place of a test without one."""
    mapping = pytest.importorskip("torch_pruning.dependency.index_mapping")._FlattenIndexMapping
    found = mapping.__call__

    def limited(self: Any, indices: list[Any]) -> Any:
        assert len(indices) < 10_000
        return found(self, indices)

    monkeypatch.setattr(mapping, "__call__", limited)


@pytest.mark.parametrize(
    ("block", "merging"),
    [
        (swin.SwinTransformerBlock, swin.PatchMerging),
        (swin.SwinTransformerBlockV2, swin.PatchMergingV2),
    ],
)
def test_swin_transformers_lose_what_nobody_reads(block: Any, merging: Any) -> None:
    network = swin.SwinTransformer(
        [4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=5, block=block, downsample_layer=merging
    ).eval()
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear)}
    hidden = {name: layer for name, layer in layers.items() if name.endswith(".mlp.0")}
    for name in hidden:  # of the two blocks
        layers[name.replace(".mlp.0", ".mlp.3")].weight.data[:, [1, 7]] = 0
    assert len(hidden) == 2
    images = torch.randn(2, 3, 32, 32)
    small = remove_dead_channels(network, images)
    for name, layer in layers.items():
        removed = 2 if name in hidden else 0
        assert small.get_submodule(name).out_features == layer.out_features - removed
    torch.testing.assert_close(small(images), network(images))


class Products(nn.Module):
    """Two convolutions, and a product after them."""

    def __init__(self, product: Callable[["Products", Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 1)
        self.inner, self.head = nn.Linear(8, 4), nn.Linear(8, 5)
        self.product = product
        self.second.weight.data[:, [1, 4]] = 0
        self.inner.weight.data[:, 2] = self.head.weight.data[:, 2] = 0

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(self.first(images).relu()).relu()
        return self.product(self, features.flatten(2).transpose(1, 2))


def weight_of_a_layer(net: Products, tokens: Tensor) -> Tensor:
    return functional.linear(tokens.mean(1), net.head.weight, net.head.bias)


def weight_of_a_layer_for_tokens(net: Products, tokens: Tensor) -> Tensor:
    return functional.linear(tokens, net.inner.weight).mean(1)


def weight_beside_a_called_layer(net: Products, tokens: Tensor) -> Tensor:
    return torch.cat([net.head(tokens.mean(1)), tokens.mean(1) @ net.inner.weight.T], 1)


def batches(net: Products, tokens: Tensor) -> Tensor:
    return net.head(torch.bmm(torch.bmm(tokens, tokens.transpose(1, 2)), tokens).mean(1))


@pytest.mark.parametrize(
    "product",
    [weight_of_a_layer, weight_of_a_layer_for_tokens, weight_beside_a_called_layer, batches],
)
def test_channels_of_a_function_stay_and_others_are_removed(product: Any) -> None:
    network = Products(product).eval()
    small = remove_dead_channels(network, IMAGES)
    assert (small.first.out_channels, small.second.in_channels) == (4, 4)
    assert (small.second.out_channels, small.head.in_features) == (8, 8)
    torch.testing.assert_close(small(IMAGES), network(IMAGES))
