"""A sparse matrix, given by its values and their rows and columns, times a dense matrix."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

with warnings.catch_warnings():  # torch warns once per process that sparse CSR tensors are in beta
    warnings.simplefilter("ignore")
    torch.eye(1, device="cpu").to_sparse_csr()

# Number of entries that the gradient of the values gathers at a time.
_CHUNK = 2**22


@torch.library.custom_op("wiring_lightning::sparse_product", mutates_args=())
def sparse_product(values: Tensor, row: Tensor, column: Tensor, dense: Tensor, rows: int) -> Tensor:
    """Multiply a sparse matrix with a dense one; the values and the dense matrix get gradients.

    Args:
        values: `[k]`.
        row: `[k]` row of each value, in ascending order.
        column: `[k]` column of each value; no pair of row and column occurs twice.
        dense: `[columns, n]`.
        rows: number of rows of the sparse matrix.

    Returns:
        `[rows, n]`. It takes k * n multiply-adds, as torch's `FlopCounterMode` reports. What is
        given in half precision is summed in float32.

    Example:
        >>> values, dense = torch.tensor([2.0, 3.0]), torch.eye(3)
        >>> sparse_product(values, torch.tensor([0, 1]), torch.tensor([2, 0]), dense, 2)
        tensor([[0., 0., 2.],
                [3., 0., 0.]])
    """
    wide = _matrix(_wide(values), row, column, rows, len(dense)) @ _wide(dense)
    return wide.to(dense.dtype)


@sparse_product.register_fake
def _(_values: Tensor, _row: Tensor, _column: Tensor, dense: Tensor, rows: int) -> Tensor:
    return dense.new_empty(rows, dense.shape[1])


@torch.library.custom_op("wiring_lightning::sparse_product_backward", mutates_args=())
def _backward(
    values: Tensor, row: Tensor, column: Tensor, dense: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of the values and of the dense matrix."""
    types = values.dtype, dense.dtype
    values, dense, gradient = _wide(values), _wide(dense), _wide(gradient.contiguous())
    order = column.argsort(stable=True)
    transposed = _matrix(values[order], column[order], row[order], len(dense), len(gradient))
    size = max(1, _CHUNK // max(1, dense.shape[1]))
    parts = [
        torch.linalg.vecdot(gradient[rows], dense[columns])
        for rows, columns in zip(row.split(size), column.split(size), strict=True)
    ]
    to_values = torch.cat(parts) if parts else torch.zeros_like(values)
    return to_values.to(types[0]), (transposed @ gradient).to(types[1])


@_backward.register_fake
def _(
    values: Tensor, _row: Tensor, _column: Tensor, dense: Tensor, _gradient: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(values), torch.empty_like(dense)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs[:4])


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    to_values, to_dense = _backward(*ctx.saved_tensors, gradient)
    return to_values, None, None, to_dense, None


sparse_product.register_autograd(_gradients, setup_context=_keep)
for _device in ("cpu", "cuda"):  # as `_wide`
    sparse_product.register_autocast(_device, torch.float32)


@register_flop_formula(torch.ops.wiring_lightning.sparse_product)
def _flops(values: Sequence[int], _row: Any, _column: Any, dense: Sequence[int], *_: Any,
           **__: Any) -> int:  # fmt: skip
    return 2 * values[0] * dense[1]


@register_flop_formula(torch.ops.wiring_lightning.sparse_product_backward)
def _flops_backward(values: Sequence[int], _row: Any, _column: Any, dense: Sequence[int], *_: Any,
                    **__: Any) -> int:  # fmt: skip
    return 4 * values[0] * dense[1]


def _wide(tensor: Tensor) -> Tensor:
    """Half precision as float32: most devices have no sparse product in half precision."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _matrix(values: Tensor, row: Tensor, column: Tensor, rows: int, columns: int) -> Tensor:
    """The sparse matrix in CSR format; `row` is sorted."""
    counts = torch.bincount(row, minlength=rows)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return torch.sparse_csr_tensor(
        starts, column, values, (rows, columns), device=values.device, check_invariants=False
    )
