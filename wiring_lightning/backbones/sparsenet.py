"""SparseNet: DenseNet whose layers read only outputs 1, c, c^2, ... layers back."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning._checks import MOST_LAYERS, check_counts
from wiring_lightning.backbones.stages import equal_stages
from wiring_lightning.backbones.stems import StemName, initialize_convolutions, make_stem, stem_plan
from wiring_lightning.functional import Pattern, check_pattern
from wiring_lightning.nn import Feature, RectifiedChain, RectifiedConv2d, Shelf, StagePlan
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.folding import fold_batch_norms
from wiring_lightning.nn.plain_weights import of_plain_weights
from wiring_lightning.nn.pre_activation import preferred_layout
from wiring_lightning.wiring import Wiring, WiringBuilder, count_by_source

# Layers per stage of the ImageNet layouts (DenseNet, Table 1).
_IMAGENET_STAGES = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
_BOTTLENECK = 4  # channels inside a bottleneck layer, as a multiple of the stage's growth


class SparseNet(Described):
    """Sparsely aggregated network by concatenation (SparseNet, Section 3, Equation 2).

    In every stage, layer l concatenates outputs l - 1, l - c, l - c^2, ...; output 0 is the input
    of the stage. Transitions and the classifier read as the layer that would come next.
    `pattern="dense"` is DenseNet.

    For small images three stages after a 3 x 3 convolution of 2k channels; for ImageNet the four
    stages of DenseNet-121, -169 or -201 after a 7 x 7 one. Some published sizes do not follow from
    the paper's rule; `docs/methods/sparsenet_tables.md` lists them.

    Training does not keep concatenations on a CPU, and elsewhere with `checkpointing`: the backward
    pass concatenates again. Evaluation frees an output after its last reader.

    Args:
        depth: number of layers: 3n + 4 for small images (40, 100, ...), 6n + 4 with bottlenecks
            (100, 400, or one more, as the paper's 1001); 121, 169 or 201 for the `"imagenet"` stem.
        growth: k, output channels of a layer; one number, or one per stage.
        bottleneck: whether a 1 x 1 convolution to 4k channels precedes each 3 x 3 (the B in BC).
        compression: the share of its channels that a transition keeps, above 0 and at most 1; the
            paper's BC networks use 0.5.
        pattern: `"log"` or `"dense"`.
        base: c, an integer of at least 2 (the paper's networks use 2); not used by `"dense"`.
        num_classes: number of classes.
        stem: `"cifar"` (3 x 3), `"mini_imagenet"` (3 x 3 and a max-pool) or `"imagenet"` (7 x 7 of
            stride 2, batch norm, ReLU and a max-pool).
        checkpointing: whether training keeps only the outputs of layers, and computes normalised
            copies and bottlenecks again in the backward pass.
        shared_statistics: whether the batch statistics of an output are computed once for all
            layers that read it, instead of once for each. The results are the same.
        in_channels: channels of the images.
        image_size: height and width of the images, used only to count multiply-adds; by default
            32, 64 or 224, as the stem suggests.

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
        self.record(locals())
        super().__init__()
        plan = stem_plan(stem, image_size)
        check_counts(num_classes=num_classes, in_channels=in_channels, image_size=plan.image_size)
        check_counts(most=MOST_LAYERS, depth=depth)
        check_pattern(pattern, base)
        counts = _layers_per_stage(depth, bottleneck, stem)
        rates = _growth_per_stage(growth, len(counts))
        if not 0 < compression <= 1:
            raise ValueError(f"compression must be above 0 and at most 1, got {compression}.")
        self.describe(
            depth=depth, growth=rates, bottleneck=bottleneck, stem=stem, pattern=pattern,
            base=None if pattern == "dense" else base,
        )  # fmt: skip
        self.image_size = plan.image_size
        self.assumes_image_size = image_size is None
        self.reduction = plan.reduction
        self.pattern = pattern
        self.shared_statistics = shared_statistics
        channels = 2 * rates[0]
        self.stem = make_stem(plan, in_channels, channels, activate=stem == "imagenet")
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
        # No variable may keep a tensor after its last reader, so that its memory is freed.
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
        """Layers as nodes and the outputs that they read as edges."""
        graph, side = WiringBuilder(), self.image_size
        node = graph.add_layers("stem", self.stem, side=side)
        side = -(-side // self.reduction)
        columns = zip(self.plans, self.widths, self._stages(), strict=True)
        for number, (plan, widths, (name, layers)) in enumerate(columns, start=1):
            base = node
            for index, layer in enumerate(layers):
                first, *rest = layer.convolutions
                bias = nn.ParameterList([] if first.conv.bias is None else [first.conv.bias])
                node = graph.add_layers(f"{name}.layer{index + 1}", *rest, bias, side=side)
                channels = [widths[source] for source in plan.reads[index]]
                size, work = count_by_source(first, channels, side)
                reads = [base + source for source in plan.reads[index]]
                graph.connect(reads, node, parameters=size, multiply_adds=work)
            fetched = [base + source for source in plan.reads[-1]]
            if name in self.transitions:
                transition = self.transitions[name]
                node = graph.add_layers(f"transition{number}", transition, side=side, reads=fetched)
                side //= 2
        graph.add_layers("classifier", self.norm, self.classifier, side=side, reads=fetched)
        return graph.wiring()

    @torch.no_grad()
    def feature_reuse(self) -> list[Tensor]:
        """Mean absolute weight of every layer for each output that it reads (Figure 3).

        Returns:
            For every stage `[targets, sources]`: the mean over the channels of a source in the
            first convolution of a target, divided by the largest of the target; NaN where a source
            is not read. Sources are the stage's input and its layers. Targets are the layers, and
            the transition or classifier after them.

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
            matrix = torch.full((len(plan.reads), len(widths)), torch.nan, device="cpu")
            for row, weight, reads in zip(matrix, weights, plan.reads, strict=True):
                by_channel = weight.abs().transpose(0, 1).flatten(1).mean(1)
                parts = by_channel.split([widths[source] for source in reads])
                row[list(reads)] = torch.stack([part.mean() for part in parts]).to(row)
            matrices.append(matrix / matrix.nan_to_num(0).amax(1, keepdim=True))
        return matrices

    @of_plain_weights
    def compact(self, fold_batch_norm: bool = False) -> "SparseNet":
        """A copy in evaluation mode: every layer is read, so nothing can be removed.

        Args:
            fold_batch_norm: fold the batch norms that follow a convolution, inside bottleneck
                layers, for inference only.
        """
        compacted = deepcopy(self).eval()
        return fold_batch_norms(compacted) if fold_batch_norm else compacted

    def _stages(self) -> list[tuple[str, list[RectifiedChain]]]:
        return [
            (name, [layer for layer in layers if isinstance(layer, RectifiedChain)])
            for name, layers in self.stages.items()
            if isinstance(layers, nn.ModuleList)
        ]


def _layer(into: int, growth: int, bottleneck: bool) -> list[RectifiedConv2d]:
    """The convolutions of one layer."""
    if not bottleneck:
        return [RectifiedConv2d(into, growth)]
    inner = _BOTTLENECK * growth
    return [RectifiedConv2d(into, inner, size=1), RectifiedConv2d(inner, growth)]


def _layers_per_stage(depth: int, bottleneck: bool, stem: StemName) -> tuple[int, ...]:
    """Layers of each stage, where a bottleneck and the convolution behind it are one."""
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
    rule = "3n + 4 (7, 10, 40, 100, ...) for three equal stages"
    return equal_stages(depth, layers=1, others=4, rule=rule)


def _growth_per_stage(growth: int | Sequence[int], stages: int) -> tuple[int, ...]:
    """Output channels of a layer of each stage."""
    rates = (growth,) * stages if isinstance(growth, int) else tuple(growth)
    if len(rates) != stages:
        raise ValueError(
            f"growth must be one number or one for each of {stages} stages, got {list(rates)}."
        )
    for rate in rates:
        check_counts(growth=rate)
    return rates
