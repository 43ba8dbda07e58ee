"""SparseNet by summation: a pre-activation ResNet that sums earlier outputs 1, c, c^2, ... back."""

from copy import deepcopy

from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.backbones.stems import StemName, initialize_convolutions, make_stem, stem_plan
from wiring_lightning.backbones.wiring_columns import WiringColumns, count_parameters
from wiring_lightning.functional import Pattern, check_pattern
from wiring_lightning.nn import (
    Feature,
    RectifiedChain,
    RectifiedConv2d,
    Shelf,
    StagePlan,
    preferred_layout,
)
from wiring_lightning.nn.described import Described
from wiring_lightning.wiring import Wiring

_WIDTHS = (16, 32, 64)  # inside the bottlenecks of each stage
_EXPANSION = 4


class SparseResNet(Described):
    """Sparsely aggregated network by summation (SparseNet [+], Section 3, Equation 2).

    Three stages of `(depth - 2) / 9` pre-activation bottlenecks, 16, 32 and 64 channels wide inside
    and 64, 128 and 256 outside, behind a 3 x 3 convolution of 16 channels. The residual function of
    block l reads the sum of what blocks l - 1, l - c, l - c^2, ... of its stage gave, without an
    identity around it. Output 0 of a stage is a 1 x 1 projection of what the stage receives, which
    also feeds block 1; the next stage and the classifier read as the block that would come next.
    With `pattern="dense"` every block reads all outputs so far: their running sum is the identity
    path of a pre-activation ResNet (He et al., 2016), which the network then is.

    Args:
        depth: number of layers, 9n + 2 (56, 110, 200, 1001, 2000, ...).
        pattern: `"log"` or `"dense"`.
        base: c, an integer of at least 2 (the paper's networks use 2); not used by `"dense"`.
        num_classes: number of classes.
        stem: `"cifar"` (3 x 3) or `"mini_imagenet"` (3 x 3 and a max-pool).
        checkpointing: whether training keeps only the inputs of blocks and computes the rest again
            in the backward pass.
        in_channels: channels of the images.
        image_size: height and width of the images, used only to count multiply-adds; by default
            32 or 64, as the stem suggests.

    Raises:
        ValueError: if the depth is not 9n + 2, or another argument is not as above.

    Example:
        >>> import torch
        >>> network = SparseResNet(56)
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> from wiring_lightning import costs
        >>> int(costs.parameters(network.wiring()))
        590426
    """

    def __init__(
        self,
        depth: int = 56,
        pattern: Pattern = "log",
        base: int = 2,
        num_classes: int = 10,
        stem: StemName = "cifar",
        checkpointing: bool = False,
        in_channels: int = 3,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        plan = stem_plan(stem)
        if stem == "imagenet":
            raise ValueError(
                'SparseResNet has the stems "cifar" and "mini_imagenet", got "imagenet".'
            )
        check_pattern(pattern, base)
        if depth < 11 or (depth - 2) % 9:
            raise ValueError(
                f"depth must be 9n + 2 (11, 20, 56, 110, 200, 1001, ...) for three equal stages of "
                f"three-layer blocks, got {depth}."
            )
        self.image_size = plan.image_size if image_size is None else image_size
        self.reduction = plan.reduction
        self.pattern = pattern
        self.describe(depth=depth, stem=stem, pattern=pattern)
        if pattern != "dense":
            self.describe(base=base)
        self.plan = StagePlan((depth - 2) // 9, pattern, base)
        self.stem = make_stem(stem, in_channels, _WIDTHS[0], activate=False)
        initialize_convolutions(self.stem)
        self.entries = nn.ModuleDict()
        self.stages = nn.ModuleDict()
        channels = _WIDTHS[0]
        for number, width in enumerate(_WIDTHS, start=1):
            stride = 1 if number == 1 else 2
            self.entries[f"stage{number}"] = StageEntry(channels, width, stride, checkpointing)
            channels = _EXPANSION * width
            self.stages[f"stage{number}"] = nn.ModuleList(
                RectifiedChain(
                    [
                        # Its input is four times as wide as the others: one copy is enough.
                        RectifiedConv2d(channels, width, size=1, recompute=True),
                        RectifiedConv2d(width, width),
                        RectifiedConv2d(width, channels, size=1),
                    ],
                    checkpointing,
                )
                for _ in range(len(self.plan.reads) - 2)
            )
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> logits `[batch, classes]`."""
        state = preferred_layout(self.stem(images))
        for entry, blocks in self._stages():
            projected, residual = entry(state)
            del state  # each tensor is let go after its last reader
            dense = self.pattern == "dense"
            sums = RunningSum(projected) if dense else ShelfSums(self.plan, projected)
            del projected
            sums.put(residual)
            del residual
            for block in blocks:
                sums.put(block([Feature(sums.take())]))
            state = sums.take()
        state = functional.relu(self.norm(state))
        logits: Tensor = self.classifier(state.mean((2, 3)))
        return logits

    def wiring(self) -> Wiring:
        """Projections and blocks as nodes, and what they sum as edges."""
        graph = WiringColumns()
        stem_conv = self.stem[0]
        assert isinstance(stem_conv, nn.Conv2d)
        work = stem_conv.weight.numel() * self.image_size**2
        reads = [graph.add("stem", count_parameters(self.stem), work)]
        side = -(-self.image_size // self.reduction)
        for number, (entry, blocks) in enumerate(self._stages(), start=1):
            entry_work, block_work = entry.multiply_adds(side)
            size = count_parameters(entry.norm, entry.projection)
            first = graph.add(f"stage{number}.input", size, entry_work, reads)
            size = count_parameters(entry.reduce, entry.rest)
            graph.add(f"stage{number}.block1", size, block_work, [first])
            side = -(-side // entry.stride)
            columns = zip(self.plan.reads[1:], blocks, strict=False)
            for index, (sources, block) in enumerate(columns, start=2):
                graph.add(
                    f"stage{number}.block{index}",
                    count_parameters(block),
                    sum(conv.conv.weight.numel() for conv in block.convolutions) * side * side,
                    [first + source for source in sources],
                )
            reads = [first + source for source in self.plan.reads[-1]]
        size = count_parameters(self.norm, self.classifier)
        graph.add("classifier", size, self.classifier.weight.numel(), reads)
        return graph.wiring()

    def compact(self) -> "SparseResNet":
        """The same network in evaluation mode: every block is read, so nothing can be removed."""
        return deepcopy(self).eval()

    def _stages(self) -> list[tuple["StageEntry", list[RectifiedChain]]]:
        return [
            (entry, [block for block in blocks if isinstance(block, RectifiedChain)])
            for entry, blocks in zip(self.entries.values(), self.stages.values(), strict=True)
            if isinstance(entry, StageEntry) and isinstance(blocks, nn.ModuleList)
        ]


class StageEntry(nn.Module):
    """The projection and the first block of a stage, which share batch norm and ReLU.

    Args:
        in_channels: channels that the stage receives.
        width: channels inside the bottleneck; the stage has four times as many.
        stride: of the projection and of the 3 x 3 convolution.
        checkpointing: as for `RectifiedChain`.
    """

    def __init__(self, in_channels: int, width: int, stride: int, checkpointing: bool) -> None:
        super().__init__()
        self.stride = stride
        self.norm = nn.BatchNorm2d(in_channels)
        out = _EXPANSION * width
        self.projection = nn.Conv2d(in_channels, out, 1, stride, bias=False)
        self.reduce = nn.Conv2d(in_channels, width, 1, bias=False)
        initialize_convolutions(self.projection, self.reduce)
        self.rest = RectifiedChain(
            [RectifiedConv2d(width, width, stride=stride), RectifiedConv2d(width, out, size=1)],
            checkpointing,
        )

    @override
    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The projection (output 0 of the stage), and the residual function of block 1."""
        active = functional.relu(self.norm(state), inplace=True)
        return self.projection(active), self.rest([Feature(self.reduce(active))])

    def multiply_adds(self, side: int) -> tuple[int, int]:
        """Of the projection and of block 1, for one example of `side` x `side`."""
        after = -(-side // self.stride)
        rest = sum(layer.conv.weight.numel() for layer in self.rest.convolutions)
        block = self.reduce.weight.numel() * side * side + rest * after * after
        return self.projection.weight.numel() * after * after, block


class RunningSum:
    """Dense aggregation: the sum of all outputs so far grows by one addition a block."""

    def __init__(self, first: Tensor) -> None:
        self.total = first

    def put(self, output: Tensor) -> None:
        """Add an output."""
        self.total = self.total + output

    def take(self) -> Tensor:
        """The sum of all outputs."""
        return self.total


class ShelfSums:
    """Sparse aggregation: sums of those outputs that the next block reads.

    Args:
        plan: of the stage.
        first: output 0 of the stage; what block 1 reads of it is not taken from here.
    """

    def __init__(self, plan: StagePlan, first: Tensor) -> None:
        self.shelf = Shelf(plan, first)
        self.shelf.take()

    def put(self, output: Tensor) -> None:
        """Add an output."""
        self.shelf.put(output)

    def take(self) -> Tensor:
        """The sum of what the next block reads."""
        newest, *older = reversed(self.shelf.take())
        if not older:
            return newest
        total = newest + older[0]
        for output in older[1:]:
            total += output
        return total
