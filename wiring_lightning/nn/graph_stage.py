"""The neural graph of one resolution (DNW, Section 2.4)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.functional import pointwise_product, rows_of_blocks
from wiring_lightning.nn.adjacency import Adjacency, AdjacencyMode
from wiring_lightning.nn.channels import select_channels
from wiring_lightning.nn.graph_edges import GraphEdges, edges_of
from wiring_lightning.nn.hooks import in_place_of
from wiring_lightning.nn.node_operations import FILTER_SIDE
from wiring_lightning.nn.sparse_edges import SparseEdges


class RectifiedFilter(nn.Module):
    """Batch norm, ReLU and a depthwise 3 x 3 convolution.

    Example:
        >>> RectifiedFilter(4, stride=2)(torch.randn(2, 4, 7, 7)).shape
        torch.Size([2, 4, 4, 4])
    """

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.norm = nn.BatchNorm2d(channels)
        # As torch initialises a convolution with nine inputs.
        filters = torch.empty(channels, 1, FILTER_SIDE, FILTER_SIDE)
        self.filters = nn.Parameter(filters.uniform_(-1 / 3, 1 / 3))

    @override
    def forward(self, received: Tensor) -> Tensor:
        """`[batch, channels, height, width]`, height and width divided by the stride."""
        channels = len(self.filters)
        if channels == 0:  # compacted, and no node of the block was live
            return received[:, :, :: self.stride, :: self.stride]
        rectified = functional.relu(self.norm(received), inplace=True)
        return functional.conv2d(
            rectified, self.filters, stride=self.stride, padding=FILTER_SIDE // 2, groups=channels
        )

    @override
    def extra_repr(self) -> str:
        return f"{len(self.filters)}, stride={self.stride}"


class _Stage(nn.Module):
    """What `GraphStage` and `CompactGraphStage` share.

    Args:
        sizes: number of nodes of each block.
        operations: what each block that sends applies to what it receives.

    Attributes:
        numbers: `[nodes that send]` the number in the name of each, which `compact()` keeps.
    """

    numbers: Tensor

    def __init__(self, sizes: Sequence[int], operations: Sequence[RectifiedFilter]) -> None:
        super().__init__()
        self.stride = operations[0].stride
        self.sizes = tuple(sizes)
        self.operations = nn.ModuleList(operations)

    def edges(self) -> GraphEdges:
        """The edges between nodes `0, 1, ...` of this stage, outputs last."""
        raise NotImplementedError

    def compact(self, live: Tensor) -> "CompactGraphStage":
        """The stage without dead nodes and unusable edges; `live` is `[nodes]`, outputs last."""
        edges = self.edges()
        edges = edges.select(edges.usable & live[edges.source] & live[edges.target])
        number = live.cumsum(0) - 1  # of a live node among the live ones
        blocks = live.split(self.sizes)
        operations, matrices = [], []
        first, senders = 0, 0
        for sending, receiving, operation in zip(blocks, blocks[1:], self.operations, strict=False):
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
        numbers = self.numbers[live[: len(self.numbers)]]
        device = next(self.parameters()).device
        compacted = CompactGraphStage(operations, matrices, numbers).to(device)
        return in_place_of(self, compacted, GraphStage, CompactGraphStage)


class GraphStage(_Stage):
    """A neural graph whose nodes form blocks, with edges to later blocks only (DNW, Section 2.4).

    A node is a channel. Block 0 holds the inputs and the last block the outputs, which are the
    inputs of the next stage. Every other node applies a `RectifiedFilter` to what it receives, and
    sends the result to nodes of later blocks. All weights are one `Adjacency`.

    Args:
        inputs: number of input nodes.
        width: number of nodes of every other block.
        blocks: number of blocks that receive.
        stride: of the filters of the input nodes.
        edges: as for `Adjacency`.
        mode: as for `Adjacency`.
        rank_all: as for `Adjacency`.

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
        sizes = (inputs, *[width] * blocks)
        first = RectifiedFilter(inputs, stride)
        super().__init__(sizes, [first, *(RectifiedFilter(width) for _ in range(blocks - 1))])
        self.numbers = torch.arange(sum(sizes[:-1]), device="cpu")
        counts = torch.tensor(sizes, device="cpu")
        block = torch.arange(len(sizes), device="cpu").repeat_interleave(counts)
        usable = block[:-width] < block[inputs:, None]
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

    @override
    def edges(self) -> GraphEdges:
        return edges_of(self.adjacency, first_receiver=self.sizes[0])


class CompactGraphStage(_Stage):
    """A stage without dead nodes, whose edges are sparse matrices.

    Args:
        operations: of every block that sends.
        edges: into every block that receives, from all earlier ones.
        numbers: `[nodes that send]` the number of each in the stage that was compacted.
    """

    def __init__(
        self, operations: list[RectifiedFilter], edges: list[SparseEdges], numbers: Tensor
    ) -> None:
        super().__init__([edges[0].senders, *(each.receivers for each in edges)], operations)
        self.numbers = numbers
        self.blocks = nn.ModuleList(edges)

    def normalize(self, norms: Iterator[nn.Module]) -> None:
        """Fold into each matrix of edges the batch norm that follows it.

        Args:
            norms: in the order of the matrices; those that are left belong to later stages.
        """
        matrices = [edges for edges in self.blocks if isinstance(edges, SparseEdges)]
        # The norms come last in `zip`, which would take one too many otherwise.
        folded = [edges.normalized(norm) for edges, norm in zip(matrices, norms, strict=False)]
        self.blocks = nn.ModuleList(folded)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """As `GraphStage`."""
        sent: list[Tensor] = []
        for operation, edges in zip(self.operations, self.blocks, strict=True):
            sent.append(operation(images))
            images = edges(torch.cat(sent, 1))
        return images

    @override
    def edges(self) -> GraphEdges:
        parts, first = [], self.sizes[0]
        for edges in self.blocks:
            assert isinstance(edges, SparseEdges)
            parts.append(edges_of(edges, first))
            first += edges.receivers
        source, target, weight, usable = map(torch.cat, list(zip(*parts, strict=True))[:4])
        return GraphEdges(source, target, weight, usable, 0, parts[0].learned)
