"""Batch norm, ReLU and convolution of one or several concatenated sources."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from wiring_lightning.functional import (
    Statistics,
    channel_statistics,
    rectified_convolution,
    update_running_statistics,
)
from wiring_lightning.functional.transforms import is_transformed
from wiring_lightning.nn.as_made import convolves
from wiring_lightning.nn.folding import fold_pair
from wiring_lightning.nn.hooks import computes_as


def preferred_layout(values: Tensor) -> Tensor:
    """Channels last on a CPU, where convolutions are faster with it; later layers keep it."""
    if values.device.type != "cpu" or torch.compiler.is_compiling() or is_transformed():
        return values
    return values.contiguous(memory_format=torch.channels_last)


class Feature:
    """A tensor `[batch, channels, height, width]` with its batch statistics.

    Each layer that reads it has its own batch norm, but all norms need the same mean and variance.

    Args:
        values: the tensor.
        shared: whether its statistics are computed once, instead of once for each reader.
    """

    def __init__(self, values: Tensor, shared: bool = True) -> None:
        self.values = values
        self.shared = shared
        self._statistics: Statistics | None = None

    @property
    def statistics(self) -> Statistics:
        """Mean and variance of every channel over the batch."""
        statistics = self._statistics or channel_statistics(self.values)
        if self.shared:
            self._statistics = statistics
        return statistics


class RectifiedConv2d(nn.Module):
    """Batch norm, ReLU and convolution of the concatenated sources.

    On a CPU the backward pass concatenates the sources again, so the concatenation is not kept. On
    an accelerator that holds with `recompute` only; without it, torch's own layers are faster.

    Args:
        in_channels: channels of all sources together.
        out_channels: channels of the output.
        size: height and width of the kernel, odd.
        stride: of the convolution.
        recompute: whether the backward pass also normalises again, so that only sources are kept.

    Shapes: features `[batch, c_k, height, width]` ->
    `[batch, out_channels, height / stride, width / stride]`.

    Example:
        >>> layer = RectifiedConv2d(28, 12)
        >>> sources = [Feature(torch.randn(2, 16, 8, 8)), Feature(torch.randn(2, 12, 8, 8))]
        >>> layer(sources).shape
        torch.Size([2, 12, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int = 3,
        stride: int = 1,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.checkpointed = False  # whether the backward pass of its chain computes it again
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(
            in_channels, out_channels, size, stride, padding=size // 2, bias=False
        )
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    @override
    def forward(self, features: Sequence[Feature]) -> Tensor:
        """Concatenate the features and apply the layer."""
        values = [feature.values for feature in features]
        if self.plain:
            joined = values[0] if len(values) == 1 else torch.cat(values, 1)
            outputs: Tensor = self.conv(functional.relu(self.norm(joined), inplace=True))
            return outputs
        statistics = self.statistics(features)
        self.track(statistics)
        return self.convolve(values, statistics)

    @property
    def plain(self) -> bool:
        """Whether to run layer by layer.

        That is so while compiling and under `torch.func`, with layers of other classes or with
        hooks, and if norms are folded. And on an accelerator, where it takes a third of the
        kernels, unless the backward pass is to compute the layer again: torch's norm would count a
        batch twice.
        """
        if torch.compiler.is_compiling() or is_transformed():
            return True
        conv, norm = self.conv, self.norm
        own = computes_as(nn.Conv2d, conv) and computes_as(nn.BatchNorm2d, norm)
        if not own or not _is_as_made(conv):
            return True
        again = self.recompute or self.checkpointed
        return conv.weight.device.type != "cpu" and not again

    def statistics(self, features: Sequence[Feature]) -> Statistics:
        """Mean and variance for the norm: of the batch in training, else the running ones."""
        norm = self.norm
        if not norm.training and norm.running_mean is not None and norm.running_var is not None:
            return Statistics(norm.running_mean, norm.running_var, 0)
        parts = [feature.statistics for feature in features]
        if len(parts) == 1:
            return parts[0]
        mean = torch.cat([part.mean for part in parts])
        return Statistics(mean, torch.cat([part.variance for part in parts]), parts[0].number)

    def track(self, statistics: Statistics) -> None:
        """Move the running statistics, once per forward pass in training mode."""
        if self.norm.training and self.norm.track_running_stats:
            update_running_statistics(self.norm, *statistics)

    def convolve(self, values: Sequence[Tensor], statistics: Statistics) -> Tensor:
        """The layer with given statistics; running statistics do not change."""
        conv = self.conv
        return rectified_convolution(
            values, statistics, self.norm.weight, self.norm.bias, self.norm.eps, conv.weight,
            conv.stride[0], conv.kernel_size[0] // 2, self.recompute,
        )  # fmt: skip


def _is_as_made(conv: nn.Conv2d) -> bool:
    """Whether a convolution can be one of `RectifiedConv2d`: it was not replaced by another kind.

    It has no bias either: with one, the next norm is folded into it.
    """
    return convolves(conv, conv.kernel_size[0], conv.stride[0]) and conv.bias is None


class RectifiedChain(nn.Module):
    """A chain of `RectifiedConv2d`, of which the first may read several features.

    One 3 x 3 convolution is a layer of DenseNet, 1 x 1 and 3 x 3 are its bottleneck layer, and
    1 x 1, 3 x 3, 1 x 1 the residual function of a pre-activation ResNet.

    Args:
        layers: the convolutions.
        checkpointing: whether the backward pass computes everything but the features again
            (`torch.utils.checkpoint`).

    Example:
        >>> chain = RectifiedChain([RectifiedConv2d(16, 48, size=1), RectifiedConv2d(48, 12)])
        >>> chain([Feature(torch.randn(2, 16, 8, 8))]).shape
        torch.Size([2, 12, 8, 8])
    """

    def __init__(self, layers: Sequence[RectifiedConv2d], checkpointing: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.checkpointing = checkpointing
        if len(layers) == 1:
            layers[0].recompute = checkpointing
        for layer in layers:
            layer.checkpointed = checkpointing

    @override
    def forward(self, features: Sequence[Feature]) -> Tensor:
        """Concatenate the features and apply the layers."""
        first, *rest = self.convolutions
        own = computes_as(RectifiedConv2d, *self.convolutions)
        if not rest or not own or any(layer.plain for layer in self.convolutions):
            output: Tensor = first(features)
            for layer in rest:
                output = layer([Feature(output)])
            return output
        statistics = first.statistics(features)
        values = [feature.values for feature in features]
        if self.checkpointing and torch.is_grad_enabled():
            output, seen = checkpoint(
                self._compute, values, statistics, use_reentrant=False, preserve_rng_state=False
            )
        else:
            output, seen = self._compute(values, statistics)
        # Not inside `checkpoint`, which runs twice: a batch must count once.
        for layer, layer_statistics in zip(self.convolutions, (statistics, *seen), strict=True):
            layer.track(layer_statistics)
        return output

    def fold_batch_norm(self) -> None:
        """Fold the norms between the convolutions into those before them, for inference."""
        for layer, following in pairwise(self.convolutions):
            if not computes_as(RectifiedConv2d, layer, following):
                continue  # something else may be computed between them
            layer.conv, following.norm = fold_pair(layer.conv, following.norm)

    @property
    def convolutions(self) -> list[RectifiedConv2d]:
        """The layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, RectifiedConv2d)]

    def _compute(
        self, values: Sequence[Tensor], statistics: Statistics
    ) -> tuple[Tensor, list[Statistics]]:
        """The output, and the statistics between the convolutions."""
        first, *rest = self.convolutions
        output, seen = first.convolve(values, statistics), []
        for layer in rest:
            seen.append(layer.statistics([Feature(output)]))
            output = layer.convolve([output], seen[-1])
        return output, seen
