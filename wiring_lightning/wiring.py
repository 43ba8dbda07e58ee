"""A snapshot of a network as a graph: which nodes and edges there are, and which are in use."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import networkx


# Parts of the names that backbones give to their nodes.
_NOUNS = {
    ".sum": ("module", "modules"),
    ".branch": ("branch", "branches"),
    ".node": ("node", "nodes"),
    "block": ("block", "blocks"),
    "layer": ("layer", "layers"),
}


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of a wiring as columns, one entry per node in an order that data can flow in.

    Args:
        names: unique names, such as `"module2.branch5"`.
        group: `[nodes]` the group a node belongs to (a module with several branches); groups are
            numbered from 0 and drawn as the rows of a picture.
        parameters: `[nodes]` parameters of the node itself.
        multiply_adds: `[nodes]` multiply-adds of the node itself for one example.
        group_parameters: `[groups]` parameters that a group's nodes share (a common projection):
            counted once while any of its nodes lives.
        group_multiply_adds: `[groups]` multiply-adds that a group's nodes share, likewise.
        steps: `[nodes]` 1, the time step that a node takes on a machine, or 0 if it does nothing.
    """

    names: tuple[str, ...]
    group: Tensor
    parameters: Tensor
    multiply_adds: Tensor
    group_parameters: Tensor
    group_multiply_adds: Tensor
    steps: Tensor

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Wiring:
    """Nodes, and the edges that could connect them, each active or not.

    Several architectures over the same candidates (samples of a search) share one wiring: `active`
    then has leading batch dimensions, and so have `live_nodes`, `live_edges` and every cost.

    Args:
        nodes: the nodes; the first is the input, the last is the output.
        source: `[edges]` index of the node that an edge comes from.
        target: `[edges]` index of the node that an edge leads to.
        active: `[..., edges]` whether an edge carries data.
        score: `[edges]` what the method has learned about an edge; 1 for an edge that is given.
        learnable: `[edges]` whether the method chooses this edge.
        parameters: `[edges]` parameters that exist for an edge, such as the columns of a
            convolution that read its source; zeros where sources are only summed.
        multiply_adds: `[edges]` multiply-adds that an edge takes for one example.
        unlisted: how many more edges could exist. A graph of channels lists only those that it has,
            because it could have millions.

    Example:
        >>> wiring = make_wiring(["in", "a", "b", "out"], source=[0, 0, 1], target=[1, 2, 3],
        ...                      active=[True, True, True])
        >>> wiring.live_nodes.tolist()  # nobody listens to b
        [True, True, False, True]
    """

    nodes: Nodes
    source: Tensor
    target: Tensor
    active: Tensor
    score: Tensor
    learnable: Tensor
    parameters: Tensor
    multiply_adds: Tensor
    unlisted: int = 0

    @property
    def candidates(self) -> int:
        """How many edges could exist."""
        return len(self.source) + self.unlisted

    @cached_property
    def live_nodes(self) -> Tensor:
        """`[..., nodes]` nodes on an active path from the input to the output."""
        samples = self.active.shape[:-1].numel()
        if samples == 1:
            return self._live_nodes_of_one().reshape(*self.active.shape[:-1], len(self.nodes))
        active = _pack(self.active.reshape(samples, len(self.source)))
        everyone, rest = (1 << samples) - 1, [0] * (len(self.nodes) - 1)
        reached = _spread([everyone, *rest], self.source, self.target, active)
        last = len(self.nodes) - 1
        needed = _spread([everyone, *rest], last - self.target, last - self.source, active)[::-1]
        live = [before & behind for before, behind in zip(reached, needed, strict=True)]
        return _unpack(live, samples).reshape(*self.active.shape[:-1], len(self.nodes))

    def _live_nodes_of_one(self) -> Tensor:
        active = self.active.flatten()
        source, target = self.source[active], self.target[active]
        ends = torch.zeros(2, len(self.nodes), dtype=torch.bool)
        ends[0, 0] = ends[1, -1] = True
        return _reach(ends[0], source, target) & _reach(ends[1], target, source)

    @cached_property
    def live_edges(self) -> Tensor:
        """`[..., edges]` active edges between live nodes."""
        live = self.live_nodes
        return self.active & live[..., self.source] & live[..., self.target]

    @cached_property
    def live_groups(self) -> Tensor:
        """`[..., groups]` groups with at least one live node."""
        live = self.live_nodes
        counts = torch.zeros(*live.shape[:-1], len(self.nodes.group_parameters), dtype=torch.long)
        group = self.nodes.group.expand_as(live)
        return counts.scatter_add(-1, group, live.long()) > 0

    @property
    def noun(self) -> tuple[str, str]:
        """What the nodes are called, one and many of them."""
        for part, words in _NOUNS.items():
            if any(part in name for name in self.nodes.names):
                return words
        return "node", "nodes"

    def with_active(self, active: Tensor) -> "Wiring":
        """The same candidates with other active edges, `[edges]` or a batch `[..., edges]`."""
        return replace(self, active=active.to("cpu", torch.bool))

    def to_networkx(self) -> "networkx.DiGraph[str]":
        """The wiring as a directed graph with node and edge attributes, for graph algorithms.

        Raises:
            ValueError: if `active` holds a batch of architectures.
        """
        import networkx

        if self.active.dim() != 1:
            raise ValueError(
                f"to_networkx draws one architecture, but this wiring holds a batch of shape "
                f"{tuple(self.active.shape[:-1])}; select one with `with_active`."
            )
        graph = networkx.DiGraph()
        live = self.live_nodes.tolist()
        for index, name in enumerate(self.nodes.names):
            graph.add_node(
                name,
                group=int(self.nodes.group[index]),
                parameters=int(self.nodes.parameters[index]),
                multiply_adds=int(self.nodes.multiply_adds[index]),
                live=live[index],
            )
        columns = zip(
            self.source.tolist(),
            self.target.tolist(),
            self.active.tolist(),
            self.score.tolist(),
            strict=True,
        )
        for source, target, active, score in columns:
            graph.add_edge(
                self.nodes.names[source], self.nodes.names[target], active=active, score=score
            )
        return graph


@runtime_checkable
class Wired(Protocol):
    """What a backbone answers about its graph; costs, pictures and exports ask nothing else."""

    def wiring(self) -> Wiring:
        """The wiring that the network uses in evaluation mode."""
        ...

    def compact(self) -> nn.Module:
        """A plain module that computes the same function in evaluation mode, dead parts removed."""
        ...


@runtime_checkable
class SuperNetwork(Wired, Protocol):
    """A network that draws one of its architectures for every example (BSN)."""

    def active_edges(self, drawn: Tensor) -> Tensor:
        """`[batch, edges]` the active edges of its wiring for drawn edges of its gate."""
        ...


def find_wired(module: nn.Module) -> Wired | None:
    """The outermost network inside a module that knows its wiring, if there is one."""
    for child in module.modules():
        if isinstance(child, Wired):
            return child
    return None


def make_wiring(
    names: Sequence[str],
    source: Sequence[int] | Tensor,
    target: Sequence[int] | Tensor,
    active: Sequence[bool] | Tensor,
    *,
    score: Sequence[float] | Tensor | None = None,
    learnable: Sequence[bool] | Tensor | None = None,
    group: Sequence[int] | Tensor | None = None,
    parameters: Sequence[int] | Tensor | None = None,
    multiply_adds: Sequence[int] | Tensor | None = None,
    group_parameters: Sequence[int] | None = None,
    group_multiply_adds: Sequence[int] | None = None,
    steps: Sequence[int] | Tensor | None = None,
    edge_parameters: Sequence[int] | Tensor | None = None,
    edge_multiply_adds: Sequence[int] | Tensor | None = None,
    unlisted: int = 0,
) -> Wiring:
    """Build a wiring from plain lists; columns that are left out are zeros (ones for `steps`).

    Every node is a group of its own unless `group` says otherwise. See `Nodes` and `Wiring`.

    Raises:
        ValueError: if a column has the wrong length.
    """
    count, edges = len(names), len(source)
    groups = torch.as_tensor(range(count) if group is None else group, dtype=torch.long)
    number_of_groups = int(groups.max()) + 1

    def column(values: Sequence[int] | Tensor | None, length: int, default: int = 0) -> Tensor:
        if values is None:
            return torch.full((length,), default, dtype=torch.long)
        if len(values) != length:
            raise ValueError(f"a column has {len(values)} entries, but {length} are needed.")
        return torch.as_tensor(values, dtype=torch.long)

    nodes = Nodes(
        names=tuple(names),
        group=groups,
        parameters=column(parameters, count),
        multiply_adds=column(multiply_adds, count),
        group_parameters=column(group_parameters, number_of_groups),
        group_multiply_adds=column(group_multiply_adds, number_of_groups),
        steps=column(steps, count, default=1),
    )
    return Wiring(
        nodes=nodes,
        source=torch.as_tensor(source, dtype=torch.long),
        target=torch.as_tensor(target, dtype=torch.long),
        active=torch.as_tensor(active, dtype=torch.bool),
        score=torch.ones(edges) if score is None else torch.as_tensor(score).float(),
        learnable=(
            torch.zeros(edges, dtype=torch.bool)
            if learnable is None
            else torch.as_tensor(learnable, dtype=torch.bool)
        ),
        parameters=column(edge_parameters, edges),
        multiply_adds=column(edge_multiply_adds, edges),
        unlisted=unlisted,
    )


def _reach(marked: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Mark, in place, every node that edges reach from the marked ones: one architecture only.

    All edges are looked at together, once for every node on the longest path. This is fast for the
    many edges of a graph of channels; `_spread` is faster for many samples of a small graph.
    """
    while True:
        news = target[marked[source] & ~marked[target]]
        if len(news) == 0:
            return marked
        marked[news] = True


def _spread(marked: list[int], source: Tensor, target: Tensor, active: Sequence[int]) -> list[int]:
    """Mark, in place, every node that active edges reach from the marked ones, in cycles too.

    Bit b of a mark, and of an edge's number, stands for sample b: one operation on two integers
    serves the whole batch. The first pass over the edges, in the order of the data, marks
    everything unless there are cycles, and the second finds nothing new.
    """
    order = source.argsort()
    edges = [active[edge] for edge in order.tolist()]
    steps = list(zip(source[order].tolist(), target[order].tolist(), edges, strict=True))
    found = True
    while found:
        found = False
        for start, end, edge in steps:
            before = marked[end]
            after = before | (marked[start] & edge)
            if after != before:
                marked[end] = after
                found = True
    return marked


def _pack(mask: Tensor) -> list[int]:
    """`[samples, n]` bool as n integers of one bit per sample."""
    packed = numpy.packbits(mask.T.numpy(), axis=1, bitorder="little")
    width, data = packed.shape[1], packed.tobytes()
    columns = (data[width * column : width * (column + 1)] for column in range(len(packed)))
    return [int.from_bytes(column, "little") for column in columns]


def _unpack(columns: Sequence[int], samples: int) -> Tensor:
    """The reverse of `_pack`."""
    width = (samples + 7) // 8
    data = b"".join(column.to_bytes(width, "little") for column in columns)
    packed = numpy.frombuffer(data, numpy.uint8).reshape(len(columns), width)
    bits = numpy.unpackbits(packed, axis=1, count=samples, bitorder="little")
    return torch.from_numpy(bits).bool().T.contiguous()
