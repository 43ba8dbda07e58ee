"""Batch norms in the convolutions before them, and selections that gather."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from tests.layers import Rectified, Standardised
from wiring_lightning.nn import Branches, DenseLayer, Selection, SparseEdges
from wiring_lightning.nn.fabric_modules import SubsetBatchNorm2d
from wiring_lightning.nn.folding import fold_batch_norms
from wiring_lightning.nn.pre_activation import Feature, RectifiedChain, RectifiedConv2d


def scrambled(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
def test_pairs_in_a_sequence(affine: bool, bias: bool, groups: int) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(
        scrambled(nn.BatchNorm2d(6)),  # in front of everything: stays
        nn.Conv2d(6, 9, 3, stride=2, padding=1, groups=groups, bias=bias),
        scrambled(nn.BatchNorm2d(9, affine=affine, eps=0.1)),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(9, 4, 1), scrambled(nn.BatchNorm2d(4))),
        nn.Conv2d(4, 4, 1),
        nn.ReLU(),
        scrambled(nn.BatchNorm2d(4)),  # behind a ReLU: stays
    )
    layers = layers.double().eval()
    images = torch.randn(3, 6, 7, 7, dtype=torch.float64)
    expected = layers(images)
    assert fold_batch_norms(layers) is layers
    assert sum(isinstance(part, nn.BatchNorm2d) for part in layers.modules()) == 2
    torch.testing.assert_close(layers(images), expected)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_branches_in_inference(merge: bool, shared: bool, stride: int, batch: int) -> None:
    """Folded, and written over the inputs: as in evaluation mode with gradients."""
    torch.manual_seed(0)
    block = Branches(3, 8, 2, 8, stride, shared_input=shared, merge=merge, identity_scale=0.4)
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            scrambled(norm)
    block.double().eval()
    inputs = torch.randn(batch, 1 if shared else 3, 8, 6, 6, dtype=torch.float64)
    expected = block(inputs)
    given = inputs.clone()
    with torch.no_grad():
        torch.testing.assert_close(block(given), expected)
    assert torch.equal(given, inputs)
    with torch.no_grad():
        torch.testing.assert_close(block(inputs.clone()), expected)
        folded = fold_batch_norms(block)
        torch.testing.assert_close(folded(inputs.clone()), expected)


def test_branches_that_share_and_merge_compute_what_separate_ones_do() -> None:
    torch.manual_seed(0)
    block = Branches(3, 8, 2, 8, identity_scale=0.4).double().eval()
    one = torch.randn(2, 1, 8, 5, 5, dtype=torch.float64)
    separate = block(one.expand(-1, 3, -1, -1, -1))
    block.share_input()
    torch.testing.assert_close(block(one), separate)
    block.merge_branches()
    torch.testing.assert_close(block(one), separate.sum(1, keepdim=True))


def product(matrix: Tensor, sources: Tensor) -> Tensor:
    return torch.einsum("ts,bs...->bt...", matrix, sources)


def test_a_selection_of_single_sources_gathers_also_after_loading() -> None:
    one_each = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    another = one_each.flip(1)
    sums = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    weighted, nothing = one_each * 2, torch.zeros(3, 3)
    sources = torch.randn(2, 3, 4, 4)
    selection = Selection(one_each, one_each)
    assert selection.only_source is not None
    for matrix in (one_each, another, sums, weighted, nothing):
        selection.load_state_dict({"matrix": matrix, "score": matrix})
        assert (selection.only_source is not None) == (matrix is one_each or matrix is another)
        torch.testing.assert_close(selection(sources), product(matrix, sources))
        torch.testing.assert_close(selection.rectified(sources), product(matrix, sources).relu())


def test_sparse_edges_with_the_norm_behind_them() -> None:
    torch.manual_seed(0)
    edges = SparseEdges(
        torch.tensor([0, 2, 2]), torch.tensor([1, 0, 1]), torch.randn(3), receivers=4, senders=2
    ).double()
    norm, again = (scrambled(nn.BatchNorm2d(4)).double().eval() for _ in range(2))
    images = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    folded = edges.normalized(norm)
    torch.testing.assert_close(folded(images), norm(edges(images)))
    torch.testing.assert_close(folded.normalized(again)(images), again(norm(edges(images))))
    assert len(folded.values) == 3


class Reads(nn.Sequential):
    """Layers that are called by their number."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return self[1](self[0](images)) + images.mean()


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda _, inputs, output: output * 1.5)
    return layer


def rectified_between(chain: RectifiedChain) -> RectifiedChain:
    chain.layers[0].register_forward_hook(lambda _, inputs, output: output.relu())
    return chain


@pytest.mark.parametrize(
    "layers",
    [
        nn.Sequential(Standardised(4, 4, 3), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(4, 4, 3), Rectified(4)),
        nn.Sequential(hooked(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(4, 4, 3), hooked(nn.BatchNorm2d(4))),
        Reads(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
    ],
)
def test_pairs_that_compute_something_else_stay(layers: nn.Sequential) -> None:
    scrambled(layers[1])
    images = torch.randn(2, 4, 6, 6)
    expected = layers.eval()(images)
    kinds = [type(layer) for layer in layers]
    assert [type(layer) for layer in fold_batch_norms(layers)] == kinds
    assert torch.equal(layers(images), expected)


def test_a_chain_with_something_between_its_layers_stays() -> None:
    chain = rectified_between(RectifiedChain([RectifiedConv2d(4, 4), RectifiedConv2d(4, 4)]))
    for layer in chain.convolutions:
        scrambled(layer.norm)
    images = torch.randn(2, 4, 6, 6)
    expected = chain.eval()([Feature(images)])
    torch.testing.assert_close(fold_batch_norms(chain)([Feature(images)]), expected)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm, SubsetBatchNorm2d])
def test_all_known_norms_are_folded(norm: type[nn.BatchNorm2d]) -> None:
    layers = nn.Sequential(nn.Conv2d(4, 4, 3), scrambled(norm(4))).eval()
    images = torch.randn(2, 4, 6, 6)
    expected = layers(images)
    assert not any(isinstance(layer, norm) for layer in fold_batch_norms(layers))
    torch.testing.assert_close(layers(images), expected, rtol=1e-5, atol=1e-5)


class Indexes(nn.Module):
    """An owner that takes layers of its sequence by their numbers."""

    def __init__(self, places: list[int] | slice) -> None:
        super().__init__()
        self.places = places
        pairs = [(nn.Conv2d(4, 4, 3), scrambled(nn.BatchNorm2d(4)), nn.Tanh()) for _ in range(2)]
        self.body = nn.Sequential(*(layer for pair in pairs for layer in pair))

    def forward(self, images: Tensor) -> Tensor:
        if isinstance(self.places, slice):
            return self.body[self.places](images)
        for place in self.places:
            images = self.body[place](images)
        return images


@pytest.mark.parametrize("places", [[0, 1, 2, 3], [3, 4, 5], slice(3), slice(-3, None)])
def test_a_sequence_that_is_indexed_keeps_its_places(places: list[int] | slice) -> None:
    network, images = Indexes(places).eval(), torch.randn(2, 4, 8, 8)
    if places == [0, 1, 2, 3]:  # the norm behind the last one is not called
        network.body[4] = nn.Identity()
    expected = network(images)
    folded = fold_batch_norms(network)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-4)


OTHER_CONVOLUTIONS = [
    {"padding": 1, "bias": True}, {"padding": 2, "dilation": 2}, {"padding": 0},
    {"padding": "same"}, {"padding": 1, "padding_mode": "circular"}, {"padding": 1, "groups": 4},
]  # fmt: skip


@pytest.mark.parametrize("options", OTHER_CONVOLUTIONS)
def test_a_convolution_of_another_kind_computes_what_it_is(options: dict[str, Any]) -> None:
    conv = nn.Conv2d(16, 12, 3, **{"bias": False} | options)
    images, gates = torch.randn(2, 16, 8, 8), torch.tensor([0.5, 0.0])
    rectified, dense = RectifiedConv2d(16, 12), DenseLayer([8, 8], 12)
    for layer in (rectified, dense):
        layer.conv = conv
        scrambled(layer.norm)
    hidden = dense.eval().norm(images).relu()
    rectified.eval()
    torch.testing.assert_close(rectified([Feature(images)]), conv(rectified.norm(images).relu()))
    sources = list(images.split(8, 1))
    torch.testing.assert_close(dense(sources), conv(hidden))
    expected = conv(hidden * torch.tensor([0.5] * 8 + [0.0] * 8).view(1, -1, 1, 1))
    torch.testing.assert_close(dense(sources, gates), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dense.keep(gates)(sources), expected, rtol=1e-4, atol=1e-5)
