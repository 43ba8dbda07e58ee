"""The edges of a graph layer as columns."""

from typing import NamedTuple

import torch
from torch import Tensor

from wiring_lightning.nn.adjacency import Adjacency
from wiring_lightning.nn.sparse_edges import SparseEdges


class GraphEdges(NamedTuple):
    """The edges of a graph, on the CPU.

    Attributes:
        source: `[edges]` number of the sender.
        target: `[edges]` number of the receiver.
        weight: `[edges]`.
        usable: `[edges]` whether an edge can carry data; see `rank_all` of `Adjacency`.
        unlisted: number of weights that could be an edge and are none.
        learned: whether the edges are or were learned.
    """

    source: Tensor
    target: Tensor
    weight: Tensor
    usable: Tensor
    unlisted: int
    learned: bool

    def select(self, kept: Tensor) -> "GraphEdges":
        """The edges in a mask `[edges]`."""
        source, target, weight, usable = (column[kept] for column in self[:4])
        return self._replace(source=source, target=target, weight=weight, usable=usable)


def edges_of(layer: Adjacency | SparseEdges, first_receiver: int) -> GraphEdges:
    """The edges of a layer from senders `0, 1, ...` to receivers `first_receiver, ...`.

    Example:
        >>> layer = SparseEdges(torch.tensor([0]), torch.tensor([2]), torch.ones(1), 1, 3)
        >>> edges = edges_of(layer, first_receiver=3)
        >>> edges.source.tolist(), edges.target.tolist()
        ([2], [3])
    """
    unlisted = 0
    if isinstance(layer, SparseEdges):
        row, column, weight = (t.detach().cpu() for t in (layer.row, layer.column, layer.values))
        usable = torch.ones(len(row), dtype=torch.bool, device="cpu")
    else:
        weight, usable = layer.weight.detach().cpu(), layer.usable.cpu()
        row, column = weight.nonzero(as_tuple=True)
        candidates = usable.numel() if layer.rank_all else int(usable.count_nonzero())
        weight, usable, unlisted = weight[row, column], usable[row, column], candidates - len(row)
    return GraphEdges(column, row + first_receiver, weight, usable, unlisted, layer.learned)
