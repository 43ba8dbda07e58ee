"""Convolutions stored as CSR: the same function."""

import io
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from tests.nn.sparse_layers import sparse_conv
from wiring_lightning.nn import SparseConv2d

GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 1, "stride": (3, 2)},
    {"kernel_size": 1, "padding": 1},
    {"kernel_size": 1, "padding": (0, 2), "stride": 2},
    {"kernel_size": 3},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 3, "padding": (2, 0), "dilation": (2, 1), "stride": (1, 3)},
    {"kernel_size": (3, 1), "padding": (1, 0)},
    {"kernel_size": (1, 2), "dilation": 3},
    {"kernel_size": (3, 1), "padding": "same", "dilation": (2, 1)},
    {"kernel_size": (3, 5), "padding": "same"},
    {"kernel_size": (2, 3), "padding": "valid"},
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_what_the_layer_computes(geometry: dict[str, Any], bias: bool) -> None:
    layer = sparse_conv(5, 7, bias=bias, **geometry)
    sparse, exact = SparseConv2d(layer), deepcopy(layer).double()
    images = torch.randn(3, 5, 9, 8)
    wanted = exact(images.double())
    assert wanted.std() > 1e-2
    of_doubles = SparseConv2d(exact)(images.double())
    torch.testing.assert_close(of_doubles, wanted, atol=1e-12, rtol=1e-12)
    for given in (images, images.to(memory_format=torch.channels_last), images.mT.contiguous().mT):
        found = sparse(given)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sparse(images[1]).double(), wanted[1], atol=1e-5, rtol=1e-5)
    assert sparse(images[:0]).shape == wanted[:0].shape


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_gradients_pass_it(kernel_size: int) -> None:
    layer = sparse_conv(4, 6, kernel_size)
    given, same = (torch.ones(2, 4, 5, 5).requires_grad_() for _ in range(2))
    SparseConv2d(layer)(given).square().sum().backward()
    layer(same).square().sum().backward()
    torch.testing.assert_close(given.grad, same.grad)


def test_a_layer_of_zeros_gives_its_bias() -> None:
    layer = nn.Conv2d(3, 2, 3)
    layer.weight.data.zero_()
    found = SparseConv2d(layer)(torch.randn(4, 3, 5, 5))
    torch.testing.assert_close(found, layer.bias.view(2, 1, 1).expand(4, 2, 3, 3))


def test_it_can_be_saved() -> None:
    layer, file = SparseConv2d(sparse_conv(6, 9, 3)), io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    torch.testing.assert_close(state["weight"].to_dense(), layer.weight.to_dense())
    torch.testing.assert_close(state["bias"], layer.bias)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_copied_and_made_dense_again(geometry: dict[str, Any], bias: bool) -> None:
    layer, images = sparse_conv(5, 7, bias=bias, **geometry), torch.randn(2, 5, 9, 8)
    sparse = SparseConv2d(layer).eval()
    copied, dense = deepcopy(sparse), sparse.dense()
    assert type(dense) is nn.Conv2d
    assert torch.equal(dense.weight, layer.weight)
    torch.testing.assert_close(dense(images), layer(images))
    torch.testing.assert_close(copied(images), layer(images), atol=1e-5, rtol=1e-5)
    sparse.weight.values().zero_()  # the copies have their own values
    torch.testing.assert_close(dense(images), layer(images))
    torch.testing.assert_close(copied(images), layer(images), atol=1e-5, rtol=1e-5)
    assert (copied.training, dense.training) == (False, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_it_keeps_its_precision(dtype: torch.dtype) -> None:
    layer, images = sparse_conv(4, 6, 3), torch.randn(2, 4, 5, 5).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = SparseConv2d(layer)(images)
    torch.testing.assert_close(found, layer(images.float()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1, "groups": 2},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
        {"kernel_size": (3, 2), "padding": "same"},
    ],
    ids=str,
)
def test_what_it_cannot_compute_is_refused(options: dict[str, Any]) -> None:
    layer = nn.Conv2d(4, 4, **options)
    assert not SparseConv2d.takes(layer)
    with pytest.raises(ValueError, match=r"one group and the same number of zeros .* got Conv2d"):
        SparseConv2d(layer)


def test_images_of_another_shape_are_refused() -> None:
    for layer in (SparseConv2d(sparse_conv(4, 6, 1)), SparseConv2d(sparse_conv(4, 6, 3))):
        for shape in ((2, 3, 5, 5), (5, 5), (2, 4, 5, 5, 5)):
            with pytest.raises((RuntimeError, ValueError, IndexError)):
                layer(torch.zeros(shape))
    with pytest.raises(RuntimeError):
        layer(torch.zeros(2, 4, 2, 2))  # smaller than the kernel


def test_it_says_what_it_is() -> None:
    layer = nn.Conv2d(4, 6, 3, stride=2)
    layer.weight.data[1:] = 0
    assert repr(SparseConv2d(layer)) == (
        "SparseConv2d(4 -> 6, kernel_size=(3, 3), stride=(2, 2), padding=(0, 0), dilation=(1, 1), "
        "36 weights)"
    )
