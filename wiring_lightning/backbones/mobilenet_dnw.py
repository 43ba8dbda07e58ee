"""MobileNetV1-DNW: MobileNetV1 whose channels find their own connections."""

import math
from fractions import Fraction

import torch
from torch import nn

from wiring_lightning.backbones.channel_network import ChannelNetwork
from wiring_lightning.backbones.mobilenet import MobileNetStem, stem_facts
from wiring_lightning.nn import Adjacency, AdjacencyMode, GraphStage

# Of every graph: input nodes and width of the other blocks as multiples of the stem's channels,
# stride, and number of blocks (DNW, Table 5).
_GRAPHS = ((1, 2, 1, 1), (2, 4, 2, 2), (4, 8, 2, 2), (8, 16, 2, 6), (16, 32, 2, 2))


class MobileNetV1DNW(ChannelNetwork):
    """A neural graph of channels for every resolution of MobileNetV1 (DNW, Section 2.4, Table 5).

    The outputs of a graph are the inputs of the next. Nodes form blocks, as many as MobileNetV1
    has layers at that resolution, and edges lead from any earlier block to any later one. A graph
    has as many edges as the 1 x 1 convolutions of MobileNetV1 with the same width have weights: the
    largest weights of all that could be. `callbacks.DNW` learns which.

    `wiring()` lists these edges. Its live part is what `compact()` keeps: nodes whose signal
    arrives at the classifier. A node that receives nothing still sends a constant, because batch
    norm shifts zero, and counts as reached. With `rank_all` edges that can carry nothing are listed
    as active too, their multiply-adds are counted, and they keep nodes alive, as in the authors'
    own figures; `compact()` then has fewer edges than `wiring()` says.

    Args:
        width: d, which gives every graph `d * d` of MobileNetV1's edges; the paper's networks have
            0.15 to 0.49.
        num_classes: number of classes.
        stem: `"cifar"` (3 x 3) or `"imagenet"` (3 x 3 of stride 2).
        small: whether the classifier is a graph without biases, too, with a share of d of all
            weights.
        wiring: `"learned"`, or `"random"` for random edges that stay (the paper's RG).
        rank_all: let weights that can never be an edge compete for a graph's edges with the others,
            as the authors of DNW do.
        stem_channels: channels of the first convolution, 32 in the paper; all other sizes follow.
        in_channels: channels of the images.
        image_size: height and width of the images, used only to count multiply-adds; by default 32
            or 224, as the stem suggests.

    Raises:
        ValueError: if the width leaves no edge, gives a graph more edges than it has weights, or
            there is no such stem.

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
        stride, image_size = stem_facts(stem, image_size)
        self.describe(width=width, stem=stem, small=small, wiring=wiring, rank_all=rank_all)
        if not 0 < width <= 1:
            raise ValueError(f"width must be above 0 and at most 1, got {width}.")
        share = Fraction(str(width))  # exact: 0.3 is three tenths
        graphs: dict[str, nn.Module] = {}
        for number, (inputs, outputs, reduction, blocks) in enumerate(_GRAPHS, start=1):
            senders, receivers = inputs * stem_channels, outputs * stem_channels
            pairs = senders * receivers + (blocks - 1) * receivers**2
            graphs[f"graph{number}"] = GraphStage(
                senders, receivers, blocks, reduction, math.ceil(share**2 * pairs), wiring, rank_all
            )
        channels = _GRAPHS[-1][1] * stem_channels
        classifier: nn.Linear | Adjacency = nn.Linear(channels, num_classes)
        if small:
            possible = torch.ones(num_classes, channels, dtype=torch.bool)
            classifier = Adjacency(possible, math.ceil(share * possible.numel()), wiring)
        super().__init__(
            stem=nn.Conv2d(in_channels, stem_channels, 3, stride, padding=1, bias=False),
            graphs=graphs,
            norm=nn.BatchNorm2d(channels),
            classifier=classifier,
            image_size=image_size,
        )
        self.num_classes = num_classes

    @property
    def edge_counts(self) -> dict[str, int]:
        """The number of edges of every graph."""
        return {
            name: stage.adjacency.edges
            for name, stage in self.graphs.items()
            if isinstance(stage, GraphStage)
        }
