"""SparseNet by summation: a pre-activation ResNet that sums outputs 1, c, c^2, ... blocks back."""

from copy import deepcopy

from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning._checks import MOST_LAYERS, check_counts
from wiring_lightning.backbones.stages import equal_stages
from wiring_lightning.backbones.stems import (
    StemName,
    initialize_convolutions,
    make_stem,
    small_stem_plan,
)
from wiring_lightning.functional import Pattern, check_pattern
from wiring_lightning.nn import Feature, RectifiedChain, RectifiedConv2d, Shelf, StagePlan
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.folding import fold_batch_norms, fold_pair
from wiring_lightning.nn.hooks import computes_as
from wiring_lightning.nn.plain_weights import of_plain_weights
from wiring_lightning.nn.pre_activation import preferred_layout
from wiring_lightning.wiring import Wiring, WiringBuilder

_WIDTHS = (16, 32, 64)  # inside the bottlenecks of each stage
_EXPANSION = 4


class SparseResNet(Described):
    """Sparsely aggregated network by summation (SparseNet [+], Section 3, Equation 2).

    Three stages of `(depth - 2) / 9` pre-activation bottlenecks after a 3 x 3 convolution of 16
    channels. Bottlenecks have 16, 32 and 64 channels inside and four times as many outside. Block l
    is a residual function, without an identity, of the sum of outputs l - 1, l - c, l - c^2, ... of
    its stage. Output 0 is a 1 x 1 projection of the input of the stage; block 1 shares its batch
    norm. The next stage and the classifier read as the block that would come next. With
    `pattern="dense"` every block reads the sum of all outputs so far, as in a pre-activation ResNet
    (He et al., 2016).

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
        self.record(locals())
        super().__init__()
        self.describe(depth=depth, stem=stem, pattern=pattern)
        if pattern != "dense":
            self.describe(base=base)
        plan = small_stem_plan("SparseResNet", stem, image_size)
        check_counts(num_classes=num_classes, in_channels=in_channels, image_size=plan.image_size)
        check_counts(most=MOST_LAYERS, depth=depth)
        check_pattern(pattern, base)
        rule = (
            "9n + 2 (11, 20, 56, 110, 200, 1001, ...) for three equal stages of three-layer blocks"
        )
        count, *_ = equal_stages(depth, layers=3, others=2, rule=rule)
        self.image_size = plan.image_size
        self.assumes_image_size = image_size is None
        self.reduction = plan.reduction
        self.pattern = pattern
        self.plan = StagePlan(count, pattern, base)
        self.stem = make_stem(plan, in_channels, _WIDTHS[0], activate=False)
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
                        # Its input is four times as wide as the others, so recompute it.
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
            del state  # free each tensor after its last reader
            if self.pattern == "dense":  # keep a running sum
                state = projected + residual
                del projected, residual
                for block in blocks:
                    state = state + block([Feature(state)])
                continue
            shelf = Shelf(self.plan, projected)
            shelf.take()  # block 1 has read it
            shelf.put(residual)
            del projected, residual
            for block in blocks:
                shelf.put(block([Feature(_total(shelf.take()))]))
            state = _total(shelf.take())
        state = functional.relu(self.norm(state))
        logits: Tensor = self.classifier(state.mean((2, 3)))
        return logits

    def wiring(self) -> Wiring:
        """Projections and blocks as nodes, and the outputs that they sum as edges."""
        graph, side = WiringBuilder(), self.image_size
        reads = [graph.add_layers("stem", self.stem, side=side)]
        side = -(-side // self.reduction)
        for number, (entry, blocks) in enumerate(self._stages(), start=1):
            stage = f"stage{number}"
            projection = entry.norm, entry.projection
            first = graph.add_layers(f"{stage}.input", *projection, side=side, reads=reads)
            block1 = entry.reduce, entry.rest
            graph.add_layers(f"{stage}.block1", *block1, side=side, reads=[first])
            side = -(-side // entry.stride)
            for index, block in enumerate(blocks, start=2):
                sources = [first + source for source in self.plan.reads[index - 1]]
                graph.add_layers(f"{stage}.block{index}", block, side=side, reads=sources)
            reads = [first + source for source in self.plan.reads[-1]]
        graph.add_layers("classifier", self.norm, self.classifier, side=side, reads=reads)
        return graph.wiring()

    @of_plain_weights
    def compact(self, fold_batch_norm: bool = False) -> "SparseResNet":
        """A copy in evaluation mode: every block is read, so nothing can be removed.

        Args:
            fold_batch_norm: fold the batch norms that follow a convolution, inside blocks, for
                inference only.
        """
        compacted = deepcopy(self).eval()
        return fold_batch_norms(compacted) if fold_batch_norm else compacted

    def _stages(self) -> list[tuple["StageEntry", list[RectifiedChain]]]:
        return [
            (entry, [block for block in blocks if isinstance(block, RectifiedChain)])
            for entry, blocks in zip(self.entries.values(), self.stages.values(), strict=True)
            if isinstance(entry, StageEntry) and isinstance(blocks, nn.ModuleList)
        ]


class StageEntry(nn.Module):
    """The projection and the first block of a stage, which share batch norm and ReLU.

    Args:
        in_channels: channels of the input of the stage.
        width: channels inside the bottleneck; the output has four times as many.
        stride: of both.
        checkpointing: as for `SparseResNet`.

    Shapes: `[batch, in_channels, height, width]` becomes two outputs
    `[batch, 4 * width, height / stride, width / stride]`.
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

    def fold_batch_norm(self) -> None:
        """Fold the norm behind the reducing convolution into it, for inference."""
        following = self.rest.convolutions[0]
        if computes_as(RectifiedChain, self.rest) and computes_as(RectifiedConv2d, following):
            self.reduce, following.norm = fold_pair(self.reduce, following.norm)


def _total(outputs: list[Tensor]) -> Tensor:
    """The sum of some outputs, the newest first."""
    newest, *older = reversed(outputs)
    if not older:
        return newest
    total = newest + older[0]
    for output in older[1:]:
        total += output
    return total
