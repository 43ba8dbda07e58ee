"""Independent twins of the residual networks: plain torch layers, lists and Python loops.

`PlainResNet` is ResNet as He et al. write it, with option A shortcuts. `LoopMaskConnect` is
Equation 1 of MaskConnect, one target and one source at a time, with gates that are leaves of the
autograd graph and every output kept as a tensor of its own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from wiring_lightning.backbones import ResNet


class PlainBlock(nn.Module):
    """Two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1."""

    def __init__(self, into: int, out: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        self.into, self.out, self.stride = into, out, stride
        if bottleneck:
            sizes = [(into, out // 4, 1, 1), (out // 4, out // 4, 3, stride), (out // 4, out, 1, 1)]
        else:
            sizes = [(into, out, 3, stride), (out, out, 3, 1)]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, size, step, size // 2, bias=False) for a, b, size, step in sizes
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _, _ in sizes)

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.convs) - 1
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            if index < last:
                x = functional.relu(x)
        return x

    def identity(self, x: Tensor) -> Tensor:
        return grow(x, self.out, self.stride)


def grow(x: Tensor, channels: int, stride: int) -> Tensor:
    """Option A: every stride-th position, zeros for the channels that are missing."""
    if channels == x.shape[1]:
        return x
    x = x[:, :, ::stride, ::stride]
    zeros = x.new_zeros(x.shape[0], channels - x.shape[1], *x.shape[2:])
    return torch.cat([x, zeros], 1)


class PlainResNet(nn.Module):
    """Stem, blocks one after another, average pooling, classifier."""

    def __init__(
        self,
        stages: tuple[int, ...] = (2, 2, 2),
        classes: int = 10,
        width: int = 16,
        bottleneck: bool = False,
        imagenet: bool = False,
    ) -> None:
        super().__init__()
        self.conv = (
            nn.Conv2d(3, width, 7, 2, 3, bias=False)
            if imagenet
            else nn.Conv2d(3, width, 3, padding=1, bias=False)
        )
        self.norm = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        blocks, channels = [], width
        for stage, count in enumerate(stages):
            for index in range(count):
                out = width * 2**stage * (4 if bottleneck else 1)
                stride = 2 if stage and not index else 1
                blocks.append(PlainBlock(channels, out, stride, bottleneck))
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.classifier = nn.Linear(channels, classes)

    def stem(self, images: Tensor) -> Tensor:
        return self.pool(functional.relu(self.norm(self.conv(images))))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for block in self.blocks:
            x = functional.relu(block(x) + block.identity(x))
        return self.classifier(x.mean((2, 3)))


class LoopMaskConnect(PlainResNet):
    """The same layers, each block fed by the gated sum of all earlier ones."""

    fan_in: int
    mean = True
    gates: Tensor  # [blocks - 1, blocks - 1]
    weights: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        residuals: list[Tensor] = []
        identities: list[Tensor] = []
        for j, block in enumerate(self.blocks):
            if j > 0:
                x = functional.relu(self._sum(j, residuals, identities))
            residuals.append(block(x))
            identities.append(block.identity(x))
        x = functional.relu(residuals[-1] + identities[-1])
        return self.classifier(x.mean((2, 3)))

    def _sum(self, j: int, residuals: list[Tensor], identities: list[Tensor]) -> Tensor:
        block = self.blocks[j]
        scale = 1 / min(self.fan_in, j) if self.mean else 1.0
        full = 1 / self.fan_in if self.weights is not None and self.mean else scale
        total: Tensor | float = 0.0
        for k in range(j):
            stride = (
                block.into // residuals[k].shape[1]
            )  # a stage doubles channels and halves sides
            gate = self.gates[j - 1, k]
            if self.weights is not None:
                gate = gate * self.weights[j - 1, k]
            term = gate * (residuals[k] + full * identities[k]) + (scale - full) * identities[k]
            total = total + grow(term, block.into, stride)
        assert isinstance(total, Tensor)
        return total


def copy_layers(network: ResNet, plain: PlainResNet) -> None:
    """Give the twin the parameters and statistics of a network."""
    ours = [network.stem[0], network.stem[1]]
    theirs: list[nn.Module] = [plain.conv, plain.norm]
    for block, twin in zip(network.blocks.values(), plain.blocks, strict=True):
        assert isinstance(twin, PlainBlock)
        layers = [m for m in block.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
        ours += layers
        for conv, norm in zip(twin.convs, twin.norms, strict=True):
            theirs += [conv, norm]
    for mine, yours in zip([*ours, network.classifier], [*theirs, plain.classifier], strict=True):
        yours.load_state_dict(mine.state_dict())


def layer_parameters(network: nn.Module) -> list[Tensor]:
    """All weights in the order of computation, gates left out."""
    if isinstance(network, ResNet):
        parts: list[nn.Module] = [network.stem, *network.blocks.values(), network.classifier]
        return [p for part in parts for p in part.parameters()]
    assert isinstance(network, PlainResNet)
    found = [*network.conv.parameters(), *network.norm.parameters()]
    for block in network.blocks:
        assert isinstance(block, PlainBlock)
        for conv, norm in zip(block.convs, block.norms, strict=True):
            found += [*conv.parameters(), *norm.parameters()]
    return [*found, *network.classifier.parameters()]
