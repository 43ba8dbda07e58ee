"""The product of a sparse matrix, and the layer around it, against dense ones."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from wiring_lightning.functional import sparse_product
from wiring_lightning.nn import SparseEdges

ROWS, COLUMNS = 7, 5


def places(k: int) -> tuple[Tensor, Tensor]:
    """Random places, none twice, in the order of rows."""
    chosen = torch.randperm(ROWS * COLUMNS)[:k].sort().values
    return chosen // COLUMNS, chosen % COLUMNS


@pytest.mark.parametrize("k", [0, 1, 9, 35])
def test_value_and_gradients_are_those_of_a_dense_product(k: int) -> None:
    torch.manual_seed(k)
    row, column = places(k)
    values = torch.randn(k, dtype=torch.float64, requires_grad=True)
    dense = torch.randn(COLUMNS, 6, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(ROWS, 6, dtype=torch.float64)
    twin = torch.zeros(ROWS, COLUMNS, dtype=torch.float64).index_put((row, column), values)
    product = sparse_product(values, row, column, dense, ROWS)
    torch.testing.assert_close(product, twin @ dense)
    ours = torch.autograd.grad(product, (values, dense), slope)
    expected = torch.autograd.grad(twin @ dense, (values, dense), slope)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [0, 9, 35])
def test_half_precision_is_the_rounded_product_of_single_precision(
    dtype: torch.dtype, k: int
) -> None:
    torch.manual_seed(k)
    row, column = places(k)
    values = torch.randn(k, dtype=dtype, requires_grad=True)
    dense = torch.randn(COLUMNS, 6, dtype=dtype, requires_grad=True)
    slope = torch.randn(ROWS, 6, dtype=dtype)
    product = sparse_product(values, row, column, dense, ROWS)
    ours = (product, *torch.autograd.grad(product, (values, dense), slope))
    wide = sparse_product(values.float(), row, column, dense.float(), ROWS)
    expected = (wide, *torch.autograd.grad(wide, (values, dense), slope.float()))
    for found, right in zip(ours, expected, strict=True):
        assert found.dtype == dtype
        assert torch.equal(found, right.to(dtype))


def test_the_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    row, column = places(9)
    values = torch.randn(9, dtype=torch.float64, requires_grad=True)
    dense = torch.randn(COLUMNS, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v, d: sparse_product(v, row, column, d, ROWS), (values, dense)
    )


def test_torch_finds_no_fault_with_the_operator() -> None:
    row, column = places(9)
    inputs = (
        torch.randn(9, requires_grad=True),
        row,
        column,
        torch.randn(COLUMNS, 3, requires_grad=True),
        ROWS,
    )
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(sparse_product, inputs, test_utils=checks)


def test_torch_counts_two_operations_per_value_and_column() -> None:
    row, column = places(9)
    values, dense = torch.randn(9, requires_grad=True), torch.randn(COLUMNS, 4, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        product = sparse_product(values, row, column, dense, ROWS)
    assert forward.get_total_flops() == 2 * 9 * 4
    with FlopCounterMode(display=False) as backward:
        product.sum().backward()
    assert backward.get_total_flops() == 2 * 2 * 9 * 4


def test_half_precision_is_computed_in_full() -> None:
    row, column = places(9)
    values, dense = torch.randn(9), torch.randn(COLUMNS, 3)
    with torch.autocast("cpu", torch.bfloat16):
        product = sparse_product(values, row, column, dense.bfloat16(), ROWS)
    expected = sparse_product(values, row, column, dense.bfloat16().float(), ROWS)
    torch.testing.assert_close(product, expected)


def layer_and_twin(k: int = 12) -> tuple[SparseEdges, nn.Conv2d]:
    torch.manual_seed(0)
    row, column = places(k)
    order = torch.randperm(k)
    layer = SparseEdges(row[order], column[order], torch.randn(k), ROWS, COLUMNS)
    twin = nn.Conv2d(COLUMNS, ROWS, 1, bias=False)
    twin.weight.data.zero_()
    twin.weight.data[layer.row, layer.column, 0, 0] = layer.values.detach()
    return layer, twin


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_layer_is_a_sparse_convolution(layout: torch.memory_format) -> None:
    layer, twin = layer_and_twin()
    images = torch.randn(3, COLUMNS, 4, 2).to(memory_format=layout)
    torch.testing.assert_close(layer(images), twin(images))


def test_copies_of_a_layer_learn_on_their_own() -> None:
    layer, twin = layer_and_twin()
    student = copy.deepcopy(layer)
    student.values.data.zero_()
    images = torch.randn(16, COLUMNS, 3, 3)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        functional.mse_loss(student(images), twin(images).detach()).backward()
        optimizer.step()
    torch.testing.assert_close(student.values, layer.values, atol=1e-3, rtol=1e-3)


def test_bad_edges_get_one_clear_sentence() -> None:
    one = torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match="a row, a column and a value, got 1, 1 and 2"):
        SparseEdges(one, one, torch.ones(2), 3, 3)
    with pytest.raises(ValueError, match="not below 3"):
        SparseEdges(one + 3, one, torch.ones(1), 3, 3)
