"""The wiring of a network of channels, built from whole columns."""

import torch
from torch import Tensor

from wiring_lightning.nn.graph_edges import GraphEdges
from wiring_lightning.wiring import Wiring, make_wiring


class ChannelColumns:
    """Columns of a `Wiring` under construction: thousands of nodes and edges at a time.

    Example:
        >>> columns = ChannelColumns("image")
        >>> first = columns.nodes("graph", torch.arange(2), parameters=11, multiply_adds=900)
        >>> columns.given(0, first + torch.arange(2), parameters=27, multiply_adds=2700)
        >>> last = columns.node("classifier", parameters=1)
        >>> columns.given(first, last, parameters=1, multiply_adds=1)
        >>> wiring = columns.wiring()
        >>> wiring.nodes.names, wiring.live_nodes.tolist()
        (('image', 'graph.node0', 'graph.node1', 'classifier'), [True, True, False, True])
    """

    def __init__(self, name: str) -> None:
        self._names: list[str] = []
        self._group: list[Tensor] = []
        self._parameters: list[Tensor] = []
        self._multiply_adds: list[Tensor] = []
        self._steps: list[Tensor] = []
        self._edges: list[tuple[Tensor, ...]] = []  # columns in the order of `_add`
        self._unlisted = 0
        self.node(name, steps=0)

    def node(self, name: str, parameters: int = 0, steps: int = 1) -> int:
        """Add a node that is no channel; its number."""
        return self._append([name], parameters, 0, steps)

    def nodes(
        self, group: str, numbers: Tensor, parameters: int, multiply_adds: int, steps: int = 1
    ) -> int:
        """Add the nodes of a group, all of the same cost; the number of the first."""
        names = [f"{group}.node{number}" for number in numbers.tolist()]
        return self._append(names, parameters, multiply_adds, steps)

    def given(
        self, source: int | Tensor, target: int | Tensor, parameters: int, multiply_adds: int
    ) -> None:
        """Add edges that are there for good."""
        ends = torch.broadcast_tensors(torch.as_tensor(source), torch.as_tensor(target))
        flat = [end.reshape(-1) for end in ends]
        self._add(flat[0], flat[1], torch.ones(len(flat[0])), False, parameters, multiply_adds)

    def edges(self, first: int, edges: GraphEdges, multiply_adds: int) -> None:
        """Add the edges of a graph whose node 0 has the number `first`."""
        self._add(
            edges.source + first, edges.target + first, edges.weight.abs(), edges.learned, 1,
            multiply_adds,
        )  # fmt: skip
        self._unlisted += edges.unlisted

    def wiring(self) -> Wiring:
        """The wiring; the node that was added last is the output."""
        source, target, score, learnable, parameters, multiply_adds = map(
            torch.cat, zip(*self._edges, strict=True)
        )
        return make_wiring(
            self._names,
            source,
            target,
            torch.ones(len(source), dtype=torch.bool),
            score=score,
            learnable=learnable,
            group=torch.cat(self._group),
            parameters=torch.cat(self._parameters),
            multiply_adds=torch.cat(self._multiply_adds),
            steps=torch.cat(self._steps),
            edge_parameters=parameters,
            edge_multiply_adds=multiply_adds,
            unlisted=self._unlisted,
        )

    def _append(self, names: list[str], parameters: int, multiply_adds: int, steps: int) -> int:
        first, count = len(self._names), len(names)
        self._names += names
        self._group.append(torch.full((count,), len(self._group)))
        self._parameters.append(torch.full((count,), parameters))
        self._multiply_adds.append(torch.full((count,), multiply_adds))
        self._steps.append(torch.full((count,), steps))
        return first

    def _add(
        self,
        source: Tensor,
        target: Tensor,
        score: Tensor,
        learnable: bool,
        parameters: int,
        multiply_adds: int,
    ) -> None:
        count = len(source)
        self._edges.append((
            source, target, score, torch.full((count,), learnable),
            torch.full((count,), parameters), torch.full((count,), multiply_adds),
        ))  # fmt: skip
