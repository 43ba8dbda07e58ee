"""The neural graph of one resolution (DNW, Section 2.4)."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.functional import pointwise_product, rows_of_blocks
from wiring_lightning.nn.adjacency import Adjacency, AdjacencyMode
from wiring_lightning.nn.channels import select_channels
from wiring_lightning.nn.graph_edges import GraphEdges, edges_of
from wiring_lightning.nn.sparse_edges import SparseEdges

_SIZE = 3  # of a node's filter


class RectifiedFilter(nn.Module):
    """Batch norm, ReLU and a 3 x 3 filter of its own for every channel.

    Args:
        channels: number of nodes.
        stride: of the filter.

    Example:
        >>> RectifiedFilter(4, stride=2)(torch.randn(2, 4, 7, 7)).shape
        torch.Size([2, 4, 4, 4])
    """

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.norm = nn.BatchNorm2d(channels)
        # As torch initialises a convolution with nine inputs.
        self.filters = nn.Parameter(torch.empty(channels, 1, _SIZE, _SIZE).uniform_(-1 / 3, 1 / 3))

    @override
    def forward(self, received: Tensor) -> Tensor:
        """`[batch, channels, height, width]`, height and width divided by the stride."""
        channels = len(self.filters)
        if channels == 0:
            return received[:, :, :: self.stride, :: self.stride]
        rectified = functional.relu(self.norm(received), inplace=True)
        return functional.conv2d(
            rectified, self.filters, stride=self.stride, padding=_SIZE // 2, groups=channels
        )

    @override
    def extra_repr(self) -> str:
        return f"{len(self.filters)}, stride={self.stride}"


class GraphStage(nn.Module):
    """A neural graph whose nodes form blocks, with edges to later blocks only (DNW, Section 2.4).

    A node is a channel. Block 0 are the inputs. Every node but the outputs, the last block, applies
    a `RectifiedFilter` to what it receives and sends the result to nodes of later blocks. All
    weights are one `Adjacency`. Outputs do nothing: they are the inputs of the next stage.

    Args:
        inputs: number of input nodes.
        width: number of nodes of every other block.
        blocks: number of blocks that receive.
        stride: of the filters of the input nodes.
        edges: number of edges.
        mode: `"learned"` or `"random"`, see `Adjacency`.
        rank_all: see `Adjacency`.

    Example:
        >>> stage = GraphStage(inputs=4, width=8, blocks=3, stride=2, edges=50)
        >>> stage(torch.randn(2, 4, 16, 16)).shape
        torch.Size([2, 8, 8, 8])
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        blocks: int,
        stride: int,
        edges: int,
        mode: AdjacencyMode = "learned",
        rank_all: bool = False,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.sizes = (inputs, *[width] * blocks)
        self.operations = nn.ModuleList(
            RectifiedFilter(size, stride if number == 0 else 1)
            for number, size in enumerate(self.sizes[:-1])
        )
        block_of_sender = torch.arange(blocks).repeat_interleave(torch.tensor(self.sizes[:-1]))
        block_of_receiver = torch.arange(1, blocks + 1).repeat_interleave(width)
        usable = block_of_sender < block_of_receiver[:, None]
        self.adjacency = Adjacency(usable, edges, mode, rank_all)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, inputs, height, width]` to `[batch, width, height / stride, width / stride]`."""
        weight, only_edges = self.adjacency.weight, not self.adjacency.learnable
        sent: list[Tensor] = []
        rows = rows_of_blocks(weight, self.sizes[0], self.sizes[1], only_edges)
        for operation, matrix in zip(self.operations, rows, strict=True):
            sent.append(operation(images))
            images = pointwise_product(sent, matrix)
        return images

    def edges(self) -> GraphEdges:
        """The edges between nodes `0, 1, ...` of this stage, outputs last."""
        return edges_of(self.adjacency, first_receiver=self.sizes[0])

    @property
    def numbers(self) -> Tensor:
        """`[nodes]` what the nodes that send are called."""
        return torch.arange(sum(self.sizes[:-1]))

    def compact(self, live: Tensor) -> "CompactGraphStage":
        """The same function of the nodes that live, `[nodes]` as a mask with the outputs last."""
        return _compact(self, live)


class CompactGraphStage(nn.Module):
    """A stage after the removal of dead nodes: what is left of its edges is a sparse matrix.

    Args:
        operations: of every block that sends.
        edges: into every block that receives, from all earlier ones.
        numbers: `[nodes]` what the nodes that send were called before.
    """

    numbers: Tensor

    def __init__(
        self,
        operations: list[RectifiedFilter],
        edges: list[SparseEdges],
        numbers: Tensor,
    ) -> None:
        super().__init__()
        self.stride = operations[0].stride
        self.sizes = (len(operations[0].filters), *[each.receivers for each in edges])
        self.operations = nn.ModuleList(operations)
        self.blocks = nn.ModuleList(edges)
        self.register_buffer("numbers", numbers, persistent=False)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """As `GraphStage`."""
        sent: list[Tensor] = []
        for operation, edges in zip(self.operations, self.blocks, strict=True):
            sent.append(operation(images))
            images = edges(torch.cat(sent, 1))
        return images

    def edges(self) -> GraphEdges:
        """The edges between nodes `0, 1, ...` of this stage, outputs last."""
        parts, first = [], self.sizes[0]
        for edges in self.blocks:
            assert isinstance(edges, SparseEdges)
            parts.append(edges_of(edges, first))
            first += edges.receivers
        source, target, weight, usable = map(torch.cat, list(zip(*parts, strict=True))[:4])
        return GraphEdges(source, target, weight, usable, 0, parts[0].learned)

    def compact(self, live: Tensor) -> "CompactGraphStage":
        """The same function of the nodes that live, `[nodes]` as a mask with the outputs last."""
        return _compact(self, live)


def _compact(stage: GraphStage | CompactGraphStage, live: Tensor) -> CompactGraphStage:
    """Keep living nodes, and the edges between them along which something flows."""
    edges = stage.edges()
    edges = edges.select(edges.usable & live[edges.source] & live[edges.target])
    number = live.cumsum(0) - 1  # of a living node among the living
    blocks = live.split(list(stage.sizes))
    operations, matrices = [], []
    first, senders = 0, 0
    for sending, receiving, operation in zip(
        blocks[:-1], blocks[1:], stage.operations, strict=True
    ):
        assert isinstance(operation, RectifiedFilter)
        operations.append(select_channels(operation, sending))
        first += len(sending)
        senders += int(sending.sum())
        into = edges.select((edges.target >= first) & (edges.target < first + len(receiving)))
        matrices.append(
            SparseEdges(
                number[into.target] - senders, number[into.source], into.weight,
                receivers=int(receiving.sum()), senders=senders, learned=edges.learned,
            )
        )  # fmt: skip
    numbers = stage.numbers.cpu()[live[: len(stage.numbers)]]
    device = next(stage.parameters()).device
    return CompactGraphStage(operations, matrices, numbers).to(device)
