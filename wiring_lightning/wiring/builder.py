"""Building a `Wiring` step by step or from whole columns."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wiring_lightning.wiring.counting import count_multiply_adds, parameter_sizes
from wiring_lightning.wiring.snapshot import Nodes, Wiring

Numbers = Tensor | Sequence[int]
Values = Tensor | Sequence[float] | float


class Choice(NamedTuple):
    """The edges from the candidates of a gate to its targets.

    The columns are those of `WiringBuilder.connect`, each broadcastable to `[targets, candidates]`.
    """

    active: Tensor
    score: Tensor
    learnable: Tensor
    usable: Tensor


class WiringBuilder:
    """Builds a `Wiring`: add nodes in topological order, and connect them.

    The first node is the input and the last one the output. Consecutive nodes form a group if their
    names agree up to the last dot, or if they have the same `group` number.

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
        self._counted: set[object] = set()  # whose parameters a node has already
        self._edges: list[list[Tensor]] = []
        self.connect([], [])

    def __len__(self) -> int:
        """Number of nodes so far, and the number of the next one."""
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
            reads: numbers of the nodes that it always reads.
            steps: 1 if it takes a time step, 0 if it computes nothing.
            group: number of its group; found from its name if not given.
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
        """Add a node that is a chain of layers with inputs of `side` x `side`; return its number.

        Parameters and multiply-adds are counted, as `count_multiply_adds` does: of convolutions of
        images and of linear layers of one position, each of which reads the one before. See
        `add_node` for the other arguments, and for layers of other kinds.

        Parameters that several nodes share count once, in the first of these nodes. In a search,
        which may leave that node out, count them by the `group_parameters` of `add_group` instead.

        Raises:
            ValueError: if a layer has weights of another kind, such as an LSTM, or a convolution
                reads what has no known size.
        """
        work = count_multiply_adds(*layers, side=side)
        sizes = parameter_sizes(*layers)
        own = sum(size for owner, size in sizes.items() if owner not in self._counted)
        self._counted |= sizes.keys()
        return self.add_node(name, own, work, reads, group=group)

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

        If the last node is of this group already, by its name, the nodes are added to it, and what
        they share to what the group's other nodes share.

        Args:
            name: what the name of each node starts with, such as `"module1.branch"`.
            nodes: their number, or the numbers that end their names.
            parameters: of each node.
            multiply_adds: of each node.
            group_parameters: of what the nodes share, such as a common projection.
            group_multiply_adds: likewise.
            steps: as for `add_node`.
        """
        first = len(self)
        endings = range(nodes) if isinstance(nodes, int) else nodes.tolist()
        names = [f"{name}{ending}" for ending in endings]
        if names:
            self._add(names, None, parameters=parameters, multiply_adds=multiply_adds, steps=steps)
            group = self._nodes["group"][-1]
            before = self._shared.get(group, (0, 0))
            self._shared[group] = before[0] + group_parameters, before[1] + group_multiply_adds
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
        drawn: Values = -1,
    ) -> None:
        """Add one edge for each entry of the arguments, which are broadcast against each other.

        For example, `connect(sources, targets[:, None])` connects every source to every target.

        Args:
            source: numbers of the nodes that edges come from.
            target: numbers of the nodes that they lead to.
            active: which of them evaluation mode uses.
            score: learned score of each.
            learnable: which of them a method chooses.
            usable: which entries can be an edge; the others are left out.
            parameters: of each edge.
            multiply_adds: of each edge.
            drawn: number of the gate's edge that decides about it, if a gate draws it; see `draw`.

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
                (drawn, torch.long),
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
        """Add all candidate edges of a gate from `nn.Gate.choice()`, as `connect`.

        `sources` are `[candidates]` numbers of nodes, and `targets` are `[targets]`. Costs are
        broadcast to `[targets, candidates]`.
        """
        rows = torch.as_tensor(targets, device="cpu")[:, None]
        self.connect(sources, rows, *choice, parameters=parameters, multiply_adds=multiply_adds)

    def draw(
        self,
        sources: Numbers,
        targets: Numbers,
        choice: Choice,
        parameters: Values = 0,
        multiply_adds: Values = 0,
    ) -> None:
        """Add the edges of a gate that draws, one for each, from `nn.BernoulliGate.choice()`.

        With them `callbacks.BudgetedSearch` can price what the gate draws.

        Args:
            sources: `[edges]` the node that each edge of the gate comes from.
            targets: `[edges]` the node that it leads to.
            choice: the edges.
            parameters: of each edge.
            multiply_adds: of each edge.

        Raises:
            ValueError: if the gate has another number of edges.

        Example:
            >>> graph = WiringBuilder()
            >>> nodes = [graph.add_node(name) for name in ("image", "module", "logits")]
            >>> graph.draw([0], [1], Choice(*map(torch.tensor, ([True], [0.9], [True], [True]))))
            >>> graph.connect(1, 2)
            >>> graph.wiring().active_edges(torch.tensor([[True], [False]])).tolist()
            [[True, True], [False, True]]
        """
        count = len(choice.active)
        if not len(sources) == len(targets) == count:
            raise ValueError(
                f"the gate has {count} edges, but there are {len(sources)} sources and "
                f"{len(targets)} targets: give one of each for every edge."
            )
        self.connect(sources, targets, *choice, parameters=parameters, multiply_adds=multiply_adds,
                     drawn=range(count))  # fmt: skip

    def wiring(self, unlisted: int = 0) -> Wiring:
        """The wiring of all nodes and edges so far; see `Wiring` for `unlisted`.

        Raises:
            ValueError: if two nodes have the same name, or an edge leads to or from a node that was
                not added.
        """
        if len(set(self._names)) < len(self):
            name, _ = Counter(self._names).most_common(1)[0]
            raise ValueError(f'several nodes are called "{name}": give each a name of its own.')
        source, target, *edges = (torch.cat(parts) for parts in zip(*self._edges, strict=True))
        ends = torch.stack([source, target])
        if ends.numel() and not 0 <= int(ends.min()) <= int(ends.max()) < len(self):
            raise ValueError(f"an edge leads to or from a node that is not below {len(self)}.")
        active, score, learnable, parameters, multiply_adds, drawn = edges
        return Wiring(
            self._all_nodes(), source, target, active, score, learnable, parameters, multiply_adds,
            unlisted, drawn if drawn.ge(0).any() else None,
        )  # fmt: skip

    def _all_nodes(self) -> Nodes:
        groups = range(max(self._nodes["group"], default=-1) + 1)
        shared = [self._shared.get(group, (0, 0)) for group in groups]
        lists = {
            **self._nodes,
            "group_parameters": [parameters for parameters, _ in shared],
            "group_multiply_adds": [multiply_adds for _, multiply_adds in shared],
        }
        columns = {name: _column(values, len(values)) for name, values in lists.items()}
        return Nodes(tuple(self._names), **columns)

    def _add(self, names: Sequence[str], group: int | None, **costs: int) -> None:
        """Add equal nodes to a group; without its number, their names say which one it is."""
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
    """Build a wiring from the columns of `Nodes` and `Wiring`, which say what each one holds.

    A single number stands for a whole column. Without `group`, every node is a group of its own.

    Raises:
        ValueError: if a column has the wrong length, two nodes have the same name, or an edge leads
            to a node without a name.

    Example:
        >>> wiring = make_wiring(["in", "a", "out"], source=[0, 1, 0], target=[1, 2, 2],
        ...                      active=[True, True, False], parameters=[0, 10, 5])
        >>> wiring.live_edges.tolist(), wiring.nodes.parameters.tolist()
        ([True, True, False], [0, 10, 5])
    """
    graph = WiringBuilder()
    for name in names:
        graph.add_node(name)
    costs = {"parameters": edge_parameters, "multiply_adds": edge_multiply_adds}
    graph.connect(source, target, active, score, learnable, **costs)
    rows = _column(range(len(names)) if group is None else group, len(names))
    groups = int(rows.max()) + 1 if len(rows) else 0
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
    """Whole numbers `[length]`; a single one is repeated."""
    column = torch.as_tensor(values, dtype=torch.long, device="cpu")
    if column.dim() and len(column) != length:
        raise ValueError(f"a column has {len(column)} entries, but {length} are needed.")
    return column.expand(length).contiguous()
