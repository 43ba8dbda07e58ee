"""Batch norm behind a pointwise convolution, without a pass over the convolution's output."""

import torch
from torch import Tensor, nn

from wiring_lightning.functional.autocast import without_autocast


def fold_batch_norm(weight: Tensor, inputs: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Fold the batch norm that follows a grouped 1 x 1 convolution into its weight and a bias.

    A 1 x 1 convolution is linear, so the statistics of its outputs follow from those of its inputs:
    `mean = W m` and `var = diag(W S W^T)` with the inputs' mean `m` and covariance `S`. This is
    faster where inputs are narrower than outputs, as in a bottleneck. In training mode the batch
    statistics are used, with gradients, and the running statistics of `norm` are updated.

    Args:
        weight: `[groups, out, in]`.
        inputs: `[batch, groups, in, positions]`.
        norm: the batch norm over the `groups * out` output channels.

    Returns:
        The folded weight `[groups, out, in]` and the bias `[groups, out]`.

    Example:
        >>> inputs, weight = torch.randn(8, 2, 3, 5), torch.randn(2, 4, 3)
        >>> folded, bias = fold_batch_norm(weight, inputs, nn.BatchNorm2d(8))
        >>> outputs = folded @ inputs + bias.unsqueeze(-1)
        >>> outputs.mean((0, 3)).abs().max() < 1e-5
        tensor(True)
    """
    groups, out, _ = weight.shape
    use_batch = norm.training or norm.running_mean is None or norm.running_var is None
    # Statistics in full precision: autocast would compute the products in half precision.
    with without_autocast(inputs.device):
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        if use_batch:
            mean, variance = _output_statistics(weight, inputs.to(weight.dtype))
            if norm.training and norm.track_running_stats:
                count = inputs.shape[0] * inputs.shape[3]
                update_running_statistics(norm, mean.detach(), variance.detach(), count)
        else:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            mean = norm.running_mean.view(groups, out)
            variance = norm.running_var.view(groups, out)
        scale = (variance + norm.eps).rsqrt()
        if norm.affine:
            scale = scale * norm.weight.view(groups, out)
        bias = -mean * scale
        if norm.affine:
            bias = bias + norm.bias.view(groups, out)
        return weight * scale.unsqueeze(-1), bias


def _output_statistics(weight: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance `[groups, out]` of `weight @ inputs` over batch and positions."""
    mean = inputs.mean((0, 3))
    centred = inputs - mean.unsqueeze(-1)
    count = inputs.shape[0] * inputs.shape[3]
    covariance = (centred @ centred.transpose(2, 3)).sum(0) / count
    variance = ((weight @ covariance) * weight).sum(-1).clamp_min(0)
    return (weight @ mean.unsqueeze(-1)).squeeze(-1), variance


@torch.no_grad()
def update_running_statistics(
    norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int
) -> None:
    """Update a batch norm's running statistics as its own forward pass would.

    Args:
        norm: a batch norm that tracks running statistics.
        mean: mean of the batch for each channel, in any shape with `channels` entries.
        variance: biased variance of the batch, likewise.
        count: number of values per channel.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    if norm.momentum is None:
        momentum: float | Tensor = 1 / norm.num_batches_tracked.to(norm.running_mean.dtype)
    else:
        momentum = norm.momentum
    unbiased = variance.flatten() * (count / max(count - 1, 1))
    norm.running_mean.lerp_(mean.flatten().to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)
