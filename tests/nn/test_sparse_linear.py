"""Linear layers stored as CSR: the same function, chosen by the clock."""

import io
from collections.abc import Callable
from copy import deepcopy
from itertools import count

import pytest
import torch
from torch import Tensor, nn

from wiring_lightning.nn import SparseLinear, store_sparse


def sparse_layer(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    layer.weight.data *= torch.rand_like(layer.weight) < 0.1
    return layer


@pytest.mark.parametrize("shape", [(6,), (1, 6), (5, 6), (2, 3, 6), (0, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_what_the_layer_computes(shape: tuple[int, ...], bias: bool) -> None:
    layer, inputs = sparse_layer(6, 9, bias), torch.randn(shape)
    torch.testing.assert_close(SparseLinear(layer)(inputs), layer(inputs))


def test_a_layer_of_zeros_gives_its_bias() -> None:
    layer = nn.Linear(3, 2)
    layer.weight.data.zero_()
    torch.testing.assert_close(SparseLinear(layer)(torch.randn(4, 3)), layer.bias.expand(4, 2))


def test_it_can_be_saved() -> None:
    layer, file = SparseLinear(sparse_layer(6, 9)), io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    torch.testing.assert_close(state["weight"].to_dense(), layer.weight.to_dense())


class Two(nn.Module):
    """Two sparse layers, a dense one, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = sparse_layer(20, 30), nn.Sequential(sparse_layer(30, 30))
        self.last, self.unused = nn.Linear(30, 4), sparse_layer(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.inner(self.first(inputs).relu()).relu())


def clock(*lasts: float) -> Callable[[], float]:
    """A clock by which the calls of each timing last so long."""
    calls = count()
    now = [0.0]

    def tell() -> float:
        call = next(calls)
        if call % 2:
            now[0] += lasts[call // 32]
        return now[0]

    return tell


def test_the_faster_layout_is_taken_for_each_layer() -> None:
    network, example = Two(), torch.randn(7, 20)
    packed = store_sparse(network, example, clock(1.0, 2.0, 2.0, 1.0))
    kinds = [type(layer).__name__ for layer in (packed.first, packed.inner[0], packed.last)]
    assert kinds == ["SparseLinear", "Linear", "Linear"]
    assert type(packed.unused) is nn.Linear
    assert type(network.first) is nn.Linear
    torch.testing.assert_close(packed(example), network(example))
    packed = store_sparse(network, example, clock(1.0, 1.0, 1.0, 2.0))
    assert [type(packed.first), type(packed.inner[0])] == [nn.Linear, SparseLinear]
    torch.testing.assert_close(packed(example), network(example))


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_copied_and_made_dense_again(bias: bool) -> None:
    layer, inputs = sparse_layer(6, 9, bias), torch.randn(4, 6)
    sparse = SparseLinear(layer).eval()
    copied, dense = deepcopy(sparse), sparse.dense()
    assert type(dense) is nn.Linear
    assert torch.equal(dense.weight, layer.weight)
    torch.testing.assert_close(dense(inputs), layer(inputs))
    torch.testing.assert_close(copied(inputs), layer(inputs))
    sparse.weight.values().zero_()  # the copies have their own values
    torch.testing.assert_close(copied(inputs), layer(inputs))
    assert (copied.training, dense.training) == (False, False)


def test_a_layer_whose_weight_others_read_stays_dense() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.called = sparse_layer(8, 8), sparse_layer(8, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.called(input=inputs @ self.read.weight.t())

    network, example = Reads(), torch.randn(5, 8)
    packed = store_sparse(network, example, clock(1.0, 2.0))
    assert type(packed.read) is nn.Linear
    assert type(packed.called) is SparseLinear
    assert "forward" not in vars(packed.read)
    torch.testing.assert_close(packed(example), network(example))
