"""Networks in which every channel is a node: what a learned one and its compacted form share."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.backbones.graph_columns import GraphColumns
from wiring_lightning.nn import (
    Adjacency,
    CompactGraphStage,
    GraphStage,
    SparseEdges,
    preferred_layout,
    select_norm,
)
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.graph_edges import GraphEdges, edges_of
from wiring_lightning.wiring import Wiring

_FILTER = 9  # weights of a node's filter
_NORM = 2  # scale and shift


class ChannelNetwork(Described):
    """A convolution, graphs of channels one behind the other, and a classifier.

    Args:
        stem: the convolution; its channels are the inputs of the first graph.
        graphs: `GraphStage` or `CompactGraphStage` by name; the outputs of one are the inputs of
            the next.
        norm: of the outputs of the last graph.
        classifier: a linear layer, or a graph from channels to classes.
        image_size: height and width of the images, used only to count multiply-adds.
        numbers: `[features]` what the features were called before some were removed.
    """

    numbers: Tensor

    def __init__(
        self,
        stem: nn.Conv2d,
        graphs: dict[str, nn.Module],
        norm: nn.BatchNorm2d,
        classifier: nn.Linear | Adjacency | SparseEdges,
        image_size: int,
        numbers: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.graphs = nn.ModuleDict(graphs)
        self.norm = norm
        self.classifier = classifier
        self.image_size = image_size
        numbers = torch.arange(norm.num_features) if numbers is None else numbers
        self.register_buffer("numbers", numbers, persistent=False)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> logits `[batch, classes]`."""
        state = self.stem(preferred_layout(images))
        for graph in self.graphs.values():
            state = graph(state)
        features = functional.relu(self.norm(state), inplace=True).mean((2, 3))
        if isinstance(self.classifier, nn.Linear):
            return self.classifier(features)
        return self.classifier(features[:, :, None, None]).flatten(1)

    def wiring(self) -> Wiring:
        """Channels as nodes, and as edges all weights that are not zero.

        A node is called `"graph3.node17"`; outputs of a graph are nodes of the next one, and those
        of the last graph are features. `Wiring.unlisted` counts the weights that could be edges.
        """
        return self._wiring(only_usable=False)

    def compact(self) -> "ChannelNetwork":
        """The same function in evaluation mode without dead nodes; edges are sparse matrices."""
        live = self._wiring(only_usable=True).live_nodes[1:]
        first, graphs = 0, dict[str, nn.Module]()
        stem = _select_outputs(self.stem, live[: self.stem.out_channels])
        for name, stage in self._stages().items():
            graphs[name] = stage.compact(live[first : first + sum(stage.sizes)])
            first += sum(stage.sizes[:-1])
        features = live[first : first + self.norm.num_features]
        device = self.norm.weight.device
        return ChannelNetwork(
            stem=stem,
            graphs=graphs,
            norm=select_norm(self.norm, features.to(device)),
            classifier=_select_inputs(self.classifier, features),
            image_size=self.image_size,
            numbers=self.numbers[features.to(device)],
        ).eval()

    def _stages(self) -> dict[str, GraphStage | CompactGraphStage]:
        return {
            name: stage
            for name, stage in self.graphs.items()
            if isinstance(stage, GraphStage | CompactGraphStage)
        }

    @torch.no_grad()
    def _wiring(self, only_usable: bool) -> Wiring:
        columns, device, unlisted = GraphColumns(), torch.device("cpu"), 0
        image = columns.add("image", steps=0)
        side = -(-self.image_size // self.stem.stride[0])
        inputs, per_input = 1 + torch.arange(self.stem.out_channels), self.stem.weight[0].numel()
        columns.connect(image, inputs, parameters=per_input, multiply_adds=per_input * side**2)
        fed = [inputs]
        for name, stage in self._stages().items():
            edges, numbers = stage.edges(), stage.numbers.to(device)
            flows = edges.usable
            if only_usable:
                edges = edges.select(flows)
                flows = edges.usable
            side = -(-side // stage.stride)
            first = len(columns)
            columns.add_group(name, numbers, _FILTER + _NORM, _FILTER * side**2)
            _connect(columns, first, edges, side**2)
            unlisted += edges.unlisted
            fed.append(first + edges.target[flows])
        features = columns.add_group("features", self.numbers.to(device), _NORM, steps=0)
        # A node that nobody feeds still sends what batch norm makes of zero.
        starved = torch.ones(len(columns), dtype=torch.bool)
        starved[image] = False
        starved[torch.cat(fed)] = False
        columns.connect(image, starved.nonzero().flatten())
        classifier = self.classifier
        if isinstance(classifier, nn.Linear):
            last, size = columns.add("classifier", len(classifier.bias)), classifier.out_features
            columns.connect(features, last, parameters=size, multiply_adds=size)
        else:
            first, edges = len(columns) - len(features), edges_of(classifier, len(features))
            classes = columns.add_group("classes", _receivers(classifier))
            _connect(columns, first, edges, 1)
            unlisted += edges.unlisted
            columns.connect(classes, columns.add("classifier", steps=0))
        return columns.wiring(unlisted)


def _connect(columns: GraphColumns, first: int, edges: GraphEdges, multiply_adds: int) -> None:
    """Add the edges of a graph whose node 0 has the number `first`."""
    columns.connect(
        first + edges.source,
        first + edges.target,
        score=edges.weight.abs(),
        learnable=edges.learned,
        parameters=1,
        multiply_adds=multiply_adds,
    )


def _receivers(layer: Adjacency | SparseEdges) -> int:
    return layer.receivers if isinstance(layer, SparseEdges) else len(layer.weight)


@torch.no_grad()
def _select_outputs(stem: nn.Conv2d, kept: Tensor) -> nn.Conv2d:
    """The convolution to some of its channels, given as a mask."""
    smaller = nn.Conv2d(stem.in_channels, int(kept.sum()), 3, stem.stride[0], padding=1, bias=False)
    smaller.weight = nn.Parameter(stem.weight[kept.to(stem.weight.device)])
    return smaller


@torch.no_grad()
def _select_inputs(
    classifier: nn.Linear | Adjacency | SparseEdges, kept: Tensor
) -> nn.Linear | SparseEdges:
    """The classifier of some of the features, given as a mask."""
    if not isinstance(classifier, nn.Linear):
        edges = edges_of(classifier, 0)
        edges, number = edges.select(kept[edges.source]), kept.cumsum(0) - 1
        count, senders = _receivers(classifier), int(kept.sum())
        smaller = SparseEdges(
            edges.target, number[edges.source], edges.weight, count, senders, edges.learned
        )
        return smaller.to(next(classifier.parameters()).device)
    linear = nn.Linear(int(kept.sum()), classifier.out_features)
    linear.weight = nn.Parameter(classifier.weight[:, kept.to(classifier.weight.device)])
    linear.bias = nn.Parameter(classifier.bias.clone())
    return linear
