"""A snapshot of a network as a graph: its nodes, its possible edges, and which are active."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wiring_lightning.wiring.live import live_in_many, live_in_one

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
    """The nodes of a wiring as columns, in topological order unless the graph has cycles.

    Args:
        names: unique names, such as `"module2.branch5"`.
        group: `[nodes]` number of the node's group, from 0. A group is a module with several
            branches, for example, and a row of a picture.
        parameters: `[nodes]` parameters of the node itself.
        multiply_adds: `[nodes]` multiply-adds of the node itself for one example.
        group_parameters: `[groups]` parameters that a group's nodes share (a common projection).
            They count once if any node of the group is live.
        group_multiply_adds: `[groups]` multiply-adds that a group's nodes share, likewise.
        steps: `[nodes]` 1 if a node takes a time step on a machine, 0 if it computes nothing.
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
    """Nodes and candidate edges, each active or not.

    One wiring can hold a batch of architectures, such as the samples of a search: `active`,
    `live_nodes`, `live_edges` and every cost then have leading batch dimensions.

    Args:
        nodes: the nodes; the first is the input, the last is the output.
        source: `[edges]` index of the node that an edge comes from.
        target: `[edges]` index of the node that an edge leads to.
        active: `[..., edges]` whether an edge carries data.
        score: `[edges]` the learned score of an edge; 1 for a fixed edge.
        learnable: `[edges]` whether the method chooses this edge.
        parameters: `[edges]` parameters that belong to an edge, such as the columns of a
            convolution that read its source; 0 where sources are only summed.
        multiply_adds: `[edges]` multiply-adds of an edge for one example.
        unlisted: number of candidates that are not listed. A graph of channels lists only the edges
            that it has, since there can be millions of candidates.
        drawn: `[edges]` which edge of a gate that draws decides about each one; -1 for edges that
            no draw changes. `None` if the network says it in another way, or draws nothing.

    Example:
        >>> from wiring_lightning.wiring import make_wiring
        >>> wiring = make_wiring(["in", "a", "b", "out"], source=[0, 0, 1], target=[1, 2, 3],
        ...                      active=[True, True, True])
        >>> wiring.live_nodes.tolist()  # nothing reads b
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
    drawn: Tensor | None = None

    def active_edges(self, drawn: Tensor) -> Tensor:
        """`[..., edges]` which edges are active, for what a gate has drawn, `[..., gate's edges]`.

        Raises:
            ValueError: if the wiring does not say which edges are drawn.
        """
        if self.drawn is None:
            raise ValueError("the wiring has no drawn edges; WiringBuilder.draw adds them.")
        fixed = self.drawn < 0
        edges = drawn.cpu()[..., self.drawn.clamp_min(0)]
        return torch.where(fixed, self.active.expand(edges.shape), edges)

    @property
    def candidates(self) -> int:
        """Number of candidate edges."""
        return len(self.source) + self.unlisted

    @cached_property
    def live_nodes(self) -> Tensor:
        """`[..., nodes]` nodes on an active path from the input to the output."""
        samples, count = self.active.shape[:-1], len(self.nodes)
        active = self.active.reshape(samples.numel(), len(self.source))
        find = live_in_one if len(active) == 1 else live_in_many
        return find(count, self.source, self.target, active).reshape(*samples, count)

    @cached_property
    def live_edges(self) -> Tensor:
        """`[..., edges]` active edges between live nodes."""
        live = self.live_nodes
        return self.active & live[..., self.source] & live[..., self.target]

    @cached_property
    def live_groups(self) -> Tensor:
        """`[..., groups]` groups with at least one live node."""
        live = self.live_nodes
        shape = *live.shape[:-1], len(self.nodes.group_parameters)
        counts = torch.zeros(shape, dtype=torch.long, device="cpu")
        group = self.nodes.group.expand_as(live)
        return counts.scatter_add(-1, group, live.long()) > 0

    def live_per_group(self) -> dict[str, list[int]]:
        """How many nodes of each group are live, and how many there are.

        Returns:
            `[live, all]` by the nodes' name up to the last dot. A name without a dot is a group of
            its own.

        Example:
            >>> from wiring_lightning.wiring import make_wiring
            >>> names = ["in", "module1.branch0", "module1.branch1", "out"]
            >>> wiring = make_wiring(names, source=[0, 0, 1], target=[1, 2, 3], active=[True] * 3)
            >>> wiring.live_per_group()
            {'in': [1, 1], 'module1': [1, 2], 'out': [1, 1]}
        """
        counts: dict[str, list[int]] = {}
        for name, live in zip(self.nodes.names, self.live_nodes.tolist(), strict=True):
            count = counts.setdefault(name.rpartition(".")[0] or name, [0, 0])
            count[0] += live
            count[1] += 1
        return counts

    @property
    def noun(self) -> tuple[str, str]:
        """A word for one node and for several, such as "branch" and "branches"."""
        for part, words in _NOUNS.items():
            if any(part in name for name in self.nodes.names):
                return words
        return "node", "nodes"

    def with_active(self, active: Tensor) -> "Wiring":
        """The same candidates with other active edges, `[edges]` or a batch `[..., edges]`."""
        return replace(self, active=active.to("cpu", torch.bool))

    def to_networkx(self) -> "networkx.DiGraph[str]":
        """The wiring as a directed graph with node and edge attributes.

        Raises:
            ValueError: if `active` holds a batch of architectures.
        """
        import networkx

        if self.active.dim() != 1:
            raise ValueError(
                "to_networkx draws one architecture, but this wiring holds a batch of shape "
                f"{tuple(self.active.shape[:-1])}; select one with `with_active`."
            )
        graph = networkx.DiGraph()
        live = self.live_nodes.tolist()
        names = self.nodes.names
        for index, name in enumerate(names):
            graph.add_node(
                name,
                group=int(self.nodes.group[index]),
                parameters=int(self.nodes.parameters[index]),
                multiply_adds=int(self.nodes.multiply_adds[index]),
                live=live[index],
            )
        columns = (self.source, self.target, self.active, self.score)
        for source, target, active, score in zip(*(c.tolist() for c in columns), strict=True):
            graph.add_edge(names[source], names[target], active=active, score=score)
        return graph
