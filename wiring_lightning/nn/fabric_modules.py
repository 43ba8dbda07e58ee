"""Modules on the edges of a fabric: convolutions with bias, each with a batch norm."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override


class UncountedDoubling(nn.Module):
    """Nearest-neighbour upsampling by 2 that the counts of multiply-adds pass over.

    A convolution behind it is counted for the small map, as the paper's tables do; with
    `nn.Upsample` it is counted for the large one, which it computes.

    Example:
        >>> import torch
        >>> UncountedDoubling()(torch.ones(1, 1, 2, 2)).shape
        torch.Size([1, 1, 4, 4])
    """

    uncounted: ClassVar[bool] = True

    @override
    def forward(self, input: Tensor) -> Tensor:
        """`[batch, channels, height, width]`, twice as high and wide."""
        return functional.interpolate(input, scale_factor=2)


class SubsetBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that also accepts a single value per channel in training mode.

    Such a batch has no variance, and `nn.BatchNorm2d` raises an error. This norm then uses the
    running statistics and does not update them.

    Example:
        >>> import torch
        >>> norm = SubsetBatchNorm2d(2, eps=0.0)
        >>> norm(torch.tensor([[[[3.0]], [[4.0]]]])).flatten().tolist()
        [3.0, 4.0]
    """

    @override
    def forward(self, input: Tensor) -> Tensor:
        """`[batch, channels, height, width]`, normalised."""
        if self.training and input.numel() == self.num_features:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def convolution(into: int, out: int, size: int, stride: int = 1) -> nn.Sequential:
    """A convolution and its batch norm."""
    return nn.Sequential(
        nn.Conv2d(into, out, size, stride, padding=size // 2), SubsetBatchNorm2d(out)
    )


def basic_block(into: int, out: int, stride: int = 1) -> nn.Sequential:
    """Two 3 x 3 convolutions with a ReLU between them; the node adds and applies the last ReLU."""
    return nn.Sequential(
        *convolution(into, out, 3, stride), nn.ReLU(inplace=True), *convolution(out, out, 3)
    )
