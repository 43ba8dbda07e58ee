"""SparseNet: DenseNet whose layers read those at distances 1, c, c^2, ... only."""

from collections.abc import Sequence
from copy import deepcopy

import torch
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

# Layers per stage of the ImageNet layouts (DenseNet, Table 1).
_IMAGENET_STAGES = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
_BOTTLENECK = 4  # channels inside a bottleneck layer, as a multiple of the stage's growth


class SparseNet(Described):
    """Sparsely aggregated network by concatenation (SparseNet, Section 3, Equation 2).

    In every stage, layer l concatenates the outputs of layers l - 1, l - c, l - c^2, ..., down to
    the input of the stage as output 0. Transitions and the classifier read as the layer that would
    come next. Offsets start anew in each stage. `pattern="dense"` is DenseNet.

    For small images three stages behind a 3 x 3 convolution of 2k channels; for ImageNet the four
    stages of DenseNet-121, -169 or -201 behind a 7 x 7 one. Some published sizes cannot be reached:
    those for ImageNet (4.51M, 6.23M, 7.22M and, with growth 48, 14.91M; no code was published, and
    this rule gives 3.25M, 4.71M, 5.70M and 12.6M), both rows with growth {32, 64, 128}, and to the
    last digit BC-100-12, BC-100-{16, 32, 64} and BC-1001-12. The row "k = 12, depth 40" is k = 24.

    Concatenations are never kept: the backward pass joins the sources again. Evaluation frees an
    output after its last reader.

    Args:
        depth: number of layers: 3n + 4 for small images (40, 100, ...), 6n + 4 with bottlenecks
            (100, 400, or one more, as the paper's 1001); 121, 169 or 201 for the `"imagenet"` stem.
        growth: k, output channels of a layer; one number, or one per stage.
        bottleneck: whether a 1 x 1 convolution to 4k channels precedes each 3 x 3 (the B in BC).
        compression: which part of its channels a transition keeps, rounded down; the paper's BC
            networks use 0.5.
        pattern: `"log"` or `"dense"`.
        base: c, an integer of at least 2 (the paper's networks use 2); not used by `"dense"`.
        num_classes: number of classes.
        stem: `"cifar"` (3 x 3), `"mini_imagenet"` (3 x 3 and a max-pool) or `"imagenet"` (7 x 7 of
            stride 2, batch norm, ReLU and a max-pool).
        checkpointing: whether training keeps nothing but the outputs of layers, and computes
            normalised copies and bottlenecks again in the backward pass.
        shared_statistics: whether the batch statistics of an output are computed once for all
            layers that read it, in the forward and in the backward pass; otherwise every layer
            computes those of everything that it reads. The results are the same.
        in_channels: channels of the images.
        image_size: height and width of the images, used only to count multiply-adds; by default
            32, 64 or 224, as the stem suggests.

    Raises:
        ValueError: if the depth fits no stage plan, or another argument is not as above.

    Example:
        >>> network = SparseNet(100, 24, bottleneck=True, compression=0.5, num_classes=100)
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 100])
        >>> from wiring_lightning import costs
        >>> int(costs.parameters(network.wiring()))
        1461124
    """

    def __init__(
        self,
        depth: int = 40,
        growth: int | Sequence[int] = 12,
        bottleneck: bool = False,
        compression: float = 1.0,
        pattern: Pattern = "log",
        base: int = 2,
        num_classes: int = 10,
        stem: StemName = "cifar",
        checkpointing: bool = False,
        shared_statistics: bool = True,
        in_channels: int = 3,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        plan = stem_plan(stem)
        check_pattern(pattern, base)
        counts = _layers_per_stage(depth, bottleneck, stem)
        rates = _growth_per_stage(growth, len(counts))
        if not 0 < compression <= 1:
            raise ValueError(f"compression must be above 0 and at most 1, got {compression}.")
        self.image_size = plan.image_size if image_size is None else image_size
        self.pattern = pattern
        self.shared_statistics = shared_statistics
        self.describe(
            depth=depth, growth=rates, bottleneck=bottleneck, stem=stem, pattern=pattern,
            base=None if pattern == "dense" else base,
        )  # fmt: skip
        channels = 2 * rates[0]
        self.stem = make_stem(stem, in_channels, channels, activate=stem == "imagenet")
        initialize_convolutions(self.stem)
        self.plans = [StagePlan(count, pattern, base) for count in counts]
        self.widths: list[list[int]] = []  # of every output of every stage
        self.stages = nn.ModuleDict()
        self.transitions = nn.ModuleDict()
        for number, (stage, rate) in enumerate(zip(self.plans, rates, strict=True), start=1):
            widths = [channels, *[rate] * (len(stage.reads) - 1)]
            fetched = [sum(widths[source] for source in reads) for reads in stage.reads]
            self.widths.append(widths)
            self.stages[f"stage{number}"] = nn.ModuleList(
                RectifiedChain(_layer(into, rate, bottleneck), checkpointing)
                for into in fetched[:-1]
            )
            channels = fetched[-1]
            if number < len(counts):
                kept = int(compression * channels)
                if kept < 1:
                    raise ValueError(
                        f"compression must leave a transition of {channels} channels at least one, "
                        f"got {compression}."
                    )
                self.transitions[f"stage{number}"] = RectifiedConv2d(
                    channels, kept, size=1, recompute=checkpointing
                )
                channels = kept
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> logits `[batch, classes]`."""
        # No name here holds a tensor that nobody reads any more.
        shared = self.shared_statistics
        shelf = Shelf(self.plans[0], Feature(preferred_layout(self.stem(images)), shared))
        for following, (name, layers) in enumerate(self._stages(), start=1):
            for layer in layers:
                shelf.put(Feature(layer(shelf.take()), shared))
            if name in self.transitions:
                reduced = functional.avg_pool2d(self.transitions[name](shelf.take()), 2)
                shelf = Shelf(self.plans[following], Feature(reduced, shared))
                del reduced
        state = torch.cat([feature.values for feature in shelf.take()], 1)
        state = functional.relu(self.norm(state), inplace=True)
        logits: Tensor = self.classifier(state.mean((2, 3)))
        return logits

    def wiring(self) -> Wiring:
        """Layers as nodes and what they read as edges."""
        graph = WiringColumns()
        stem_conv = self.stem[0]
        assert isinstance(stem_conv, nn.Conv2d)
        side = -(-self.image_size // stem_conv.stride[0])
        work = stem_conv.weight.numel() * side * side
        node = graph.add("stem", count_parameters(self.stem), work)
        side = -(-side // 2) if any(isinstance(m, nn.MaxPool2d) for m in self.stem) else side
        columns = zip(self.plans, self.widths, self._stages(), strict=True)
        for number, (plan, widths, (name, layers)) in enumerate(columns, start=1):
            base = node
            for index, layer in enumerate(layers):
                first, *rest = layer.convolutions
                reads = plan.reads[index]
                price = (
                    first.parameters_per_source_channel,
                    first.multiply_adds_per_source_channel(side, side),
                )
                node = graph.add(
                    f"{name}.layer{index + 1}",
                    count_parameters(*rest),
                    sum(conv.conv.weight.numel() * side * side for conv in rest),
                    [base + source for source in reads],
                    [(widths[source] * price[0], widths[source] * price[1]) for source in reads],
                )
            fetched = [base + source for source in plan.reads[-1]]
            if name in self.transitions:
                transition = self.transitions[name]
                assert isinstance(transition, RectifiedConv2d)
                work = transition.conv.weight.numel() * side * side
                node = graph.add(f"transition{number}", count_parameters(transition), work, fetched)
                side //= 2
        size = count_parameters(self.norm, self.classifier)
        graph.add("classifier", size, self.classifier.weight.numel(), fetched)
        return graph.wiring()

    @torch.no_grad()
    def feature_reuse(self) -> list[Tensor]:
        """How heavily every layer uses each output that it reads (Section 4.6 and Figure 3).

        Returns:
            For every stage `[targets, sources]`: the mean absolute weight of a target's first
            convolution (of the classifier at the end) over the channels of a source, divided by
            the largest of that target; not a number where a source is not read. Sources are the
            stage's input and its layers, targets the layers and what follows them.

        Example:
            >>> [tuple(matrix.shape) for matrix in SparseNet(depth=16).feature_reuse()]
            [(5, 5), (5, 5), (5, 5)]
        """
        matrices = []
        for plan, widths, (name, layers) in zip(
            self.plans, self.widths, self._stages(), strict=True
        ):
            weights = [layer.convolutions[0].conv.weight for layer in layers]
            if name in self.transitions:
                weights.append(self.transitions[name].get_parameter("conv.weight"))
            else:
                weights.append(self.classifier.weight)
            matrix = torch.full((len(plan.reads), len(widths)), torch.nan)
            for row, weight, reads in zip(matrix, weights, plan.reads, strict=True):
                by_channel = weight.abs().transpose(0, 1).flatten(1).mean(1)
                parts = by_channel.split([widths[source] for source in reads])
                row[list(reads)] = torch.stack([part.mean() for part in parts]).to(row)
            matrices.append(matrix / matrix.nan_to_num(0).amax(1, keepdim=True))
        return matrices

    def compact(self) -> "SparseNet":
        """The same network in evaluation mode: every layer is read, so nothing can be removed."""
        return deepcopy(self).eval()

    def _stages(self) -> list[tuple[str, list[RectifiedChain]]]:
        return [
            (name, [layer for layer in layers if isinstance(layer, RectifiedChain)])
            for name, layers in self.stages.items()
            if isinstance(layers, nn.ModuleList)
        ]


def _layer(into: int, growth: int, bottleneck: bool) -> list[RectifiedConv2d]:
    if not bottleneck:
        return [RectifiedConv2d(into, growth)]
    inner = _BOTTLENECK * growth
    return [RectifiedConv2d(into, inner, size=1), RectifiedConv2d(inner, growth)]


def _layers_per_stage(depth: int, bottleneck: bool, stem: StemName) -> tuple[int, ...]:
    if stem == "imagenet":
        if depth not in _IMAGENET_STAGES or not bottleneck:
            raise ValueError(
                f"with the imagenet stem, depth must be one of "
                f"{', '.join(map(str, _IMAGENET_STAGES))} and bottleneck true, got {depth} and "
                f"{str(bottleneck).lower()}."
            )
        return _IMAGENET_STAGES[depth]
    if bottleneck:
        if depth < 10 or (depth - 4) % 6 > 1:
            raise ValueError(
                f"depth must be 6n + 4 (10, 100, 400, ...) or one more (1001) for three equal "
                f"stages of two-layer bottlenecks, got {depth}."
            )
        return ((depth - 4) // 6,) * 3
    if depth < 7 or (depth - 4) % 3:
        raise ValueError(
            f"depth must be 3n + 4 (7, 10, 40, 100, ...) for three equal stages, got {depth}."
        )
    return ((depth - 4) // 3,) * 3


def _growth_per_stage(growth: int | Sequence[int], stages: int) -> tuple[int, ...]:
    rates = (growth,) * stages if isinstance(growth, int) else tuple(growth)
    if len(rates) != stages:
        raise ValueError(
            f"growth must be one number or one for each of {stages} stages, got {list(rates)}."
        )
    if min(rates) < 1:
        raise ValueError(f"growth must be at least 1, got {growth}.")
    return rates
