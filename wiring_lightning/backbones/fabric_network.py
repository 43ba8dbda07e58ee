"""An image network around a fabric: stem, fabric, classifier."""

from copy import deepcopy
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.nn import BernoulliGate
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.fabric import Fabric, FabricEdge
from wiring_lightning.nn.folding import fold_batch_norms
from wiring_lightning.nn.hooks import in_place_of
from wiring_lightning.nn.plain_weights import of_plain_weights
from wiring_lightning.wiring import Wiring, WiringBuilder

TaskName = Literal["classification", "segmentation"]


class FabricNetwork(Described):
    """Stem, fabric and classifier; the edges of the fabric are sampled for each example.

    If an example's architecture does not connect input and output, its logits are zero, without the
    bias of the classifier.

    As in the paper, a sum of n maps counts as n - 1 multiply-adds per entry. A convolution with its
    batch norm, a basic block or a sum takes one sequential step.

    Args:
        stem: the first layers, which keep height and width.
        fabric: the graph; node 0 has the shape of the stem's output.
        classifier: the last layer: `nn.Linear` reads averages over all positions, a 1 x 1
            `nn.Conv2d` every position.
        image_size: height and width of the images, for counting multiply-adds.
    """

    def __init__(
        self,
        stem: nn.Sequential,
        fabric: Fabric,
        classifier: nn.Linear | nn.Conv2d,
        image_size: int,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.stem = stem
        self.fabric = fabric
        self.classifier = classifier
        self._pools = isinstance(classifier, nn.Linear)  # any head that takes its place gets means
        _, self._edge_of = _candidates(self)

    @property
    def gate(self) -> BernoulliGate | None:
        """The gate of the fabric; `None` in a compact network."""
        return self.fabric.gate

    @override
    def forward(self, images: Tensor) -> Tensor:
        """From images `[batch, channels, height, width]` to logits.

        Returns:
            `[batch, classes]`, for segmentation `[batch, classes, height, width]`.
        """
        state, connected = self.fabric(self.stem(images))
        if self._pools:
            state = state.mean((2, 3))
        logits: Tensor = self.classifier(state)
        if connected is None:
            return logits
        return logits * connected.to(logits.dtype).view(-1, *[1] * (logits.dim() - 1))

    def wiring(self) -> Wiring:
        """Modules and sums as nodes; the edge into a module is the one that the gate samples.

        The edge from a module to its sum is always active. An identity is an edge from sum to sum.
        The score of a sampled edge is its probability.
        """
        candidates, _ = _candidates(self)  # counted anew: a head may have been replaced
        fabric, drawn = self.fabric, self._edge_of >= 0
        learnable = torch.tensor(
            [edge.learnable for edge in fabric.edges()], dtype=torch.bool, device="cpu"
        )
        scores = torch.ones(len(fabric.names), device="cpu")
        if fabric.gate is not None:
            scores = fabric.gate.probabilities.float().cpu()
        return replace(
            candidates,
            active=self.active_edges(fabric.best),
            score=torch.where(drawn, scores[self._edge_of], 1.0),
            learnable=drawn & learnable[self._edge_of],
        )

    def active_edges(self, drawn: Tensor) -> Tensor:
        """Active edges of `wiring()`, on the CPU, for drawn edges of the fabric `[..., edges]`."""
        return drawn.cpu()[..., self._edge_of] | (self._edge_of < 0)

    @property
    def architecture_names(self) -> list[str]:
        """Names of the edges that `compact()` keeps.

        With them as `architecture`, a new fabric has the same parameters as `compact()`.
        """
        return [edge.name for edge in self._live_edges()]

    @of_plain_weights
    def compact(self, fold_batch_norm: bool = False) -> "FabricNetwork":
        """The most probable architecture, without gate and unused modules.

        Args:
            fold_batch_norm: fold the batch norms into the convolutions, for inference only, and
                store them in `torch.channels_last`, in which they are faster on a CPU.

        Raises:
            ValueError: if that architecture does not connect input and output.
        """
        edges = [
            replace(edge, module=deepcopy(edge.module), learnable=False)
            for edge in self._live_edges()
        ]
        if not edges:
            raise ValueError(
                "the most probable architecture does not connect the input to the output, so there "
                "is no network to keep; allow a larger cost, or weigh the cost less."
            )
        fabric = in_place_of(self.fabric, Fabric(self.fabric.spaces, edges), Fabric)
        parts = deepcopy(self.stem), fabric, deepcopy(self.classifier)
        compacted = FabricNetwork(*parts, self.image_size).eval()
        compacted._pools = self._pools
        if fold_batch_norm:
            fold_batch_norms(compacted).to(memory_format=torch.channels_last)
        return in_place_of(self, compacted)

    def _live_edges(self) -> list[FabricEdge]:
        """Edges of evaluation mode on a path from the input to the output."""
        live = self.fabric.topology.live(self.fabric.best.cpu().unsqueeze(0)).squeeze(0).tolist()
        return [edge for edge, alive in zip(self.fabric.edges(), live, strict=True) if alive]


def _candidates(network: FabricNetwork) -> tuple[Wiring, Tensor]:
    """The wiring with all edges active, and for each the edge of the fabric that decides on it.

    That is -1 where nothing does: from a module to its sum, and into the classifier.
    """
    fabric, size = network.fabric, network.image_size
    graph, decides, edges = WiringBuilder(), list[int](), fabric.edges()
    sides = [-(-size // space.reduction) for space in fabric.spaces]
    state_of = {0: graph.add_layers("stem", network.stem, side=size, group=0)}
    last = len(fabric.spaces) - 1
    for node in sorted({last, *fabric.source, *fabric.target} - {0}):
        name = f"node{node}"  # of a node that nothing leads to
        arrivals, drawn = list[int](), list[int]()
        for number, edge in enumerate(edges):
            if edge.target != node:
                continue
            arrival, choice = state_of[edge.source], number
            if edge.module is not None:
                arrival = graph.add_layers(
                    edge.name, edge.module, side=sides[edge.source], reads=[arrival], group=node
                )
                decides.append(number)
                choice = -1
            arrivals.append(arrival)
            drawn.append(choice)
            name = edge.name.rpartition(".")[0] + ".sum"
        # A sum of n maps is n - 1 additions: one for each edge, minus one.
        numbers = fabric.spaces[node].channels * sides[node] ** 2
        state_of[node] = graph.add_node(name, 0, -numbers if arrivals else 0, group=node)
        graph.connect(arrivals, state_of[node], multiply_adds=numbers)
        decides += drawn
    graph.add_layers("classifier", network.classifier, side=sides[-1], reads=[state_of[last]])
    decides.append(-1)  # of the edge into the classifier
    return graph.wiring(), torch.tensor(decides, device="cpu")
