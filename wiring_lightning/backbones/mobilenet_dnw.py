"""MobileNetV1-DNW: MobileNetV1 with learned connections between channels."""

import math
from fractions import Fraction

import torch
from torch import nn

from wiring_lightning._checks import check_counts
from wiring_lightning.backbones.channel_network import ChannelNetwork
from wiring_lightning.backbones.stems import MOBILENET_STEMS, MobileNetStem, stem_plan
from wiring_lightning.nn import Adjacency, AdjacencyMode, GraphStage

# Of every graph: input nodes and width of the other blocks as multiples of the stem's channels,
# stride, and number of blocks (DNW, Table 5).
_GRAPHS = ((1, 2, 1, 1), (2, 4, 2, 2), (4, 8, 2, 2), (8, 16, 2, 6), (16, 32, 2, 2))


class MobileNetV1DNW(ChannelNetwork):
    """A neural graph of channels for every resolution of MobileNetV1 (DNW, Section 2.4, Table 5).

    The outputs of a graph are the inputs of the next. Nodes form blocks, as many as MobileNetV1
    has layers at that resolution, and edges lead to any later block. The number of edges is the
    number of weights in the 1 x 1 convolutions of MobileNetV1 of the same width. `callbacks.DNW`
    learns the edges.

    `wiring()` lists these edges, and `compact()` keeps the live ones. A node without an input still
    sends a constant, because batch norm shifts zero, and counts as reached. With `rank_all`, edges
    that carry nothing are also listed as active and counted, as in the authors' own figures;
    `compact()` then has fewer edges than the wiring.

    Args:
        width: d, above 0 and at most 1. A graph has `d * d` of the edges at width 1; the paper's
            networks have 0.15 to 0.49.
        num_classes: number of classes.
        stem: `"cifar"` (3 x 3) or `"imagenet"` (3 x 3 of stride 2).
        small: whether the classifier is a graph, too, with a share of d of all weights and no bias.
        wiring: `"learned"`, or `"random"` for random edges that stay (the paper's RG).
        rank_all: rank the weights that are not usable, too, as the authors of DNW do.
        stem_channels: channels of the first convolution, 32 in the paper; all sizes scale with it.
        in_channels: channels of the images.
        image_size: height and width of the images, used only to count multiply-adds; by default 32
            or 224, as the stem suggests.

    Example:
        >>> import torch
        >>> from wiring_lightning import costs
        >>> network = MobileNetV1DNW(width=0.225, stem_channels=8)
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> network.edge_counts
        {'graph1': 7, 'graph2': 78, 'graph3': 312, 'graph4': 4562, 'graph5': 4977}
    """

    def __init__(
        self,
        width: float = 0.225,
        num_classes: int = 10,
        stem: MobileNetStem = "cifar",
        small: bool = False,
        wiring: AdjacencyMode = "learned",
        rank_all: bool = False,
        stem_channels: int = 32,
        in_channels: int = 3,
        image_size: int | None = None,
    ) -> None:
        self.record(locals())
        plan = stem_plan(stem, image_size, MOBILENET_STEMS)
        check_counts(
            stem_channels=stem_channels,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=plan.image_size,
        )
        if not 0 < width <= 1:
            raise ValueError(f"width must be above 0 and at most 1, got {width}.")
        share = Fraction(str(width))  # exact, where 0.3 * 0.3 as float is not
        graphs: dict[str, nn.Module] = {}
        for number, (inputs, outputs, stride, blocks) in enumerate(_GRAPHS, start=1):
            senders, receivers = inputs * stem_channels, outputs * stem_channels
            # Weights of the 1 x 1 convolutions of MobileNetV1 at this resolution.
            weights = senders * receivers + (blocks - 1) * receivers**2
            graphs[f"graph{number}"] = GraphStage(
                senders, receivers, blocks, stride, math.ceil(share**2 * weights), wiring, rank_all
            )
        channels = _GRAPHS[-1][1] * stem_channels
        classifier: nn.Linear | Adjacency = nn.Linear(channels, num_classes)
        if small:
            usable = torch.ones(num_classes, channels, dtype=torch.bool, device="cpu")
            classifier = Adjacency(usable, math.ceil(share * usable.numel()), wiring)
        super().__init__(
            stem=nn.Conv2d(in_channels, stem_channels, 3, plan.stride, padding=1, bias=False),
            graphs=graphs,
            norm=nn.BatchNorm2d(channels),
            classifier=classifier,
            image_size=plan.image_size,
        )
        self.assumes_image_size = image_size is None
        self.num_classes = num_classes
        self.describe(width=width, stem=stem, small=small, wiring=wiring, rank_all=rank_all)

    @property
    def edge_counts(self) -> dict[str, int]:
        """The number of edges of every graph."""
        return {
            name: stage.adjacency.edges
            for name, stage in self.graphs.items()
            if isinstance(stage, GraphStage)
        }
