"""A sparse matrix, given by the places of its values, times a dense one."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

with warnings.catch_warnings():  # torch says once per process that such tensors are in beta state
    warnings.simplefilter("ignore")
    torch.eye(1).to_sparse_csr()

# Numbers that the gradient of the values gathers at a time.
_CHUNK = 2**22


@torch.library.custom_op("wiring_lightning::sparse_product", mutates_args=())
def sparse_product(values: Tensor, row: Tensor, column: Tensor, dense: Tensor, rows: int) -> Tensor:
    """Multiply a sparse matrix with a dense one; the gradient reaches its values and the dense one.

    Args:
        values: `[k]`.
        row: `[k]` place of each value, sorted.
        column: `[k]` place of each value; no place twice.
        dense: `[columns, n]`.
        rows: number of rows of the sparse matrix.

    Returns:
        `[rows, n]`. It takes k * n multiply-adds, and torch's `FlopCounterMode` counts them so.

    Example:
        >>> values, dense = torch.tensor([2.0, 3.0]), torch.eye(3)
        >>> sparse_product(values, torch.tensor([0, 1]), torch.tensor([2, 0]), dense, 2)
        tensor([[0., 0., 2.],
                [3., 0., 0.]])
    """
    return _matrix(values, row, column, rows, len(dense)) @ dense


@sparse_product.register_fake
def _(_values: Tensor, _row: Tensor, _column: Tensor, dense: Tensor, rows: int) -> Tensor:
    return dense.new_empty(rows, dense.shape[1])


@torch.library.custom_op("wiring_lightning::sparse_product_backward", mutates_args=())
def _backward(
    values: Tensor, row: Tensor, column: Tensor, dense: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of the values and of the dense matrix."""
    slope = slope.contiguous()
    order = column.argsort(stable=True)
    transposed = _matrix(values[order], column[order], row[order], len(dense), len(slope))
    size = max(1, _CHUNK // max(1, dense.shape[1]))
    parts = [
        torch.linalg.vecdot(slope[to], dense[by])
        for to, by in zip(row.split(size), column.split(size), strict=True)
    ]
    return torch.cat(parts) if parts else torch.zeros_like(values), transposed @ slope


@_backward.register_fake
def _(
    values: Tensor, _row: Tensor, _column: Tensor, dense: Tensor, _slope: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(values), torch.empty_like(dense)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs[:4])


def _gradients(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
    to_values, to_dense = _backward(*ctx.saved_tensors, slope)
    return to_values, None, None, to_dense, None


sparse_product.register_autograd(_gradients, setup_context=_keep)
for _device in ("cpu", "cuda"):  # the kernels of sparse matrices know no half precision
    sparse_product.register_autocast(_device, torch.float32)


@register_flop_formula(torch.ops.wiring_lightning.sparse_product)
def _flops(values: Sequence[int], _row: Any, _column: Any, dense: Sequence[int], *_: Any,
           **__: Any) -> int:  # fmt: skip
    return 2 * values[0] * dense[1]


@register_flop_formula(torch.ops.wiring_lightning.sparse_product_backward)
def _flops_backward(values: Sequence[int], _row: Any, _column: Any, dense: Sequence[int], *_: Any,
                    **__: Any) -> int:  # fmt: skip
    return 4 * values[0] * dense[1]


def _matrix(values: Tensor, row: Tensor, column: Tensor, rows: int, columns: int) -> Tensor:
    """In compressed rows; `row` is sorted."""
    counts = torch.bincount(row, minlength=rows)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return torch.sparse_csr_tensor(starts, column, values, (rows, columns), check_invariants=False)
