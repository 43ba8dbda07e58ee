"""The builder of a wiring: nodes, groups of equal nodes, and the edges between them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wiring_lightning.wiring.counting import count_multiply_adds, count_parameters
from wiring_lightning.wiring.snapshot import Nodes, Wiring

Numbers = Tensor | Sequence[int]
Values = Tensor | Sequence[float] | float


class Choice(NamedTuple):
    """What a gate says about the edges from its candidates to its targets.

    Each column is `[targets, candidates]`, or can be broadcast to it.

    Attributes:
        active: the edges that evaluation mode uses.
        score: what was learned about each.
        learnable: which of them the gate chooses.
        usable: which slots can be an edge.
    """

    active: Tensor
    score: Tensor
    learnable: Tensor
    usable: Tensor


class WiringBuilder:
    """Builds a `Wiring`: add nodes in an order that data can flow in, and connect them.

    The node that is added first is the input, the last one is the output. Nodes that follow one
    another form a group, a row of pictures, if their names agree up to the last dot, or if they are
    given the same number of a group.

    Example:
        >>> graph = WiringBuilder()
        >>> stem = graph.add_layers("stem", nn.Conv2d(3, 8, 3, padding=1), side=32)
        >>> branches = graph.add_group("module1.branch", 3, parameters=2, group_parameters=4)
        >>> output = graph.add_layers("classifier", nn.Linear(8, 10), side=1, reads=branches[:2])
        >>> graph.connect(stem, branches)
        >>> wiring = graph.wiring()
        >>> wiring.nodes.names
        ('stem', 'module1.branch0', 'module1.branch1', 'module1.branch2', 'classifier')
        >>> wiring.live_nodes.tolist()
        [True, True, True, False, True]
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        columns = "group", "parameters", "multiply_adds", "steps"
        self._nodes: dict[str, list[int]] = {column: [] for column in columns}
        self._shared: dict[int, tuple[int, int]] = {}  # parameters and multiply-adds by group
        self._edges: list[list[Tensor]] = []
        self.connect([], [])

    def __len__(self) -> int:
        """Number of nodes so far, which is the number that the next one gets."""
        return len(self._names)

    def add_node(
        self,
        name: str,
        parameters: int = 0,
        multiply_adds: int = 0,
        reads: Numbers = (),
        steps: int = 1,
        group: int | None = None,
    ) -> int:
        """Add a node, and return its number.

        Args:
            name: of the node, unique.
            parameters: of the node itself.
            multiply_adds: of the node itself.
            reads: numbers of the nodes that it always reads; `connect` adds other edges.
            steps: 1, the time step that it takes, or 0 if it does nothing.
            group: number of its group; by its name if not given.
        """
        number = len(self)
        self._add([name], group, parameters=parameters, multiply_adds=multiply_adds, steps=steps)
        if len(reads):
            self.connect(reads, number)
        return number

    def add_layers(
        self,
        name: str,
        *layers: nn.Module,
        side: int,
        reads: Numbers = (),
        group: int | None = None,
    ) -> int:
        """Add a node that is a chain of layers, whose costs are counted, and return its number.

        Args:
            name: of the node, unique.
            layers: what it computes, one behind the other.
            side: height and width of what the layers read, for their multiply-adds.
            reads: as for `add_node`.
            group: as for `add_node`.
        """
        work = count_multiply_adds(*layers, side=side)
        return self.add_node(name, count_parameters(*layers), work, reads, group=group)

    def add_group(
        self,
        name: str,
        nodes: int | Tensor,
        parameters: int = 0,
        multiply_adds: int = 0,
        group_parameters: int = 0,
        group_multiply_adds: int = 0,
        steps: int = 1,
    ) -> Tensor:
        """Add a group of equal nodes, and return their numbers `[nodes]`.

        Args:
            name: what the name of each node starts with, such as `"module1.branch"`.
            nodes: how many, counted from 0, or what stands behind the name.
            parameters: of each node.
            multiply_adds: of each node.
            group_parameters: what the nodes share, such as a common projection.
            group_multiply_adds: likewise.
            steps: 1, the time step that each takes, or 0 if they do nothing.
        """
        first = len(self)
        endings = range(nodes) if isinstance(nodes, int) else nodes.tolist()
        names = [f"{name}{ending}" for ending in endings]
        if names:
            self._add(names, None, parameters=parameters, multiply_adds=multiply_adds, steps=steps)
            self._shared[self._nodes["group"][-1]] = group_parameters, group_multiply_adds
        return torch.arange(first, len(self), device="cpu")

    def connect(
        self,
        source: Numbers | int,
        target: Numbers | int,
        active: Values = True,
        score: Values = 1.0,
        learnable: Values = False,
        usable: Values = True,
        parameters: Values = 0,
        multiply_adds: Values = 0,
    ) -> None:
        """Add edges, one for each entry of the arguments, which are broadcast.

        So what is given once holds for all edges, and `connect(sources, targets[:, None])` leads
        from every source to every target.

        Args:
            source: numbers of the nodes that edges come from.
            target: numbers of the nodes that they lead to.
            active: which of them evaluation mode uses.
            score: what was learned about each.
            learnable: which of them a method chooses.
            usable: which entries can be an edge; the others are left out.
            parameters: of each edge.
            multiply_adds: of each edge.

        Raises:
            ValueError: if the shapes do not fit together.
        """
        columns = [
            torch.as_tensor(values, dtype=dtype, device="cpu").detach()
            for values, dtype in (
                (source, torch.long),
                (target, torch.long),
                (active, torch.bool),
                (score, torch.float),
                (learnable, torch.bool),
                (parameters, torch.long),
                (multiply_adds, torch.long),
                (usable, torch.bool),
            )
        ]
        try:
            *columns, kept = torch.broadcast_tensors(*columns)
        except RuntimeError as error:
            shapes = ", ".join(str(list(column.shape)) for column in columns)
            raise ValueError(f"columns of edges do not fit together: {shapes}.") from error
        self._edges.append([c.flatten() if usable is True else c[kept] for c in columns])

    def choose(
        self,
        sources: Numbers,
        targets: Numbers,
        choice: Choice,
        parameters: Values = 0,
        multiply_adds: Values = 0,
    ) -> None:
        """Add all edges that a gate could choose.

        Args:
            sources: `[candidates]` numbers of the nodes that it chooses from.
            targets: `[targets]` numbers of the nodes that it feeds.
            choice: of the gate, such as `nn.Gate.choice()`.
            parameters: `[targets, candidates]` of each edge, or what can be broadcast to it.
            multiply_adds: likewise.
        """
        rows = torch.as_tensor(targets)[:, None]
        self.connect(sources, rows, *choice, parameters=parameters, multiply_adds=multiply_adds)

    def wiring(self, unlisted: int = 0) -> Wiring:
        """The wiring of all that was added.

        Args:
            unlisted: how many more edges could exist.

        Raises:
            ValueError: if an edge leads to or from a node that was not added.
        """
        source, target, *edges = (torch.cat(parts) for parts in zip(*self._edges, strict=True))
        ends = torch.stack([source, target])
        if ends.numel() and not 0 <= int(ends.min()) <= int(ends.max()) < len(self):
            raise ValueError(f"an edge leads to or from a node that is not below {len(self)}.")
        active, score, learnable, parameters, multiply_adds = edges
        return Wiring(
            self._all_nodes(), source, target, active, score, learnable, parameters, multiply_adds,
            unlisted,
        )  # fmt: skip

    def _all_nodes(self) -> Nodes:
        groups = range(max(self._nodes["group"], default=-1) + 1)
        shared = [self._shared.get(group, (0, 0)) for group in groups]
        columns = {
            **self._nodes,
            "group_parameters": [parameters for parameters, _ in shared],
            "group_multiply_adds": [multiply_adds for _, multiply_adds in shared],
        }
        return Nodes(
            tuple(self._names),
            **{
                name: torch.tensor(values, dtype=torch.long, device="cpu")
                for name, values in columns.items()
            },
        )

    def _add(self, names: Sequence[str], group: int | None, **costs: int) -> None:
        """Add equal nodes."""
        if group is None:
            before, part = self._names[-1:], names[0].rpartition(".")[0]
            same = part and before and before[0].rpartition(".")[0] == part
            group = max(self._nodes["group"][-1:], default=-1) + (0 if same else 1)
        self._names += names
        for column, value in {"group": group, **costs}.items():
            self._nodes[column] += [value] * len(names)


def make_wiring(
    names: Sequence[str],
    source: Numbers,
    target: Numbers,
    active: Values,
    *,
    score: Values = 1.0,
    learnable: Values = False,
    group: Numbers | None = None,
    parameters: Values = 0,
    multiply_adds: Values = 0,
    group_parameters: Values = 0,
    group_multiply_adds: Values = 0,
    steps: Values = 1,
    edge_parameters: Values = 0,
    edge_multiply_adds: Values = 0,
    unlisted: int = 0,
) -> Wiring:
    """Build a wiring from whole columns; `WiringBuilder` builds that of a network step by step.

    Every node is a group of its own unless `group` says otherwise. See `Nodes` and `Wiring`.

    Raises:
        ValueError: if a column has the wrong length, or an edge leads to a node without a name.
    """
    graph = WiringBuilder()
    for name in names:
        graph.add_node(name)
    graph.connect(
        source,
        target,
        active,
        score,
        learnable,
        parameters=edge_parameters,
        multiply_adds=edge_multiply_adds,
    )
    rows = torch.as_tensor(range(len(names)) if group is None else group, dtype=torch.long)
    groups = int(rows.max()) + 1
    nodes = Nodes(
        names=tuple(names),
        group=rows,
        parameters=_column(parameters, len(names)),
        multiply_adds=_column(multiply_adds, len(names)),
        group_parameters=_column(group_parameters, groups),
        group_multiply_adds=_column(group_multiply_adds, groups),
        steps=_column(steps, len(names)),
    )
    return replace(graph.wiring(unlisted), nodes=nodes)


def _column(values: Values, length: int) -> Tensor:
    column = torch.as_tensor(values, dtype=torch.long)
    if column.dim() and len(column) != length:
        raise ValueError(f"a column has {len(column)} entries, but {length} are needed.")
    return column.expand(length).contiguous()
