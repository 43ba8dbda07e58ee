"""The gated sum and its ReLU as one step, with a backward pass that stays in the cache."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from typing_extensions import override

from wiring_lightning.functional.aggregation import PairProducts, gated_sum

# Bytes of the gradient that are worked on at a time: a few fit into the cache of one core.
_CHUNK_BYTES = 4 * 2**20


def rectified_gated_sum(gates: Tensor, sources: Tensor, consume: bool = False) -> Tensor:
    """`relu(gated_sum(gates, sources))`, the input of every block in ResNet and ResNeXt.

    On a CPU the three parts of the backward pass (through the ReLU, to the sources, to the gates)
    run example by example, so that each finds its operand in the cache; the gradient of all gates
    then costs a fraction of a pass over memory. Elsewhere it is the plain composition.

    Args:
        gates: `[targets, candidates]`.
        sources: `[batch, candidates, features]`.
        consume: whether the backward pass may write the gradient of the sources over them, because
            nobody reads them afterwards: they are in the cache then, which new memory is not. A
            retained graph keeps them in any case.

    Returns:
        `[batch, targets, features]`.

    Example:
        >>> sources = torch.tensor([[[1.0], [-3.0]]])
        >>> rectified_gated_sum(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), sources).flatten()
        tensor([1., 0.])
    """
    if sources.device.type != "cpu" or torch.compiler.is_compiling():
        return gated_sum(gates, sources).relu_()
    return _RectifiedGatedSum.apply(gates, sources, consume)


class _RectifiedGatedSum(Function):
    @staticmethod
    @override
    def forward(ctx: Any, gates: Tensor, sources: Tensor, consume: bool) -> Tensor:
        outputs = gated_sum(gates, sources).relu_()
        # Only the gradient of the gates needs the sources: frozen gates let their memory go.
        ctx.save_for_backward(gates, sources if ctx.needs_input_grad[0] else None, outputs)
        ctx.source_dtype = sources.dtype
        ctx.consume = consume and sources.is_contiguous()
        return outputs

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        gates, sources, outputs = ctx.saved_tensors
        batch, targets, features = outputs.shape
        size = max(1, min(batch, _CHUNK_BYTES // (targets * features * outputs.element_size())))
        back = gates.t().to(gradient.dtype)
        alike = sources is not None and sources.dtype == gradient.dtype
        if ctx.consume and alike and not _graph_is_retained():
            to_sources = sources.detach()
        else:
            to_sources = gradient.new_empty(batch, gates.shape[1], features)
        # The same memory for every chunk, because it is in the cache already.
        scratch = gradient.new_empty(size, targets, features)
        products = None if sources is None else PairProducts(scratch, sources)
        chunked = (gradient, outputs, back.expand(batch, *back.shape), to_sources)
        chunks = zip(*(tensor.split(size) for tensor in chunked), strict=True)
        for number, (arrived, rectified, weights, to_chunk) in enumerate(chunks):
            inner = scratch[: len(arrived)]
            torch.ops.aten.threshold_backward.grad_input(arrived, rectified, 0, grad_input=inner)
            if products is not None:  # before its sources may be overwritten
                products.add(number)
            torch.bmm(weights, inner, out=to_chunk)
        to_gates = None if products is None else products.total().to(gates.dtype)
        return to_gates, to_sources.to(ctx.source_dtype), None


def _graph_is_retained() -> bool:
    """Whether this backward pass may be followed by another one through the same graph."""
    return torch._C._autograd._get_current_graph_task_keep_graph()
