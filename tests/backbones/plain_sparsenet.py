"""Independent twins of the sparsely aggregated networks: plain torch layers and lists of outputs.

`ListSparseNet` keeps every output of a stage in a list and concatenates what a layer reads, as the
papers describe it. `PreActivationResNet` is the network of He et al., "Identity Mappings in Deep
Residual Networks", with its running sum. Both find their sources by a search of their own.
"""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from wiring_lightning.backbones import SparseNet, SparseResNet


def distances(number: int, base: int | None) -> list[int]:
    """The newest of `number` outputs is at distance 1; all of them without a base."""
    allowed = {base**k for k in range(number)} if base else set(range(number + 1))
    return [distance for distance in range(1, number + 1) if distance in allowed]


def fetch(outputs: Sequence[Tensor], base: int | None) -> list[Tensor]:
    """Oldest first."""
    return [outputs[-distance] for distance in reversed(distances(len(outputs), base))]


class NormReluConv(nn.Module):
    """Batch norm, ReLU, convolution."""

    def __init__(self, into: int, out: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(into)
        self.conv = nn.Conv2d(into, out, size, stride, size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.relu(self.norm(x), inplace=True))


class ListSparseNet(nn.Module):
    """SparseNet or DenseNet for small images, with a list and concatenations."""

    def __init__(
        self,
        layers: int,
        growth: Sequence[int],
        bottleneck: bool = False,
        compression: float = 1.0,
        base: int | None = 2,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.base = base
        self.conv = nn.Conv2d(3, 2 * growth[0], 3, padding=1, bias=False)
        self.stages = nn.ModuleList()
        self.transitions = nn.ModuleList()
        channels = 2 * growth[0]
        for stage, k in enumerate(growth):
            widths = [channels]
            built = []
            for _ in range(layers):
                into = sum(widths[-d] for d in distances(len(widths), base))
                parts = [NormReluConv(into, 4 * k, 1), NormReluConv(4 * k, k, 3)]
                built.append(
                    nn.Sequential(*parts) if bottleneck else nn.Sequential(NormReluConv(into, k, 3))
                )
                widths.append(k)
            channels = sum(widths[-d] for d in distances(len(widths), base))
            self.stages.append(nn.ModuleList(built))
            if stage < len(growth) - 1:
                kept = int(channels * compression)
                self.transitions.append(
                    nn.Sequential(NormReluConv(channels, kept, 1), nn.AvgPool2d(2))
                )
                channels = kept
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        state = self.conv(images)
        for number, layers in enumerate(self.stages):
            outputs = [state]
            for layer in layers:
                outputs.append(layer(torch.cat(fetch(outputs, self.base), 1)))
            state = torch.cat(fetch(outputs, self.base), 1)
            if number < len(self.transitions):
                state = self.transitions[number](state)
        state = functional.relu(self.norm(state), inplace=True)
        return self.classifier(state.mean((2, 3)))


class PreActivationBlock(nn.Module):
    """BN-ReLU-conv three times; the first block of a stage projects its activated input."""

    def __init__(self, into: int, width: int, stride: int, first: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(into)
        self.projection = nn.Conv2d(into, 4 * width, 1, stride, bias=False) if first else None
        self.conv1 = nn.Conv2d(into, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The shortcut and the residual function."""
        active = functional.relu(self.norm1(x))
        shortcut = x if self.projection is None else self.projection(active)
        hidden = self.conv2(functional.relu(self.norm2(self.conv1(active))))
        return shortcut, self.conv3(functional.relu(self.norm3(hidden)))


class PreActivationResNet(nn.Module):
    """x <- x + F(x) in three stages."""

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.stages = nn.ModuleList()
        channels = 16
        for width in (16, 32, 64):
            built = []
            for index in range(blocks):
                stride = 2 if width > 16 and index == 0 else 1
                built.append(PreActivationBlock(channels, width, stride, first=index == 0))
                channels = 4 * width
            self.stages.append(nn.ModuleList(built))
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        for blocks in self.stages:
            x = self.stage(blocks, x)
        return self.classifier(functional.relu(self.norm(x)).mean((2, 3)))

    def stage(self, blocks: nn.Module, x: Tensor) -> Tensor:
        for block in blocks.children():
            shortcut, residual = block(x)
            x = shortcut + residual
        return x


class ListSparseResNet(PreActivationResNet):
    """The same layers; each reads the sum of outputs in a list, without identities."""

    base = 2

    def stage(self, blocks: nn.Module, x: Tensor) -> Tensor:
        first, *rest = blocks.children()
        outputs = list(first(x))
        for block in rest:
            _, residual = block(sum(fetch(outputs, self.base)))
            outputs.append(residual)
        return sum(fetch(outputs, self.base))


def copy_in_order(network: nn.Module, twin: nn.Module) -> None:
    """Give the twin parameters and buffers, both in the order of computation."""
    ours, theirs = in_order(network), in_order(twin)
    assert len(ours) == len(theirs)
    with torch.no_grad():
        for mine, yours in zip(ours, theirs, strict=True):
            yours.copy_(mine)


def in_order(network: nn.Module) -> list[Tensor]:
    """Parameters and buffers: stem, then every stage with its transition, then the head."""
    if isinstance(network, SparseNet | SparseResNet):
        parts: list[nn.Module] = [network.stem]
    else:
        parts = [network.get_submodule("conv")]
    transitions = list(getattr(network, "transitions", nn.Module()).children())
    for number, layers in enumerate(network.get_submodule("stages").children()):
        if isinstance(network, SparseResNet):
            entry = network.entries[f"stage{number + 1}"]
            parts += [entry.norm, entry.projection, entry.reduce, entry.rest]
        parts += [layers, *transitions[number : number + 1]]
    parts += [network.get_submodule("norm"), network.get_submodule("classifier")]
    tensors = [[*module.parameters(False), *module.buffers(False)]
               for part in parts for module in part.modules()]  # fmt: skip
    return [tensor for group in tensors for tensor in group]


def scramble(network: nn.Module) -> None:
    """Batch norms that are not as at the start."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight, 1, 0.2)
            nn.init.normal_(norm.bias, 0, 0.2)


def assert_same(network: nn.Module, twin: nn.Module, images: Tensor, tolerance: float) -> None:
    """Logits, all gradients and running statistics of two steps, and logits in evaluation.

    Gradients in float64 only: in float32 an activation may be zero in one of the two networks.
    """
    labels = torch.arange(len(images)) % 10
    for _ in range(2):
        logits, expected = network(images), twin(images)
        torch.testing.assert_close(logits, expected, atol=tolerance, rtol=tolerance)
        for result in (logits, expected):
            functional.cross_entropy(result, labels).backward()
    for ours, theirs in zip(in_order(network), in_order(twin), strict=True):
        if theirs.requires_grad:
            assert ours.grad is not None
            assert theirs.grad is not None
            if images.dtype != torch.float64:
                continue
            scale = float(theirs.grad.abs().max())
            torch.testing.assert_close(
                ours.grad, theirs.grad, atol=tolerance * scale, rtol=tolerance
            )
        else:
            torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    with torch.no_grad():
        logits, expected = network.eval()(images), twin.eval()(images)
    torch.testing.assert_close(logits, expected, atol=tolerance * 10, rtol=tolerance * 10)


def watch_outputs(layers: Sequence[nn.Module]) -> list[set[int]]:
    """Which earlier outputs of these layers are in memory when each layer has just run."""
    outputs: list[weakref.ref[Tensor]] = []
    alive: list[set[int]] = []

    def look(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        alive.append({index for index, ref in enumerate(outputs, 1) if ref() is not None})
        outputs.append(weakref.ref(output))

    for layer in layers:
        layer.register_forward_hook(look)
    return alive
