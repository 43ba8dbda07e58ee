"""Removing channels that nobody reads, against a count by hand and the answers of the network."""

import copy
import importlib
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from wiring_lightning.nn import remove_dead_channels

IMAGES = torch.randn(2, 3, 16, 16)


@pytest.fixture(autouse=True)
def library() -> None:
    pytest.importorskip("torch_pruning")


def ready(network: nn.Module) -> nn.Module:
    """With statistics that are not those of a new network."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias)
    return network.eval()


def unread(layer: nn.Module, channels: list[int]) -> None:
    layer.weight.data[:, channels] = 0


class Skips(nn.Module):
    """A sum, a concatenation and a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.block, self.side = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.last = nn.Conv2d(12, 5, 3, stride=4)
        self.classifier = nn.Linear(5 * 4 * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.stem(images)).relu()
        x = x + self.block(x)
        x = torch.cat([x, self.side(x)], 1)
        return self.classifier(self.last(x).relu().flatten(1))


def sizes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape[:2]) for name, value in network.named_parameters()
            if value.dim() > 1}  # fmt: skip


def test_frozen_networks_lose_as_many_channels_in_every_mode_of_autograd() -> None:
    network = ready(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    unread(network[2], [5, 6, 7])
    network[0].requires_grad_(False)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            small = remove_dead_channels(network, IMAGES.clone())
        assert small[0].out_channels == 5
        assert [weight.requires_grad for weight in small.parameters()] == [False] * 2 + [True] * 2
        torch.testing.assert_close(small(IMAGES), network(IMAGES))


def test_channels_of_sums_concatenations_and_flattened_maps() -> None:
    network = ready(Skips())
    for layer in (network.block, network.side, network.last):
        unread(layer, [1, 6])  # the sum's channels, by all who read them
    unread(network.last, [8])  # the first of the side's
    network.classifier.weight.data.view(10, 5, 16)[:, 3] = 0  # the map of a channel
    small = remove_dead_channels(network, IMAGES)
    assert sizes(small) == {
        "stem.weight": (6, 3), "block.weight": (6, 6), "side.weight": (3, 6),
        "last.weight": (4, 9), "classifier.weight": (10, 64),
    }  # fmt: skip
    images = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(small(images), network(images), atol=1e-5, rtol=1e-4)
    assert sizes(network)["stem.weight"] == (8, 3)  # the first one is as it was


def test_a_channel_that_one_layer_reads_stays() -> None:
    network = ready(Skips())
    for layer in (network.side, network.last):
        unread(layer, [1])
    assert sizes(remove_dead_channels(network, IMAGES)) == sizes(network)


def test_what_only_removed_channels_read_is_removed_too() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.ReLU(),
                            nn.Conv2d(5, 2, 1))  # fmt: skip
    unread(network[4], [0, 1, 2])
    network[2].weight.data[3:, :4] = 0  # channels 0 to 3 are read by the dead ones only
    small = remove_dead_channels(network, IMAGES)
    assert [*sizes(small).values()] == [(2, 3), (2, 2), (2, 2)]
    torch.testing.assert_close(small(IMAGES), network(IMAGES))


def test_a_layer_keeps_a_channel() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    network[2].weight.data.zero_()
    small = remove_dead_channels(network, torch.randn(2, 4))
    assert [*sizes(small).values()] == [(1, 4), (2, 1)]
    torch.testing.assert_close(small(torch.ones(1, 4)), network(torch.ones(1, 4)))


def test_channels_of_norms_over_channels_and_groups_stay() -> None:
    for inner in (nn.GroupNorm(2, 6), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 6, 3, groups=2)):
        network = nn.Sequential(nn.Conv2d(3, 6, 1), inner, nn.Conv2d(6, 2, 1))
        unread(network[2], [0, 4])
        assert sizes(remove_dead_channels(network, IMAGES)) == sizes(network)


class Mixed(nn.Module):
    """Something without weights between two convolutions."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.third, self.mix = nn.Conv2d(8, 2, 1), mix
        unread(self.second, [0, 1, 4])
        unread(self.third, [2, 7])

    def forward(self, images: Tensor) -> Tensor:
        return self.third(self.second(self.mix(self.first(images))).relu())


def _gated(maps: Tensor) -> Tensor:
    """By a gate that opens only for answers that the example does not give."""
    return maps.relu() * (maps.amax((1, 2, 3), keepdim=True) > 40)


MIXING = [
    nn.LocalResponseNorm(5), nn.LocalResponseNorm(3, alpha=1e-7), nn.Softmax(1), nn.Softmax2d(),
    nn.GroupNorm(2, 8, affine=False), nn.LayerNorm([8, 16, 16], elementwise_affine=False),
    nn.CrossMapLRN2d(5), partial(functional.local_response_norm, size=5), _gated,
    partial(torch.softmax, dim=1), partial(functional.normalize, dim=1),
    nn.Sequential(nn.InstanceNorm2d(8), nn.LocalResponseNorm(5)),
    lambda maps: maps * maps.mean(1, keepdim=True).sigmoid(),
    lambda maps: maps + maps.amax(1, keepdim=True),
    lambda maps: functional.channel_shuffle(maps, 2),
    lambda maps: maps.flip(1),
]  # fmt: skip


@pytest.mark.parametrize("mix", MIXING)
def test_channels_that_are_mixed_without_weights_stay(mix: Callable[[Tensor], Tensor]) -> None:
    network = Mixed(mix).eval()
    small = remove_dead_channels(network, IMAGES)
    assert small.second.in_channels == 8
    assert small.second.out_channels == 6  # the others are removed
    for scale in (1, 10, -1000):
        torch.testing.assert_close(small(IMAGES * scale), network(IMAGES * scale))


SEPARATE = [
    nn.GELU(), nn.SiLU(), nn.PReLU(8), nn.AvgPool2d(2), nn.MaxPool2d(2), nn.InstanceNorm2d(8),
    nn.BatchNorm2d(8), nn.Upsample(scale_factor=2), nn.ZeroPad2d(1), nn.Dropout2d(),
    lambda maps: maps * maps.mean((2, 3), keepdim=True).sigmoid(), lambda maps: maps.softmax(2),
]  # fmt: skip


@pytest.mark.parametrize("between", SEPARATE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_what_computes_each_channel_alone_keeps_none(
    between: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    network = ready(Mixed(copy.deepcopy(between))).to(dtype)
    small = remove_dead_channels(network, IMAGES.to(dtype))
    assert (small.second.in_channels, small.second.out_channels) == (5, 6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_half_precision_rounds_is_no_difference(dtype: torch.dtype) -> None:
    for seed in range(150):  # rounding alone refused a few of these
        torch.manual_seed(seed)
        network = ready(Mixed(nn.ZeroPad2d(1))).to(dtype)
        small = remove_dead_channels(network, torch.randn(2, 3, 16, 16).to(dtype))
        assert small.second.in_channels == 5


def test_zeros_as_an_example_hide_nothing() -> None:
    network = Mixed(nn.LocalResponseNorm(5))
    assert remove_dead_channels(network, torch.zeros(1, 3, 9, 9)).first.out_channels == 8


def test_shuffled_pixels_keep_their_channels_and_others_are_removed() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.PixelShuffle(2),
                            nn.Conv2d(2, 4, 1))  # fmt: skip
    unread(network[2], [0, 1])
    unread(network[4], [0])
    small = remove_dead_channels(network.eval(), IMAGES)
    assert [small[place].out_channels for place in (0, 2, 4)] == [6, 8, 4]
    torch.testing.assert_close(small(IMAGES), network(IMAGES))


def test_what_torch_pruning_cannot_follow_or_remove_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise KeyError("not in the graph")

    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1))
    unread(network[1], [0, 4])
    graph = importlib.import_module("torch_pruning").DependencyGraph
    for method in ("build_dependency", "get_all_groups"):
        with monkeypatch.context() as patch:
            patch.setattr(graph, method, fails)
            with pytest.raises(ValueError, match="Sequential does not give the same tensor"):
                remove_dead_channels(network, IMAGES)


def test_an_error_of_the_network_is_its_own() -> None:
    with pytest.raises(RuntimeError, match="expected input"):
        remove_dead_channels(nn.Conv2d(3, 6, 1), torch.ones(1, 2, 4, 4))


def test_compiled_networks_lose_as_many_channels() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    unread(network[2], [5, 6, 7])
    small = remove_dead_channels(torch.compile(network, backend="eager"), IMAGES)
    assert sum(weight.numel() for weight in small.parameters()) == 5 * 28 + 4 * 46
    torch.testing.assert_close(small(IMAGES), network(IMAGES))


def test_a_network_of_torchvision() -> None:
    network = ready(torchvision.models.resnet18(num_classes=10))
    unread(network.layer1[0].conv2, [0, 5, 9])
    unread(network.fc, [*range(100)])
    small = remove_dead_channels(network, IMAGES)
    assert small.layer1[0].conv1.out_channels == 61
    assert small.fc.in_features <= 512
    torch.testing.assert_close(small(IMAGES), network(IMAGES), atol=1e-3, rtol=1e-3)


def test_without_the_library_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    network: Any = nn.Linear(2, 2)
    with pytest.raises(ImportError, match=r"pip install 'wiring_lightning\[pruning\]'"):
        remove_dead_channels(network, torch.ones(1, 2))


class Scaled(nn.Sequential):
    """Its channels have a parameter that is in no layer."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.Conv2d(4, 2, 3))
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 1)

    def forward(self, images: Tensor) -> Tensor:
        return self[2](self[1]((self[0](images) * self.scale).relu()).relu())


class Tied(nn.Sequential):
    """The first and the third layer have one weight."""

    def __init__(self) -> None:
        layers = [nn.Conv2d(3, 3, 1, bias=False) for _ in range(3)]
        super().__init__(*layers, nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1))
        self[2].weight = self[0].weight


def test_several_inputs_and_parameters_that_are_integers() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.other = nn.Conv2d(3, 8, 1), nn.Conv2d(1, 8, 1)
            self.last = nn.Conv2d(8, 2, 1)
            self.calls = nn.Parameter(torch.tensor([3]), requires_grad=False)

        def forward(self, images: Tensor, masks: Tensor) -> Tensor:
            return self.last(self.first(images).relu() + self.other(masks))

    network, inputs = Two(), (IMAGES, torch.randn(2, 1, 16, 16))
    unread(network.last, [0, 4])
    small = remove_dead_channels(network, inputs)
    assert [*sizes(small).values()] == [(6, 3), (6, 1), (2, 6)]
    assert not small.calls.requires_grad
    torch.testing.assert_close(small(*inputs), network(*inputs))


def test_channels_of_loose_parameters_and_tied_layers_stay() -> None:
    for network, stays, shrinks in ((Scaled(), 8, "1"), (Tied(), 3, "3")):
        readers = [module for module in network.eval() if isinstance(module, nn.Conv2d)]
        for reader in readers[1:]:
            unread(reader, [1])
        small = remove_dead_channels(network, IMAGES)
        torch.testing.assert_close(small(IMAGES), network(IMAGES))
        assert small[0].out_channels == stays
        layer = small.get_submodule(shrinks)
        assert layer.out_channels == network.get_submodule(shrinks).out_channels - 1


def test_a_network_that_cannot_be_compared_or_made_smaller_is_refused() -> None:
    class Named(nn.Sequential):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"out": super().forward(images)}

    class Reshapes(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            return self[1](self[0](images).reshape(len(images), 6, *images.shape[2:]))

    layers = [nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)]
    unread(layers[1], [0, 4])
    with pytest.raises(ValueError, match="Named returns a dict"):
        remove_dead_channels(Named(*layers), IMAGES)
    with pytest.raises(ValueError, match="Reshapes does not give the same tensor"):
        remove_dead_channels(Reshapes(*layers), IMAGES)


def test_an_answer_without_entries_cannot_be_compared() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with pytest.raises(ValueError, match=r"^Sequential gives a tensor of shape \[0, .* entries.$"):
        remove_dead_channels(network, IMAGES[:0])


class Auxiliary(nn.Module):
    """A head that reads the features in training only, and layers that are reached uncalled."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.aux = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.attention, self.uncalled = nn.MultiheadAttention(4, 2), nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images).relu()
        answer = self.last(features).mean((2, 3))[None]
        if self.training:
            answer = answer + self.aux(features).mean((2, 3))
        answer = self.attention(answer, answer, answer)[0]
        return functional.linear(answer, self.uncalled.weight)


class Inner(nn.Sequential):
    """Two auxiliary networks inside of another one."""

    def __init__(self) -> None:
        super().__init__(Auxiliary(), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))


@pytest.mark.parametrize(("kind", "first"), [(Auxiliary, "aux"), (Inner, "0.aux")])
def test_layers_that_the_example_does_not_reach_are_named(kind: Any, first: str) -> None:
    network = kind().eval()
    with warnings.catch_warnings(action="error"):  # nothing is removed
        assert sizes(remove_dead_channels(network, IMAGES)) == sizes(network)
    unread(network.get_submodule(first.replace("aux", "last")), [1, 2])
    with pytest.warns(UserWarning, match=rf"such as {first}: they stay as they are") as said:
        small = remove_dead_channels(network, IMAGES)
    assert len(said) == 1
    torch.testing.assert_close(small(IMAGES), network(IMAGES))
    assert small.get_submodule(first).in_channels == 8
    assert not any(module._forward_pre_hooks for module in small.modules())


def test_networks_that_are_reached_as_a_whole_give_no_warning() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 4, stride=4)
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            unread(self.last, [3])

        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                images = self.first(images).relu()
            return self.layer(self.last(images).flatten(2).transpose(1, 2))

    for network in (Encoder(), ready(Skips())):
        unread(network.last, [0])
        with warnings.catch_warnings(action="error"):
            remove_dead_channels(network, IMAGES)


def test_whole_groups_of_a_norm_without_parameters_stay_and_others_are_removed() -> None:
    for norm in (nn.GroupNorm(2, 8, affine=False), nn.GroupNorm(8, 8, affine=False)):
        network = Mixed(norm).eval()
        network.second.weight.data[:, 4:] = 0
        small = remove_dead_channels(network, IMAGES)
        assert (small.second.in_channels, small.second.out_channels) == (8, 6)
        torch.testing.assert_close(small(IMAGES), network(IMAGES))


def test_a_network_without_weights_is_refused() -> None:
    for network in (
        nn.Sequential(nn.LazyConv2d(4, 1)),
        nn.Sequential(nn.Conv2d(3, 4, 1)).to("meta"),
    ):
        with pytest.raises(ValueError, match="Sequential has no weights"):
            remove_dead_channels(network, IMAGES)
