"""The wiring of a network with thousands of edges, built group by group."""

import torch
from torch import Tensor

from wiring_lightning.wiring import Wiring, make_wiring


class GraphColumns:
    """Columns of a `Wiring` under construction; nodes come in groups, edges in tensors.

    Example:
        >>> graph = GraphColumns()
        >>> stem = graph.add("stem", parameters=10)
        >>> channels = graph.add_group("block1", 3, parameters=2)
        >>> output = graph.add("classifier", parameters=5)
        >>> graph.connect(stem, channels)
        >>> graph.connect(channels[:2], output, parameters=1)
        >>> wiring = graph.wiring()
        >>> wiring.nodes.names
        ('stem', 'block1.node0', 'block1.node1', 'block1.node2', 'classifier')
        >>> wiring.live_nodes.tolist()
        [True, True, True, False, True]
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._group: list[int] = []
        self._nodes: dict[str, list[int]] = {"parameters": [], "multiply_adds": [], "steps": []}
        self._edges: list[tuple[Tensor, ...]] = []

    def __len__(self) -> int:
        """Number of nodes so far, which is the number that the next one gets."""
        return len(self._names)

    def add(self, name: str, parameters: int = 0, multiply_adds: int = 0, steps: int = 1) -> Tensor:
        """Add a node that is a group of its own, and return its number as `[1]`."""
        return self._add([name], parameters, multiply_adds, steps)

    def add_group(
        self,
        name: str,
        nodes: int | Tensor,
        parameters: int = 0,
        multiply_adds: int = 0,
        steps: int = 1,
    ) -> Tensor:
        """Add a group of equal nodes, and return their numbers `[nodes]`.

        Args:
            name: of the group.
            nodes: how many, or what they are called in their group.
            parameters: of each node.
            multiply_adds: of each node.
            steps: 1, or 0 for nodes that do nothing.
        """
        called = range(nodes) if isinstance(nodes, int) else nodes.tolist()
        return self._add(
            [f"{name}.node{node}" for node in called], parameters, multiply_adds, steps
        )

    def connect(
        self,
        source: Tensor,
        target: Tensor,
        active: Tensor | bool = True,
        score: Tensor | float = 1.0,
        learnable: bool = False,
        parameters: int = 0,
        multiply_adds: Tensor | int = 0,
    ) -> None:
        """Add edges, one for each pair; what is given once holds for all of them.

        Args:
            source: numbers of the nodes that they come from, `[edges]` or `[1]`.
            target: numbers of the nodes that they lead to, `[edges]` or `[1]`.
            active: which of them carry data.
            score: what was learned about them.
            learnable: whether they can change.
            parameters: of each edge.
            multiply_adds: of each edge.
        """
        columns = (source, target, active, score, learnable, parameters, multiply_adds)
        self._edges.append(torch.broadcast_tensors(*map(torch.as_tensor, columns)))

    def wiring(self, unlisted: int = 0) -> Wiring:
        """The wiring; the node that was added first is the input, the last one is the output.

        Args:
            unlisted: how many more edges could exist.
        """
        columns = [torch.cat(parts) for parts in zip(*self._edges, strict=True)]
        source, target, active, score, learnable, parameters, multiply_adds = columns
        return make_wiring(
            self._names,
            source,
            target,
            active,
            score=score,
            learnable=learnable,
            group=self._group,
            edge_parameters=parameters,
            edge_multiply_adds=multiply_adds,
            unlisted=unlisted,
            **self._nodes,
        )

    def _add(self, names: list[str], parameters: int, multiply_adds: int, steps: int) -> Tensor:
        first, group = len(self._names), self._group[-1] + 1 if self._group else 0
        self._names += names
        self._group += [group] * len(names)
        for column, value in zip(
            self._nodes.values(), (parameters, multiply_adds, steps), strict=True
        ):
            column += [value] * len(names)
        return torch.arange(first, len(self._names))
