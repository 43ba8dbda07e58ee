"""Independent twins of the multi-branch networks: plain torch layers and Python loops, no tricks.

`PlainResNeXt` is ResNeXt as Xie et al. write it, one module of layers per branch and one shortcut
per module: `y = relu(S(x) + sum_k F_k(x))`. `LoopGateConnect` is Equation 2 of GateConnect, one
target and one source at a time, with gates that are leaves of the autograd graph.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn


class PlainBranches(nn.Module):
    """The bottlenecks of a module, each a chain of plain layers, and their one projection."""

    def __init__(
        self, branches: int, in_channels: int, width: int, out_channels: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, width, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )
            for _ in range(branches)
        )
        self.projection: nn.Sequential | None = None
        if in_channels != out_channels or stride != 1:
            self.projection = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def identities(self, inputs: list[Tensor]) -> list[Tensor]:
        """`S(x)` of every input; the projection sees all of them as one batch."""
        if self.projection is None:
            return inputs
        return list(self.projection(torch.cat(inputs)).chunk(len(inputs)))

    def residuals(self, inputs: list[Tensor]) -> list[Tensor]:
        """`F_k` of every branch's own input."""
        return [branch(x) for branch, x in zip(self.branches, inputs, strict=True)]


class _Stack(nn.Module):
    def __init__(
        self,
        stages: tuple[int, ...],
        stem_channels: int,
        channels: int,
        width: int,
        cardinality: int,
        num_classes: int,
        stem_kernel: int = 3,
        stem_stride: int = 1,
        max_pool: bool = False,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(
                3, stem_channels, stem_kernel, stem_stride, (stem_kernel - 1) // 2, bias=False
            ),
            nn.BatchNorm2d(stem_channels),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1) if max_pool else nn.Identity(),
        )
        self.blocks = nn.ModuleList()
        current = stem_channels
        for stage, modules in enumerate(stages):
            out = channels * 2**stage
            for index in range(modules):
                stride = 2 if stage > 0 and index == 0 else 1
                self.blocks.append(
                    PlainBranches(cardinality, current, width * 2**stage, out, stride)
                )
                current = out
        self.classifier = nn.Linear(current, num_classes)


class PlainResNeXt(_Stack):
    """All branches of a module read the same input, and their sum is the module's output."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for block in self.blocks:
            (shortcut,) = block.identities([x])
            x = torch.relu(shortcut + sum(block.residuals([x] * len(block.branches))))
        return self.classifier(x.mean((2, 3)))


class LoopGateConnect(_Stack):
    """Every branch reads `relu(sum_k g_jk y_k)` of the branches of the module before."""

    def __init__(
        self, *args: object, fan_in: int, identity: Literal["mean", "sum"], **options: object
    ) -> None:
        super().__init__(*args, **options)
        self.fan_in = fan_in
        self.identity = identity
        self.gates: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        first = self.blocks[0]
        inputs = [x] * len(first.branches)
        identities = first.identities([x]) * len(first.branches)
        for position, block in enumerate(self.blocks):
            if position > 0:
                identities = block.identities(inputs)
            residuals = block.residuals(inputs)
            last = position == len(self.blocks) - 1
            listened = len(block.branches) if last else self.fan_in
            scale = 1 / listened if self.identity == "mean" else 1
            outputs = [f + scale * s for f, s in zip(residuals, identities, strict=True)]
            if last:
                return self.classifier(torch.relu(sum(outputs)).mean((2, 3)))
            inputs = [
                torch.relu(sum(gate * y for gate, y in zip(row, outputs, strict=True)))
                for row in self.gates[position]
            ]
        raise AssertionError


def layer_pairs(
    ours: nn.Module, twin: PlainBranches
) -> Iterator[tuple[nn.Module, nn.Module, int, int]]:
    """Layers of a `Branches`, the twin's, and which of how many equal parts the twin's is."""
    names = {0: "reduce", 1: "reduce_norm", 3: "spatial", 4: "spatial_norm", 6: "expand",
             7: "expand_norm"}  # fmt: skip
    for branch, layers in enumerate(twin.branches):
        for index, name in names.items():
            yield getattr(ours, name), layers[index], branch, len(twin.branches)
    if twin.projection is not None:
        for index, layer in enumerate(twin.projection):
            yield ours.projection[index], layer, 0, 1


def network_pairs(ours: nn.Module, twin: _Stack) -> Iterator[tuple[nn.Module, nn.Module, int, int]]:
    """The same for a whole network."""
    for index in (0, 1):
        yield ours.stem[index], twin.stem[index], 0, 1
    for block, plain in zip(ours.blocks.values(), twin.blocks, strict=True):
        yield from layer_pairs(block, plain)
    yield ours.classifier, twin.classifier, 0, 1


Pairs = Iterator[tuple[nn.Module, nn.Module, int, int]]


@torch.no_grad()
def copy_weights(pairs: Pairs) -> None:
    """Give the twin our parameters, buffers and modes."""
    for ours, theirs, part, parts in pairs:
        state = ours.state_dict()
        for name, value in theirs.state_dict().items():
            source = state[name]
            value.copy_(source if source.dim() == 0 else source.chunk(parts)[part])
        theirs.train(ours.training)
        if isinstance(theirs, nn.BatchNorm2d):
            theirs.momentum, theirs.eps = ours.momentum, ours.eps


def assert_same_gradients(pairs: Pairs, tolerance: float) -> None:
    """Every parameter of the twin has the gradient that our parameter has in its place."""
    for ours, theirs, part, parts in pairs:
        for name, parameter in theirs.named_parameters():
            gradient = getattr(ours, name).grad
            assert gradient is not None
            assert_near(gradient.chunk(parts)[part], parameter.grad, tolerance)


def assert_same_statistics(pairs: Pairs, tolerance: float) -> None:
    """Every running statistic of the twin is ours."""
    for ours, theirs, part, parts in pairs:
        for name, buffer in theirs.named_buffers():
            own = getattr(ours, name)
            if buffer.dim():
                own = own.chunk(parts)[part]
            assert_near(own, buffer, tolerance)


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Largest difference at most `tolerance` of the largest value, or of 1."""
    error = (actual - expected).abs().max()
    assert actual.shape == expected.shape
    assert error <= tolerance * expected.abs().max().clamp_min(1), f"off by {error}"


def scramble_statistics(network: nn.Module) -> None:
    """Batch norms as after some training: no affine at one, no running statistics at zero."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
