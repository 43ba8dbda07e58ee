"""Linear layers stored as CSR: the same function."""

import io
from copy import deepcopy

import pytest
import torch
from torch import nn

from tests.nn.sparse_layers import sparse_linear
from wiring_lightning.nn import SparseLinear


@pytest.mark.parametrize("shape", [(6,), (1, 6), (5, 6), (2, 3, 6), (0, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_what_the_layer_computes(shape: tuple[int, ...], bias: bool) -> None:
    layer, inputs = sparse_linear(6, 9, bias), torch.randn(shape)
    torch.testing.assert_close(SparseLinear(layer)(inputs), layer(inputs))


def test_a_layer_of_zeros_gives_its_bias() -> None:
    layer = nn.Linear(3, 2)
    layer.weight.data.zero_()
    torch.testing.assert_close(SparseLinear(layer)(torch.randn(4, 3)), layer.bias.expand(4, 2))


def test_it_can_be_saved() -> None:
    layer, file = SparseLinear(sparse_linear(6, 9)), io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    torch.testing.assert_close(state["weight"].to_dense(), layer.weight.to_dense())


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_copied_and_made_dense_again(bias: bool) -> None:
    layer, inputs = sparse_linear(6, 9, bias), torch.randn(4, 6)
    sparse = SparseLinear(layer).eval()
    copied, dense = deepcopy(sparse), sparse.dense()
    assert type(dense) is nn.Linear
    assert torch.equal(dense.weight, layer.weight)
    torch.testing.assert_close(dense(inputs), layer(inputs))
    torch.testing.assert_close(copied(inputs), layer(inputs))
    sparse.weight.values().zero_()  # the copies have their own values
    torch.testing.assert_close(copied(inputs), layer(inputs))
    assert (copied.training, dense.training) == (False, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_it_keeps_its_precision(dtype: torch.dtype) -> None:
    layer, inputs = sparse_linear(6, 9), torch.randn(4, 6).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = SparseLinear(layer)(inputs)
    torch.testing.assert_close(found, layer(inputs.float()))
