"""Networks in which every channel is a node, learned or compacted."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.nn import (
    Adjacency,
    CompactGraphStage,
    GraphStage,
    SparseEdges,
    select_channels,
)
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.folding import can_fold_norm, fold_pair, is_plain_convolution
from wiring_lightning.nn.graph_edges import GraphEdges, edges_of
from wiring_lightning.nn.graph_stage import RectifiedFilter
from wiring_lightning.nn.hooks import computes_as, in_place_of
from wiring_lightning.nn.node_operations import FILTER_TAPS
from wiring_lightning.nn.plain_weights import of_plain_weights
from wiring_lightning.nn.pre_activation import preferred_layout
from wiring_lightning.wiring import Wiring, WiringBuilder, count_parameters, plain_layer

_NORM = 2  # parameters of a node's norm: scale and shift


class ChannelNetwork(Described):
    """A convolution, a chain of channel graphs, and a classifier.

    Args:
        stem: the convolution; its channels are the inputs of the first graph.
        graphs: `GraphStage` or `CompactGraphStage` by name; the outputs of one are the inputs of
            the next.
        norm: of the outputs of the last graph; an identity if norms are folded.
        classifier: a graph from channels to classes, or a linear layer or another head that gets
            `[batch, features]`.
        image_size: height and width of the images, used only to count multiply-adds.
        numbers: `[features]` the numbers in the names of the features, which `compact()` keeps.
    """

    def __init__(
        self,
        stem: nn.Conv2d,
        graphs: dict[str, nn.Module],
        norm: nn.Module,
        classifier: nn.Module,
        image_size: int,
        numbers: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.graphs = nn.ModuleDict(graphs)
        self.norm = norm
        self.classifier = classifier
        self.image_size = image_size
        if numbers is None:
            assert isinstance(norm, nn.BatchNorm2d)
            numbers = torch.arange(norm.num_features, device="cpu")
        self.numbers = numbers

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> logits `[batch, classes]`."""
        if self.stem.out_channels == 0:  # compacted, and no input of the first graph was live
            state = images[:, :0, :: self.stem.stride[0], :: self.stem.stride[1]]
        else:
            state = self.stem(preferred_layout(images))
        for graph in self.graphs.values():
            state = graph(state)
        if state.shape[1]:  # otherwise it is compacted, and no feature was live
            state = functional.relu(self.norm(state), inplace=True)
        features = state.mean((2, 3))
        if isinstance(self.classifier, Adjacency | SparseEdges):
            return self.classifier(features[:, :, None, None]).flatten(1)
        return self.classifier(features)

    def wiring(self) -> Wiring:
        """Channels as nodes, and nonzero weights as edges.

        A node is called `"graph3.node17"`. Outputs of a graph are nodes of the next one, and those
        of the last graph are features. `Wiring.unlisted` counts the other usable weights.
        """
        return self._wiring(only_usable=False)

    @of_plain_weights
    def compact(self, fold_batch_norm: bool = False) -> "ChannelNetwork":
        """The network in evaluation mode without dead nodes; edges are sparse matrices.

        Args:
            fold_batch_norm: fold the batch norms into the stem and the edges, for inference only.
        """
        if isinstance(self.norm, nn.Identity):  # folded, so it is compact
            return deepcopy(self).eval()
        live = self._wiring(only_usable=True).live_nodes[1:]
        first, graphs = 0, dict[str, nn.Module]()
        stem = select_channels(self.stem, live[: self.stem.out_channels])
        for name, stage in self._stages().items():
            graphs[name] = stage.compact(live[first : first + sum(stage.sizes)])
            first += sum(stage.sizes[:-1])
        features = live[first : first + len(self.numbers)]
        compacted = ChannelNetwork(
            stem=stem,
            graphs=graphs,
            norm=select_channels(self.norm, features),
            classifier=_select_inputs(self.classifier, features),
            image_size=self.image_size,
            numbers=self.numbers[features],
        ).eval()
        if fold_batch_norm:
            compacted._fold_batch_norms()
        return in_place_of(self, compacted)

    def _fold_batch_norms(self) -> None:
        """Fold the norms of all nodes, or none if one of them cannot be folded."""
        stages = self._stages().values()
        operations = [operation for stage in stages for operation in stage.operations]
        norms = [*(operation.get_submodule("norm") for operation in operations), self.norm]
        own = is_plain_convolution(self.stem) and computes_as(RectifiedFilter, *operations)
        own = own and computes_as(CompactGraphStage, *stages)
        if not own or not all(map(can_fold_norm, norms)):
            return
        # What the stem sends is normalised first, and then what each matrix of edges sends.
        self.stem, _ = fold_pair(self.stem, norms[0])
        following = iter(norms[1:])
        for stage in stages:
            assert isinstance(stage, CompactGraphStage)
            stage.normalize(following)
        for operation in operations:
            operation.norm = nn.Identity()
        self.norm = nn.Identity()

    def _stages(self) -> dict[str, GraphStage | CompactGraphStage]:
        return {
            name: stage
            for name, stage in self.graphs.items()
            if isinstance(stage, GraphStage | CompactGraphStage)
        }

    @torch.no_grad()
    def _wiring(self, only_usable: bool) -> Wiring:
        """The wiring, without edges that carry nothing if `only_usable`."""
        graph, unlisted = WiringBuilder(), 0
        norm = _NORM if self.stem.bias is None else 1  # if it is folded, only the shift is left
        image = graph.add_node("image", steps=0)
        side = -(-self.image_size // self.stem.stride[0])
        inputs = 1 + torch.arange(self.stem.out_channels, device="cpu")
        per_input = self.stem.weight.shape[1:].numel()
        graph.connect(image, inputs, parameters=per_input, multiply_adds=per_input * side**2)
        fed = [inputs]
        for name, stage in self._stages().items():
            edges = stage.edges()
            if only_usable:
                edges = edges.select(edges.usable)
            side = -(-side // stage.stride)
            first = len(graph)
            graph.add_group(
                f"{name}.node", stage.numbers, FILTER_TAPS + norm, FILTER_TAPS * side**2
            )
            _connect(graph, first, edges, side**2)
            unlisted += edges.unlisted
            fed.append(first + edges.target[edges.usable])
        features = graph.add_group("features.node", self.numbers, norm, steps=0)
        # A node without an input still sends a constant: batch norm shifts zero.
        constant = torch.ones(len(graph), dtype=torch.bool, device="cpu")
        constant[image] = False
        constant[torch.cat(fed)] = False
        graph.connect(image, constant.nonzero().flatten())
        unlisted += _add_classifier(graph, self.classifier, features)
        return graph.wiring(unlisted)


def _add_classifier(graph: WiringBuilder, layer: nn.Module, features: Tensor) -> int:
    """Add the classifier, which reads the features; the number of its unlisted edges."""
    classifier = plain_layer(layer)
    if isinstance(classifier, Adjacency | SparseEdges):
        first, edges = len(graph) - len(features), edges_of(classifier, len(features))
        classes = graph.add_group("classes.node", classifier.receivers)
        _connect(graph, first, edges, 1)
        graph.add_node("classifier", reads=classes, steps=0)
        return edges.unlisted
    if isinstance(classifier, nn.Linear):
        size, weights = classifier.out_features, classifier.weight.numel()
        last = graph.add_node("classifier", count_parameters(classifier) - weights)
        graph.connect(features, last, parameters=size, multiply_adds=size)
    else:  # another head reads all features
        graph.connect(features, graph.add_layers("classifier", classifier, side=1))
    return 0


def _connect(graph: WiringBuilder, first: int, edges: GraphEdges, multiply_adds: int) -> None:
    """Add the edges of a graph whose node 0 has the number `first`."""
    graph.connect(
        first + edges.source,
        first + edges.target,
        score=edges.weight.abs(),
        learnable=edges.learned,
        parameters=1,
        multiply_adds=multiply_adds,
    )


@torch.no_grad()
def _select_inputs(classifier: nn.Module, kept: Tensor) -> nn.Module:
    """The classifier of the features in a mask; a head of another class reads all of them."""
    count, layer = int(kept.sum()), plain_layer(classifier)
    if isinstance(layer, Adjacency | SparseEdges):
        edges = edges_of(layer, 0)
        edges, number = edges.select(kept[edges.source]), kept.cumsum(0) - 1
        columns = edges.target, number[edges.source], edges.weight
        graph = SparseEdges(*columns, layer.receivers, count, edges.learned)
        graph = graph.to(next(layer.parameters()).device)
        return in_place_of(layer, graph, Adjacency, SparseEdges)
    smaller = deepcopy(layer)
    if isinstance(smaller, nn.Linear):
        smaller.weight = nn.Parameter(smaller.weight[:, kept.to(smaller.weight.device)])
        smaller.in_features = count
    return smaller
