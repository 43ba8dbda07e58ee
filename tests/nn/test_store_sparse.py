"""Which layers of a network are stored as CSR: those where a clock says that it is faster."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.nn.sparse_layers import clock, sparse_conv, sparse_is_faster, sparse_linear
from wiring_lightning.costs import layer_costs, sparse_multiply_adds
from wiring_lightning.nn import (
    PointwiseConv2d,
    SparseConv2d,
    SparseLinear,
    store_dense,
    store_sparse,
)
from wiring_lightning.wiring import count_parameters


class Two(nn.Module):
    """Two sparse layers, a dense one, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = sparse_linear(20, 30), nn.Sequential(sparse_linear(30, 30))
        self.last, self.unused = nn.Linear(30, 4), sparse_linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.inner(self.first(inputs).relu()).relu())


def kinds(*layers: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in layers]


def test_the_faster_layout_is_taken_for_each_layer() -> None:
    network, example = Two(), torch.randn(7, 20)
    packed = store_sparse(network, example, clock(1.0, 2.0, 2.0, 1.0))
    chosen = kinds(packed.first, packed.inner[0], packed.last)
    assert chosen == ["SparseLinear", "Linear", "Linear"]
    assert type(packed.unused) is nn.Linear
    assert type(network.first) is nn.Linear
    torch.testing.assert_close(packed(example), network(example))
    packed = store_sparse(network, example, clock(1.0, 1.0, 1.0, 2.0))
    assert kinds(packed.first, packed.inner[0]) == ["Linear", "SparseLinear"]
    torch.testing.assert_close(packed(example), network(example))


def test_convolutions_are_chosen_as_linear_layers_are() -> None:
    network = nn.Sequential(
        sparse_conv(3, 8, 3, padding=1), nn.ReLU(), sparse_conv(8, 8, 1), nn.ReLU(),
        sparse_conv(8, 6, 3, stride=2), nn.Flatten(), sparse_linear(54, 5),
    )  # fmt: skip
    example = torch.randn(4, 3, 8, 8)
    packed = store_sparse(network, example, clock(1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 1.0, 2.0))
    chosen = kinds(packed[0], packed[2], packed[4], packed[6])
    assert chosen == ["SparseConv2d", "Conv2d", "SparseConv2d", "SparseLinear"]
    for images in (example, example[:1], example.to(memory_format=torch.channels_last)):
        wanted = network(images)
        torch.testing.assert_close(packed(images), wanted, atol=1e-5, rtol=1e-5)  # with gradients
        with torch.no_grad():
            torch.testing.assert_close(packed(images), wanted, atol=1e-5, rtol=1e-5)


def test_convolutions_that_cannot_be_sparse_stay_dense() -> None:
    network = nn.Sequential(
        sparse_conv(4, 4, 3, groups=2, padding=1),
        sparse_conv(4, 4, 3, padding=1, padding_mode="circular"),
        sparse_conv(4, 4, 2, padding="same"),
        nn.Conv2d(4, 4, 1),  # it has no zeros
        PointwiseConv2d(4, 4),
    )
    network[4].weight.data[1:] = 0
    example = torch.randn(2, 4, 6, 6)
    packed = store_sparse(network, example, clock())  # that is asked for no time
    assert kinds(*packed) == ["Conv2d", "Conv2d", "Conv2d", "Conv2d", "PointwiseConv2d"]
    assert torch.equal(packed(example), network(example))


class Twice(nn.Module):
    """One layer of each kind under two names, and a part that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = sparse_conv(4, 4, 3, padding=1), sparse_linear(5, 5)
        self.again = nn.ModuleList([self.conv, self.linear])
        self.part = nn.Sequential(sparse_conv(4, 4, 1))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.part(self.linear(self.conv(images)).relu())
        return self.part(self.again[1](self.again[0](maps)).relu())


def test_a_layer_with_several_places_stays_one_layer() -> None:
    network, example = Twice(), torch.randn(2, 4, 6, 5)
    packed = store_sparse(network, example, sparse_is_faster())
    assert kinds(packed.conv, packed.linear) == ["SparseConv2d", "SparseLinear"]
    assert packed.again[0] is packed.conv
    assert packed.again[1] is packed.linear
    assert type(packed.part[0]) is SparseConv2d
    torch.testing.assert_close(packed(example), network(example), atol=1e-5, rtol=1e-5)


def test_all_calls_of_a_layer_count() -> None:
    layer, example = sparse_conv(4, 4, 1), torch.randn(2, 4, 6, 6)
    network = nn.Sequential(layer, layer)
    packed = store_sparse(network, example, clock(1.0, 2.0, 5.0, 2.0))  # faster, then slower by far
    assert kinds(*packed) == ["Conv2d", "Conv2d"]
    packed = store_sparse(network, example, clock(1.0, 5.0, 2.0, 1.0))
    assert kinds(*packed) == ["SparseConv2d", "SparseConv2d"]


def test_a_network_can_be_one_layer() -> None:
    layer, example = sparse_conv(4, 6, 3), torch.randn(2, 4, 6, 6)
    packed = store_sparse(layer, example, sparse_is_faster())
    assert type(packed) is SparseConv2d
    torch.testing.assert_close(packed(example), layer(example), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_of_a_dtype_without_a_kernel_stay_dense(dtype: torch.dtype) -> None:
    network = nn.Sequential(sparse_conv(4, 4, 1), nn.Flatten(), sparse_linear(36, 5)).to(dtype)
    example = torch.randn(2, 4, 3, 3).to(dtype)
    packed = store_sparse(network, example, clock())  # that is asked for no time
    assert kinds(packed[0], packed[2]) == ["Conv2d", "Linear"]
    assert torch.equal(packed(example), network(example))


def test_doubles_can_be_sparse() -> None:
    network = nn.Sequential(sparse_conv(4, 4, 3), nn.Flatten(), sparse_linear(36, 5)).double()
    example = torch.randn(2, 4, 5, 5).double()
    packed = store_sparse(network, example, sparse_is_faster())
    assert kinds(packed[0], packed[2]) == ["SparseConv2d", "SparseLinear"]
    torch.testing.assert_close(packed(example), network(example))


@pytest.mark.parametrize("learned", ["", "weight", "bias", "weight bias"])
@pytest.mark.parametrize(
    ("layer", "shape"), [(sparse_linear(8, 4), (2, 8)), (sparse_conv(8, 4, 3), (2, 8, 4, 4))]
)
def test_a_plain_layer_again_learns_what_it_did(
    layer: nn.Module, shape: tuple[int, ...], learned: str
) -> None:
    for name, weight in layer.named_parameters():
        weight.requires_grad_(name in learned)
    packed = store_sparse(nn.Sequential(layer), torch.randn(shape), sparse_is_faster())
    assert isinstance(packed[0], SparseLinear | SparseConv2d)
    for again in (store_dense(packed), store_dense(deepcopy(packed))):
        found = {name for name, weight in again[0].named_parameters() if weight.requires_grad}
        assert found == set(learned.split())
    without = nn.Linear(3, 2, bias=False).requires_grad_(False)
    assert not SparseLinear(without).dense().weight.requires_grad


def test_an_error_of_the_network_is_not_hidden() -> None:
    network = nn.Sequential(sparse_conv(4, 4, 1))
    with pytest.raises(RuntimeError):
        store_sparse(network, torch.randn(2, 3, 5, 5), sparse_is_faster())
    assert "forward" not in vars(network[0])


def test_a_layer_whose_weight_others_read_stays_dense() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.called = sparse_linear(8, 8), sparse_linear(8, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.called(input=inputs @ self.read.weight.t())

    network, example = Reads(), torch.randn(5, 8)
    packed = store_sparse(network, example, clock(1.0, 2.0))
    assert type(packed.read) is nn.Linear
    assert type(packed.called) is SparseLinear
    assert "forward" not in vars(packed.read)
    torch.testing.assert_close(packed(example), network(example))


class Norms(nn.Module):
    """It calls a layer, and computes something of its weight that CSR cannot."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) / self.layer.weight.norm()


@pytest.mark.parametrize("layer", [sparse_linear(8, 6), sparse_conv(8, 6, 1)])
def test_a_network_that_does_not_run_with_csr_is_refused(layer: nn.Module) -> None:
    example = torch.randn(5, 8) if isinstance(layer, nn.Linear) else torch.randn(5, 8, 3, 3)
    network = Norms(layer)
    with pytest.raises(ValueError, match="Norms does not run with layers stored as CSR"):
        store_sparse(network, example, sparse_is_faster())
    network(example)  # the first one is as it was
    packed = store_sparse(network, example, clock(2.0, 1.0))  # the dense layer is faster
    assert packed.layer.weight.layout == torch.strided


def _doubled(layer: nn.Module) -> None:
    layer.register_forward_hook(lambda _, __, output: output * 2)


def _halved(layer: nn.Module) -> None:
    layer.register_forward_pre_hook(lambda _, inputs: (inputs[0] / 2,))


def _other_forward(layer: nn.Module) -> None:
    layer.forward = lambda images: type(layer).forward(layer, images) + 1


@pytest.mark.parametrize("change", [_doubled, _halved, _other_forward])
def test_layers_with_hooks_or_a_forward_of_their_own_stay_dense(change: Any) -> None:
    conv, linear = sparse_conv(3, 4, 3), sparse_linear(4, 30)
    network = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    images = torch.randn(2, 3, 8, 8)
    assert kinds(store_sparse(network, images, sparse_is_faster())[3]) == ["SparseLinear"]
    change(conv)
    change(linear)
    packed = store_sparse(network, images, sparse_is_faster())
    torch.testing.assert_close(packed(images), network(images))
    assert kinds(packed[0], packed[3]) == ["Conv2d", "Linear"]


def test_weights_that_torch_prunes_are_stored_as_plain_ones() -> None:
    network = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 4))
    prune.l1_unstructured(network[0], "weight", amount=0.9)
    example = torch.randn(3, 20)
    network(example).sum().backward()  # its weight is no leaf now
    packed = store_sparse(network, example, sparse_is_faster())
    assert kinds(packed[0], network[0]) == ["SparseLinear", "Linear"]
    torch.testing.assert_close(packed(example), network(example))
    assert prune.is_pruned(network)


class Tied(nn.Module):
    """Layers that share a weight or a bias, also with layers of other classes and with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.own = nn.Embedding(6, 4), sparse_linear(6, 6)
        self.convs = nn.Sequential(sparse_conv(4, 4, 1), sparse_conv(4, 4, 1))
        self.inner, self.words = sparse_linear(4, 4), sparse_linear(4, 6, bias=False)
        self.convs[1].weight = self.convs[0].weight
        self.words.weight, self.inner.bias = self.embedding.weight, self.convs[0].bias
        self.embedding.weight.data[:, 1:3] = 0

    def forward(self, words: Tensor) -> Tensor:
        maps = self.convs(self.embedding(words).transpose(1, 2)[..., None])
        return self.own(self.words(self.inner(maps.flatten(2).transpose(1, 2))))


def test_shared_parameters_stay_shared() -> None:
    network, example = Tied(), torch.randint(6, (2, 5))
    packed = store_sparse(network, example, sparse_is_faster())
    assert type(packed.own) is SparseLinear
    assert kinds(packed.words, packed.inner, *packed.convs) == ["Linear"] * 2 + ["Conv2d"] * 2
    torch.testing.assert_close(packed(example), network(example))
    again = store_dense(packed)
    names = [sorted(n for n, v in network.named_parameters(remove_duplicate=False) if v is w)
             for w in network.parameters()]  # fmt: skip
    assert names == [
        sorted(n for n, v in again.named_parameters(remove_duplicate=False) if v is w)
        for w in again.parameters()
    ]
    sizes = [sum(w.numel() for w in one.parameters()) for one in (network, again)]
    assert sizes == [24 + 42 + 16 + 4 + 4 + 16] * 2
    assert count_parameters(packed) == sizes[0]
    assert sparse_multiply_adds(packed, example) == sparse_multiply_adds(network, example)
    assert len(layer_costs(packed)) == len(layer_costs(network))


@pytest.mark.parametrize("layer", [nn.LazyLinear(4), nn.Linear(3, 4, device="meta")])
def test_a_network_without_weights_is_refused(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"^Sequential has no weights.* load its weights\.$"):
        store_sparse(nn.Sequential(layer), torch.randn(2, 3))
