"""Batch norm, ReLU and convolution of concatenated sources, without saving the concatenation.

Separate layers save a concatenation twice for the backward pass: as the input of the batch norm
and, normalised, as the input of the convolution. In DenseNets these copies take most of the memory
(Pleiss et al., "Memory-Efficient Implementation of DenseNets"). Here the backward pass
concatenates again, and with `recompute` it also normalises again.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.functional.autocast import autocast_type, without_autocast
from wiring_lightning.functional.block_products import joined

# Bytes of a concatenation per chunk on a CPU: a chunk stays in the cache from step to step.
_CHUNK_BYTES = 4 * 2**20
# In channels last on a CPU, torch sums a channel's values one by one in float32. Sums of this
# length have an error of about 1e-6.
_LONGEST_SUM = 4096
# Devices that have batch norm's own kernel for the statistics; Apple's GPUs, for one, do not.
_WITH_KERNEL = ("cpu", "cuda")


class Statistics(NamedTuple):
    """Mean and biased variance of every channel, `[channels]` each, and the number of values."""

    mean: Tensor
    variance: Tensor
    number: int


def channel_statistics(values: Tensor) -> Statistics:
    """The batch statistics of a batch norm, differentiable, in float32 or better.

    The statistics of a concatenation are those of its parts, concatenated. So a feature that many
    layers read needs them once.

    Args:
        values: `[batch, channels, height, width]`.

    Example:
        >>> mean, variance, count = channel_statistics(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))
        >>> mean.tolist(), variance.tolist(), count
        ([2.0], [1.0], 2)
    """
    mean, variance = _ChannelStatistics.apply(values)
    return Statistics(mean, variance, values.numel() // values.shape[1])


def rectified_convolution(
    sources: Sequence[Tensor],
    statistics: Statistics,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    kernel: Tensor,
    stride: int = 1,
    padding: int = 0,
    recompute: bool = False,
) -> Tensor:
    """`conv2d(relu(batch_norm(cat(sources))))` that does not save the concatenation.

    The backward pass concatenates the sources again. On a CPU both passes run in chunks of a few
    examples, so that the concatenation stays in the cache.

    Args:
        sources: `[batch, c_k, height, width]` each; C is the sum of all c_k.
        statistics: of the concatenation, `[C]`; gradients flow through them.
        scale: `[C]` weight of the batch norm.
        shift: `[C]` bias of the batch norm.
        eps: added to the variance.
        kernel: `[out, C, size, size]`.
        stride: of the convolution.
        padding: of the convolution.
        recompute: whether the backward pass also normalises again, so that only sources are saved.

    Returns:
        `[batch, out, height / stride, width / stride]` if the kernel size is odd and `padding` is
        half of it, rounded down.

    Example:
        >>> source = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
        >>> one = torch.ones(1)
        >>> rectified_convolution(
        ...     [source], channel_statistics(source), one, one * 0, 0.0, one.view(1, 1, 1, 1)
        ... ).flatten()
        tensor([0., 1.])
    """
    if (number := autocast_type(sources[0].device)) is not None:
        kernel = kernel.to(number)
    dtype = statistics.mean.dtype
    return _RectifiedConvolution.apply(
        (eps, stride, padding, recompute),
        statistics.mean,
        statistics.variance,
        scale.to(dtype),
        shift.to(dtype),
        kernel,
        *sources,
    )


class _ChannelStatistics(Function):
    @staticmethod
    @override
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(values.dtype, torch.float32)
        mean, variance = _mean_and_variance(values.to(dtype))
        ctx.save_for_backward(values, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, to_mean: Tensor, to_variance: Tensor) -> Tensor:
        values, mean = ctx.saved_tensors
        count = values.numel() // values.shape[1]
        # d mean / d x = 1 / count and d variance / d x = 2 (x - mean) / count, which has the form
        # of a batch norm with variance one.
        return _normalize(
            values, mean, torch.ones_like(mean), to_variance * (2 / count), to_mean / count, 0.0
        )


class _RectifiedConvolution(Function):
    @staticmethod
    @override
    def forward(
        ctx: Any,
        settings: tuple[float, int, int, bool],
        mean: Tensor,
        variance: Tensor,
        scale: Tensor,
        shift: Tensor,
        kernel: Tensor,
        *sources: Tensor,
    ) -> Tensor:
        eps, stride, padding, recompute = ctx.settings = settings
        with without_autocast(kernel.device):
            active = _activate(sources, (mean, variance, scale, shift, eps), kernel.dtype)
            outputs = functional.conv2d(active, kernel, None, stride, padding)
        saved = None if recompute else active
        ctx.save_for_backward(mean, variance, scale, shift, kernel, saved, *sources)
        return outputs

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        eps, stride, padding, _ = ctx.settings
        mean, variance, scale, shift, kernel, active, *sources = ctx.saved_tensors
        if active is None:
            active = _activate(sources, (mean, variance, scale, shift, eps), kernel.dtype)
        to_active, to_kernel, _ = torch.ops.aten.convolution_backward(
            gradient, active, kernel, None, (stride,) * 2, (padding,) * 2,
            (1, 1), False, (0, 0), 1, (True, True, False),
        )  # fmt: skip
        to_active, active = to_active.to(sources[0].dtype), active.to(sources[0].dtype)
        inverse = (variance + eps).rsqrt()
        widths = [source.shape[1] for source in sources]
        factors = (scale * inverse).view(1, -1, 1, 1).split(widths, 1)
        single = len(sources) == 1
        to_sources = [to_active] if single else [torch.empty_like(source) for source in sources]
        to_scale, to_shift = torch.zeros_like(scale), torch.zeros_like(shift)
        for rows in _chunks(sources):
            to_norm = to_active[rows]
            torch.ops.aten.threshold_backward.grad_input(
                to_norm, active[rows], 0, grad_input=to_norm
            )
            _, part_scale, part_shift = torch.ops.aten.native_batch_norm_backward(
                to_norm, joined([source[rows] for source in sources]), scale, mean, variance,
                None, None, False, eps, (False, True, True),
            )  # fmt: skip
            to_scale += part_scale
            to_shift += part_shift
            parts = to_norm.split(widths, 1)
            for whole, part, factor in zip(to_sources, parts, factors, strict=True):
                torch.mul(part, factor, out=whole[rows])
        to_mean = -to_shift * scale * inverse
        to_variance = -0.5 * to_scale * scale * inverse.square()
        return None, to_mean, to_variance, to_scale, to_shift, to_kernel, *to_sources


def _activate(
    sources: Sequence[Tensor],
    norm: tuple[Tensor, Tensor, Tensor, Tensor, float],
    dtype: torch.dtype,
) -> Tensor:
    """`relu(batch_norm(cat(sources)))`, in chunks."""
    like = sources[0]
    batch, _, height, width = like.shape
    active = torch.empty(
        (batch, len(norm[0]), height, width), dtype=like.dtype, device=like.device,
        memory_format=torch.contiguous_format if like.is_contiguous() else torch.channels_last,
    )  # fmt: skip
    for rows in _chunks(sources):
        normalized = _normalize(joined([source[rows] for source in sources]), *norm)
        torch.clamp_min(normalized, 0, out=active[rows])
    return active.to(dtype)


def _mean_and_variance(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel.

    Uses batch norm's own kernel where there is one; on a CPU it is several times faster than
    `var_mean`.
    """
    if values.device.type not in _WITH_KERNEL:
        variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        return mean, variance
    stats = torch.ops.aten.batch_norm_update_stats
    rows = max(1, _LONGEST_SUM // values[0, 0].numel())
    if values.device.type != "cpu" or values.is_contiguous() or len(values) <= rows:
        return stats(values, None, None, 0.0)
    parts = [stats(part, None, None, 0.0) for part in values.split(rows)]
    means, variances = (torch.stack(column) for column in zip(*parts, strict=True))
    sizes = [len(part) / len(values) for part in values.split(rows)]
    weights = torch.tensor(sizes, dtype=values.dtype, device=values.device).unsqueeze(1)
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean).square())).sum(0)


def _normalize(
    values: Tensor, mean: Tensor, variance: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> Tensor:
    """`(values - mean) / sqrt(variance + eps) * scale + shift` per channel, in one pass."""
    return torch.batch_norm(values, scale, shift, mean, variance, False, 0.0, eps, False)


def _chunks(sources: Sequence[Tensor]) -> Iterator[slice]:
    """Slices of the batch: a few examples each on a CPU, all examples on other devices."""
    batch = len(sources[0])
    size = max(1, batch)
    if sources[0].device.type == "cpu":
        features = sum(source.shape[1:].numel() for source in sources)
        example = max(1, features * sources[0].element_size())
        size = max(1, _CHUNK_BYTES // example) * torch.get_num_threads()
    for start in range(0, batch, size):
        yield slice(start, start + size)
