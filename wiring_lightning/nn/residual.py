"""Residual blocks, and their shortcut without parameters."""

from typing import Literal

from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.functional import Space, lift

BlockName = Literal["basic", "bottleneck"]


class ResidualBlock(nn.Module):
    """The residual function F of one block (ResNet; MaskConnect, Section 3.4).

    `"basic"` is two 3 x 3 convolutions, `"bottleneck"` is 1 x 1, 3 x 3, 1 x 1 with a quarter of the
    output channels inside and the stride at the 3 x 3; a batch norm follows each convolution. The
    identity is added by the network, which may count it once for several blocks.

    Args:
        kind: `"basic"` or `"bottleneck"`.
        origin: shape of the input.
        space: shape of the output.

    Shapes: `[batch, in, height, width]` -> `[batch, out, height / stride, width / stride]`.

    Example:
        >>> import torch
        >>> block = ResidualBlock("basic", Space(16, 1), Space(32, 2))
        >>> block(torch.randn(2, 16, 8, 8)).shape, block.shortcut(torch.randn(2, 16, 8, 8)).shape
        (torch.Size([2, 32, 4, 4]), torch.Size([2, 32, 4, 4]))
    """

    def __init__(self, kind: BlockName, origin: Space, space: Space) -> None:
        super().__init__()
        self.origin = origin
        self.space = space
        self.stride = space.reduction // origin.reduction
        into, out = origin.channels, space.channels
        inner = out if kind == "basic" else out // 4
        if kind == "basic":
            layers = [_conv(into, inner, 3, self.stride), _conv(inner, out, 3)]
        else:
            layers = [
                _conv(into, inner, 1),
                _conv(inner, inner, 3, self.stride),
                _conv(inner, out, 1),
            ]
        parts: list[nn.Module] = []
        for conv in layers:
            parts += [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True)]
        self.residual = nn.Sequential(*parts[:-1])  # the last ReLU follows the sum

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """F(x), without the identity."""
        outputs: Tensor = self.residual(inputs)
        return outputs

    def shortcut(self, inputs: Tensor) -> Tensor:
        """The identity in the shape of the output."""
        return lift(inputs, self.origin, self.space)


def _conv(into: int, out: int, size: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(into, out, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
