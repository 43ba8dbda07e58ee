"""Matrix products for a graph whose edges lead only from earlier to later blocks of nodes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.functional.autocast import autocast_type
from wiring_lightning.functional.transforms import is_transformed


def rows_of_blocks(
    weight: Tensor, inputs: int, width: int, only_edges: bool = False
) -> tuple[Tensor, ...]:
    """Views of the weights of all possible edges into each receiving block.

    The backward pass writes the gradient of the matrix once, with zeros where no edge is possible.

    Args:
        weight: `[blocks * width, inputs + (blocks - 1) * width]`, receivers by senders.
        inputs: number of input nodes, which form the first sending block.
        width: number of nodes of every other block.
        only_edges: whether weights that are zero get no gradient.

    Returns:
        For block j a view `[width, inputs + j * width]`.

    Example:
        >>> [tuple(rows.shape) for rows in rows_of_blocks(torch.zeros(6, 7), inputs=3, width=2)]
        [(2, 3), (2, 5), (2, 7)]
    """
    if len(weight) == width:
        return (weight * (weight.detach() != 0) if only_edges else weight,)
    if is_transformed():
        weight = weight * (weight.detach() != 0) if only_edges else weight
        blocks = weight.split(width)
        return tuple(rows[:, : inputs + j * width] for j, rows in enumerate(blocks))
    return _RowsOfBlocks.apply(weight, inputs, width, only_edges)


def pointwise_product(sources: Sequence[Tensor], matrix: Tensor) -> Tensor:
    """`conv2d(cat(sources), matrix)`, a 1 x 1 convolution that does not save the concatenation.

    On a CPU it is one matrix product per pass, in channels last.

    Args:
        sources: `[batch, c_k, height, width]` each; C is the sum of all c_k.
        matrix: `[out, C]`, possibly a view of a larger matrix.

    Example:
        >>> sources = [torch.ones(1, 2, 1, 1), torch.ones(1, 1, 1, 1)]
        >>> pointwise_product(sources, torch.tensor([[1.0, 2.0, 4.0]])).flatten()
        tensor([7.])
    """
    if (number := autocast_type(matrix.device)) is not None:
        matrix, sources = matrix.to(number), [source.to(number) for source in sources]
    if matrix.device.type != "cpu" or torch.compiler.is_compiling() or is_transformed():
        return functional.conv2d(joined(sources), matrix[:, :, None, None])
    return _PointwiseProduct.apply(matrix, *sources)


class _RowsOfBlocks(Function):
    @staticmethod
    @override
    def forward(
        ctx: Any, weight: Tensor, inputs: int, width: int, only_edges: bool
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*([weight] if only_edges else []))
        ctx.shape, ctx.inputs, ctx.width = weight.shape, inputs, width
        blocks = weight.split(width)
        return tuple(rows[:, : inputs + j * width] for j, rows in enumerate(blocks))

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *parts: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = parts[0].new_empty(ctx.shape)
        for j, (rows, part) in enumerate(zip(gradient.split(ctx.width), parts, strict=True)):
            senders = ctx.inputs + j * ctx.width
            rows[:, :senders] = part
            rows[:, senders:].zero_()  # assigning a number would make a constant on the CPU
        for weight in ctx.saved_tensors:
            gradient.masked_fill_(weight == 0, 0)
        return gradient, None, None, None


class _PointwiseProduct(Function):
    @staticmethod
    @override
    def forward(ctx: Any, matrix: Tensor, *sources: Tensor) -> Tensor:
        ctx.save_for_backward(matrix, *sources)
        return _as_images(_as_rows(joined(sources)) @ matrix.t(), sources[0])

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        matrix, *sources = ctx.saved_tensors
        rows = _as_rows(gradient)
        to_matrix = rows.t() @ _as_rows(joined(sources)) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:]):
            return to_matrix, *[None] * len(sources)
        to_sources = _as_images(rows @ matrix, sources[0])
        return to_matrix, *to_sources.split([source.shape[1] for source in sources], 1)


def joined(sources: Sequence[Tensor]) -> Tensor:
    """The sources, concatenated by channel; a single one is not copied."""
    return sources[0] if len(sources) == 1 else torch.cat(list(sources), 1)


def _as_rows(images: Tensor) -> Tensor:
    """`[batch, channels, height, width]` -> `[positions, channels]`, a view in channels last."""
    return images.permute(0, 2, 3, 1).flatten(0, 2)


def _as_images(rows: Tensor, like: Tensor) -> Tensor:
    """The reverse of `_as_rows`, with batch, height and width of another tensor."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, rows.shape[1]).permute(0, 3, 1, 2)
