"""An image network around a fabric: stem, fabric, classifier."""

from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.backbones.wiring_columns import count_parameters
from wiring_lightning.nn import BernoulliGate
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.fabric import Fabric, FabricEdge
from wiring_lightning.nn.fabric_modules import count_multiply_adds
from wiring_lightning.wiring import Wiring, make_wiring

TaskName = Literal["classification", "segmentation"]


class FabricNetwork(Described):
    """Stem, fabric and classifier; which edges of the fabric are there is drawn per example.

    The logits of an example whose architecture does not connect input and output are zero: its
    classifier has nothing to say, not even its bias.

    As in the paper, a sum of n maps counts as n - 1 additions per number among the multiply-adds,
    and a convolution (with its batch norm), a basic block or a sum takes one sequential step.

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
        self._columns = _Columns(self)
        self._edge_of = torch.tensor(self._columns.edge_of, device="cpu")

    @property
    def gate(self) -> BernoulliGate | None:
        """What draws the edges of the fabric; none in a compact network."""
        return self.fabric.gate

    @override
    def forward(self, images: Tensor) -> Tensor:
        """From images `[batch, channels, height, width]` to logits.

        Returns:
            `[batch, classes]`, for segmentation `[batch, classes, height, width]`.
        """
        state, connected = self.fabric(self.stem(images))
        if isinstance(self.classifier, nn.Linear):
            state = state.mean((2, 3))
        logits: Tensor = self.classifier(state)
        if connected is None:
            return logits
        return logits * connected.to(logits.dtype).view(-1, *[1] * (logits.dim() - 1))

    def wiring(self) -> Wiring:
        """Modules and sums as nodes; the edge into a module is the one that is drawn.

        A module node is followed by a sum, and the edge between the two is always there. An
        identity is an edge from sum to sum. The score of a drawn edge is its probability.
        """
        columns, fabric, edge_of = self._columns, self.fabric, self._edge_of
        drawn = edge_of >= 0
        learnable = torch.tensor([edge.learnable for edge in fabric.edges()], dtype=torch.bool)
        scores = torch.ones(len(fabric.names))
        if fabric.gate is not None:
            scores = fabric.gate.probabilities.float().cpu()
        wiring = make_wiring(
            columns.names,
            columns.source,
            columns.target,
            drawn,
            group=columns.group,
            score=torch.where(drawn, scores[edge_of], 1.0),
            learnable=drawn & learnable[edge_of],
            parameters=columns.parameters,
            multiply_adds=columns.multiply_adds,
            edge_multiply_adds=columns.edge_multiply_adds,
        )
        return wiring.with_active(self.active_edges(fabric.best))

    def active_edges(self, drawn: Tensor) -> Tensor:
        """Edges of `wiring()` that are active if these edges of the fabric are drawn.

        Args:
            drawn: `[..., edges]` edges of the fabric, such as `gate.drawn`.

        Returns:
            `[..., edges of the wiring]` on the CPU.
        """
        return drawn.cpu()[..., self._edge_of] | (self._edge_of < 0)

    @property
    def architecture_names(self) -> list[str]:
        """Names of the edges that `compact()` keeps.

        They are an `architecture` that another fabric can be built with. It has the parameters of
        `compact()`, by the same names.
        """
        live = self.fabric.topology.live(self.fabric.best.cpu().unsqueeze(0)).squeeze(0)
        return [name for name, alive in zip(self.fabric.names, live.tolist(), strict=True) if alive]

    def compact(self) -> "FabricNetwork":
        """The network of the most probable architecture, without gate and unused modules.

        Raises:
            ValueError: if that architecture does not connect input and output.
        """
        live = self.fabric.topology.live(self.fabric.best.cpu().unsqueeze(0)).squeeze(0).tolist()
        if not any(live):
            raise ValueError(
                "the most probable architecture does not connect the input to the output, so there "
                "is no network to keep; allow a larger cost, or weigh the cost less."
            )
        edges = [
            FabricEdge(edge.name, edge.source, edge.target, deepcopy(edge.module), learnable=False)
            for edge, alive in zip(self.fabric.edges(), live, strict=True)
            if alive
        ]
        fabric = Fabric(self.fabric.spaces, edges)
        parts = deepcopy(self.stem), fabric, deepcopy(self.classifier)
        return FabricNetwork(*parts, self.image_size).eval()


class _Columns:
    """What of a wiring does not depend on the gate, as columns.

    `edge_of` is the edge of the fabric that an edge of the wiring stands for, -1 for given ones.
    """

    def __init__(self, network: FabricNetwork) -> None:
        self.names: list[str] = []
        self.group: list[int] = []
        self.parameters: list[int] = []
        self.multiply_adds: list[int] = []
        self.source: list[int] = []
        self.target: list[int] = []
        self.edge_of: list[int] = []
        self.edge_multiply_adds: list[int] = []
        fabric, size = network.fabric, network.image_size
        stem = count_multiply_adds(network.stem, size)
        state_of = {0: self._node("stem", 0, count_parameters(network.stem), stem)}
        edges = fabric.edges()
        sides = [-(-size // space.reduction) for space in fabric.spaces]
        last = len(fabric.spaces) - 1
        for node in sorted({last, *fabric.source, *fabric.target} - {0}):
            numbers = fabric.spaces[node].channels * sides[node] ** 2
            arrivals: list[tuple[int, int]] = []
            name = f"node{node}"  # of a node that nothing leads to
            for number, edge in enumerate(edges):
                if edge.target != node:
                    continue
                arrival, stands_for = state_of[edge.source], number
                if edge.module is not None:
                    costs = (
                        count_parameters(edge.module),
                        count_multiply_adds(edge.module, sides[edge.source]),
                    )
                    module = self._node(edge.name, node, *costs)
                    self._edge(arrival, module, number, 0)
                    arrival, stands_for = module, -1
                arrivals.append((arrival, stands_for))
                name = edge.name.rpartition(".")[0] + ".sum"
            # A sum of n maps is n - 1 additions: one for each edge, less one.
            state_of[node] = self._node(name, node, 0, -numbers if arrivals else 0)
            for arrival, stands_for in arrivals:
                self._edge(arrival, state_of[node], stands_for, numbers)
        costs = (
            count_parameters(network.classifier),
            count_multiply_adds(network.classifier, sides[-1]),
        )
        classifier = self._node("classifier", last + 1, *costs)
        self._edge(state_of[last], classifier, -1, 0)

    def _node(self, name: str, group: int, parameters: int, multiply_adds: int) -> int:
        self.names.append(name)
        self.group.append(group)
        self.parameters.append(parameters)
        self.multiply_adds.append(multiply_adds)
        return len(self.names) - 1

    def _edge(self, source: int, target: int, edge_of: int, multiply_adds: int) -> None:
        self.source.append(source)
        self.target.append(target)
        self.edge_of.append(edge_of)
        self.edge_multiply_adds.append(multiply_adds)
