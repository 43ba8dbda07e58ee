"""Gated sums of the sources of each target, with a gradient for every gate."""

import math
from itertools import cycle
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from typing_extensions import override

from wiring_lightning.functional.transforms import is_transformed

# A product of few rows longer than `_LONG` uses one core only, so it is split into parts.
_LONG, _PART = 2**14, 2**10


class PairProducts:
    """Sums over the batch the dot products of every row of one tensor with every row of another.

    The constructor makes all views once: making a view takes as long as a small product.

    Args:
        left: `[count, a, features]`, a buffer that the caller refills, `count` examples at a time.
        right: `[batch, b, features]`, all examples.

    Example:
        >>> left = torch.empty(1, 1, 3)
        >>> products = PairProducts(left, torch.tensor([[[1.0] * 3], [[2.0] * 3]]))
        >>> for chunk in range(2):
        ...     _ = left.fill_(chunk + 1)
        ...     products.add(chunk)
        >>> products.total()
        tensor([[15.]])
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        count, rows, features = left.shape
        batch, columns, _ = right.shape
        dtype = torch.promote_types(left.dtype, torch.float32)
        self._same_dtype = left.dtype == right.dtype == dtype
        if left.device.type == "cpu" and count and features > _LONG and features % _PART == 0:
            parts = features // _PART
            self._sums = left.new_zeros(parts, rows, columns, dtype=dtype)
            lefts = left.view(count, rows, parts, _PART).transpose(1, 2).unbind()
            rights = right.view(batch, columns, parts, _PART).permute(0, 2, 3, 1).unbind()
            pairs = list(zip(cycle(lefts), rights, strict=False))
            starts = range(0, max(1, batch), count)
            self._chunks = [pairs[start : start + count] for start in starts]
        else:
            self._sums = left.new_zeros(count, rows, columns, dtype=dtype)
            self._chunks = [[(left, piece)] for piece in right.transpose(1, 2).split(count)]

    def add(self, chunk: int) -> None:
        """Add the products of the present `left` with chunk number `chunk` of `right`."""
        for left, right in self._chunks[chunk]:
            sums = self._sums
            if len(right) < len(sums):  # the last chunk is smaller
                sums, left = sums[: len(right)], left[: len(right)]
            if self._same_dtype:
                sums.baddbmm_(left, right)
            else:
                sums.baddbmm_(left.to(sums.dtype), right.to(sums.dtype))

    def total(self) -> Tensor:
        """`[a, b]`, float32 or better."""
        return self._sums.sum(0)


def products_of_pairs(left: Tensor, right: Tensor) -> Tensor:
    """The dot product of every row of `left` with every row of `right`, summed over the batch.

    Args:
        left: `[batch, a, features]`.
        right: `[batch, b, features]`.

    Returns:
        `[a, b]`, float32 or better.

    Example:
        >>> products_of_pairs(torch.ones(2, 1, 3), torch.tensor([[[1.0, 2.0, 3.0]]] * 2))
        tensor([[12.]])
    """
    products = PairProducts(left, right)
    products.add(0)
    return products.total()


def gated_sum(gates: Tensor, sources: Tensor) -> Tensor:
    """Sum the sources of every target (Equation 2 of GateConnect, Equation 1 of MaskConnect).

    One batched product serves all targets, and one more gives the gradient of all gates.

    Args:
        gates: `[targets, candidates]`.
        sources: `[batch, candidates, *features]`.

    Returns:
        `[batch, targets, *features]`.

    Example:
        >>> sources = torch.arange(6.0).view(1, 3, 2)
        >>> gated_sum(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), sources)
        tensor([[[4., 6.],
                 [2., 3.]]])
    """
    batch, candidates, *features = sources.shape
    targets = gates.shape[0]
    # bmm, because matmul copies the transposed sources if the gates need a gradient, which costs
    # more than three times as much.
    stacked = gates.expand(batch, *gates.shape)
    size = math.prod(features)
    summed = torch.bmm(stacked, sources.reshape(batch, candidates, size))
    # An in-place activation after a view costs copies in backward, so avoid the view if possible.
    return summed if len(features) == 1 else summed.view(batch, targets, *features)


# Bytes of the gradient per chunk: a few chunks fit into the cache of one core.
_CHUNK_BYTES = 4 * 2**20


def rectified_gated_sum(gates: Tensor, sources: Tensor) -> Tensor:
    """`relu(gated_sum(gates, sources))`, the input of every block in ResNet and ResNeXt.

    On a CPU the backward pass runs in chunks of examples that fit into the cache. The gradient of
    all gates then adds little to it. Other devices use the plain composition.

    Args:
        gates: `[targets, candidates]`.
        sources: `[batch, candidates, features]`.

    Returns:
        `[batch, targets, features]`.

    Example:
        >>> sources = torch.tensor([[[1.0], [-3.0]]])
        >>> rectified_gated_sum(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), sources).flatten()
        tensor([1., 0.])
    """
    if sources.device.type != "cpu" or torch.compiler.is_compiling() or is_transformed():
        return gated_sum(gates, sources).relu_()
    return _RectifiedGatedSum.apply(gates, sources)


class _RectifiedGatedSum(Function):
    @staticmethod
    @override
    def forward(ctx: Any, gates: Tensor, sources: Tensor) -> Tensor:
        outputs = gated_sum(gates, sources).relu_()
        # Only the gradient of the gates needs the sources: frozen gates do not keep them.
        ctx.save_for_backward(gates, sources if ctx.needs_input_grad[0] else None, outputs)
        ctx.source_dtype = sources.dtype
        return outputs

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        gates, sources, outputs = ctx.saved_tensors
        batch, targets, features = outputs.shape
        example = max(1, targets * features * outputs.element_size())
        size = max(1, min(batch, _CHUNK_BYTES // example))
        transposed = gates.t().to(gradient.dtype)
        to_sources = gradient.new_empty(batch, gates.shape[1], features)
        # Every chunk uses the same memory, which stays in the cache.
        scratch = gradient.new_empty(size, targets, features)
        products = None if sources is None else PairProducts(scratch, sources)
        chunked = (gradient, outputs, transposed.expand(batch, *transposed.shape), to_sources)
        chunks = zip(*(tensor.split(size) for tensor in chunked), strict=True)
        for number, (to_output, output, weights, to_source) in enumerate(chunks):
            to_sum = scratch[: len(to_output)]
            torch.ops.aten.threshold_backward.grad_input(to_output, output, 0, grad_input=to_sum)
            if products is not None:
                products.add(number)
            torch.bmm(weights, to_sum, out=to_source)
        to_gates = None if products is None else products.total().to(gates.dtype)
        return to_gates, to_sources.to(ctx.source_dtype)
