"""Convolutional Neural Fabrics: columns of scales, each node connected to its neighbours."""

from collections.abc import Iterator, Sequence
from typing import Literal

from torch import nn

from wiring_lightning._checks import check_counts, check_finite
from wiring_lightning.backbones.fabric_architecture import choose_edges
from wiring_lightning.backbones.fabric_network import FabricNetwork, TaskName
from wiring_lightning.functional import Space
from wiring_lightning.nn.checks import check_word
from wiring_lightning.nn.fabric import Fabric, FabricEdge, Statistics
from wiring_lightning.nn.fabric_modules import UncountedDoubling, convolution

Doubling = Literal["first", "last"]
Counting = Literal["exact", "printed"]


class ConvFabric(FabricNetwork):
    """A grid of `columns` x `scales` nodes in which an architecture is searched (BSN, CNF).

    Scale 1 has the resolution of the images, each further scale half of it. A node reads up to
    three nodes of the column before: the finer scale (a convolution of stride 2), the same scale,
    and the coarser one (nearest-neighbour upsampling and a convolution). Edges within the first
    column lead to the next coarser scale. Those within the last column lead towards the output: the
    coarsest scale for classification, the finest for segmentation. Every edge is a 3 x 3
    convolution with bias and a batch norm; a node is the ReLU of the sum. The first node is the
    stem.

    In training mode the edges are sampled for each example; `callbacks.BudgetedSearch` learns their
    probabilities. In evaluation mode the network uses the most probable architecture.

    Args:
        columns: W, number of columns; the paper searches 8, and compares with 1, 2 and 4.
        channels: channels of every node; the paper uses 128, and 64 for segmentation.
        scales: H, number of scales; the paper uses 6 for 32 x 32 images and 9 for 256 x 256, down
            to 1 x 1.
        num_classes: number of classes.
        task: `"classification"` (logits `[batch, classes]`) or `"segmentation"` (logits
            `[batch, classes, height, width]`).
        in_channels: channels of the images.
        image_size: height and width of the images, divisible by 2 to the power of `scales - 1`;
            used only to count multiply-adds.
        doubling: whether an edge to a finer scale upsamples before its convolution (`"first"`, as
            in the paper's text and the authors' code) or after it (`"last"`, another function with
            a quarter of the multiply-adds).
        counting: how `wiring()` counts the multiply-adds of an edge to a finer scale: `"exact"`, as
            they are computed, or `"printed"`, for the small map, which gives the numbers of the
            paper's tables. With `doubling="last"` both are the same.
        statistics: see `nn.Fabric`.
        initial: initial value of all logits; the paper's 3 is a probability of 0.95.
        architecture: `"search"`; or a fixed architecture: `"full"` (all edges) or the names of its
            edges, from `architecture_names`.

    Raises:
        ValueError: if a number is below 1, the image has too few pixels for the scales, there is
            only one node, or segmentation has only one column.

    Example:
        >>> import torch
        >>> network = ConvFabric(columns=2, channels=8, scales=3, image_size=8)
        >>> network(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 10])
        >>> small = ConvFabric(2, 8, scales=3, num_classes=5, task="segmentation", image_size=8)
        >>> small(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 5, 8, 8])
    """

    def __init__(
        self,
        columns: int = 8,
        channels: int = 128,
        scales: int = 6,
        num_classes: int = 10,
        task: TaskName = "classification",
        in_channels: int = 3,
        image_size: int = 32,
        doubling: Doubling = "first",
        initial: float = 3.0,
        architecture: Literal["search", "full"] | Sequence[str] = "search",
        counting: Counting = "exact",
        statistics: Statistics = "drawn",
    ) -> None:
        self.record(locals())
        check_counts(
            channels=channels,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
        )
        check_finite("ConvFabric", {"initial": initial}, ValueError)
        _check(columns, scales, task, image_size)
        check_word("doubling", doubling, Doubling)
        check_word("counting", counting, Counting)
        upward = task == "segmentation"
        # Nodes are numbered column by column, the last column towards the output.
        order = [(column, scale) for column in range(columns) for scale in range(scales)]
        if upward:
            order[-scales:] = reversed(order[-scales:])
        edges = [
            FabricEdge(name, source, target, _edge(channels, coarser, doubling, counting))
            for name, source, target, coarser in _places(order, columns, upward)
        ]
        spaces = [Space(channels, 2**scale) for _, scale in order]
        stem = nn.Sequential(*convolution(in_channels, channels, size=3), nn.ReLU(inplace=True))
        classifier = (
            nn.Conv2d(channels, num_classes, 1) if upward else nn.Linear(channels, num_classes)
        )
        fabric = Fabric(spaces, choose_edges(edges, architecture), initial, statistics)
        super().__init__(stem, fabric, classifier, image_size)
        self.describe(
            columns=columns, channels=channels, scales=scales, task=task, doubling=doubling
        )


def _places(
    order: Sequence[tuple[int, int]], columns: int, upward: bool
) -> Iterator[tuple[str, int, int, int]]:
    """Name, source and target of every edge, and how many scales its target is coarser.

    Args:
        order: column and scale of each node, by its number.
        columns: number of columns.
        upward: whether the last column leads to the finest scale.
    """
    number = {place: node for node, place in enumerate(order)}
    for target, (column, scale) in enumerate(order):
        near = {
            "down": (column - 1, scale - 1),
            "same": (column - 1, scale),
            "up": (column - 1, scale + 1),
        }
        if column in (0, columns - 1):
            near["within"] = (column, scale + (1 if upward and column > 0 else -1))
        for kind, place in near.items():
            if place in number:
                name = f"column{column + 1}.scale{scale + 1}.{kind}"
                yield name, number[place], target, scale - place[1]


def _edge(channels: int, coarser: int, doubling: Doubling, counting: Counting) -> nn.Sequential:
    """The module on an edge to a node that is coarser by -1, 0 or 1 scales."""
    layers = convolution(channels, channels, size=3, stride=2 if coarser == 1 else 1)
    if coarser == -1:
        double = nn.Upsample(scale_factor=2) if counting == "exact" else UncountedDoubling()
        layers.insert(0 if doubling == "first" else 2, double)
    return layers


def _check(columns: int, scales: int, task: TaskName, image_size: int) -> None:
    check_counts(most=1000, columns=columns, scales=scales)
    check_word("task", task, TaskName)
    if columns == 1 and task == "segmentation":
        raise ValueError(
            "segmentation needs at least 2 columns: the only column would lead from the finest "
            "scale down and not back."
        )
    if columns * scales == 1:
        raise ValueError("a fabric of one column needs at least 2 scales.")
    if image_size % 2 ** (scales - 1):
        raise ValueError(
            f"{scales} scales halve the image {scales - 1} times, but {image_size} is not "
            f"divisible by {2 ** (scales - 1)}; choose fewer scales or another image_size."
        )
