"""Residual blocks with a shortcut without parameters."""

from typing import Literal

from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.functional import Space, lift

BlockName = Literal["basic", "bottleneck"]


class ResidualBlock(nn.Module):
    """The residual function F of one block (ResNet; MaskConnect, Section 3.4).

    `"basic"` is two 3 x 3 convolutions, `"bottleneck"` is 1 x 1, 3 x 3, 1 x 1 with a quarter of the
    output channels inside and the stride at the 3 x 3; a batch norm follows each convolution. The
    network adds the identity, because it may count it once for several blocks.

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
        layers = [(out, 3, self.stride), (out, 3, 1)]  # channels, kernel, stride
        if kind == "bottleneck":
            layers = [(out // 4, 1, 1), (out // 4, 3, self.stride), (out, 1, 1)]
        parts: list[nn.Module] = []
        for channels, size, stride in layers:
            conv = nn.Conv2d(into, channels, size, stride, padding=size // 2, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            parts += [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            into = channels
        self.residual = nn.Sequential(*parts[:-1])  # the last ReLU follows the sum

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """F(x), without the identity."""
        outputs: Tensor = self.residual(inputs)
        return outputs

    def shortcut(self, inputs: Tensor) -> Tensor:
        """The identity in the shape of the output."""
        return lift(inputs, self.origin, self.space)
