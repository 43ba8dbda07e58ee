"""The 1 x 1 convolution of many branches as one batched product."""

from torch import Tensor, nn
from typing_extensions import override


class PointwiseConv2d(nn.Conv2d):
    """A grouped 1 x 1 convolution, computed as one batched matrix product over the groups.

    Parameters and result are those of `nn.Conv2d(..., kernel_size=1, groups=groups, bias=bias)`;
    the product is several times faster than a grouped convolution, forward and backward.

    Example:
        >>> import torch
        >>> conv, images = PointwiseConv2d(6, 4, groups=2), torch.randn(3, 6, 5, 5)
        >>> plain = nn.functional.conv2d(images, conv.weight, groups=2)
        >>> torch.allclose(conv(images), plain, atol=1e-6)
        True
    """

    def __init__(
        self, in_channels: int, out_channels: int, groups: int = 1, bias: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1, groups=groups, bias=bias)

    @property
    def matrices(self) -> Tensor:
        """The weight as `[groups, out, in]`, with the channels of one group."""
        return self.weight.view(self.groups, -1, self.weight.shape[1])

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, in_channels, height, width]` -> `[batch, out_channels, height, width]`."""
        if self.groups == 1:
            return super().forward(images)
        batch, channels, height, width = images.shape
        grouped = images.reshape(batch, self.groups, channels // self.groups, height * width)
        outputs = (self.matrices @ grouped).view(batch, self.out_channels, height, width)
        return outputs if self.bias is None else outputs.add_(self.bias.view(-1, 1, 1))
