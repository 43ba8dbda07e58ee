"""The ResNet Fabric: a ResNet with additional blocks between its stages."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from wiring_lightning._checks import check_counts, check_finite
from wiring_lightning.backbones.fabric_architecture import choose_edges
from wiring_lightning.backbones.fabric_network import FabricNetwork
from wiring_lightning.functional import Space
from wiring_lightning.nn.fabric import Fabric, FabricEdge, Statistics
from wiring_lightning.nn.fabric_modules import basic_block, convolution


class ResNetFabric(FabricNetwork):
    """A super-network that contains ResNet-20, -32, -44, -56 or -110 (BSN).

    Three stages of `width` positions with 16, 32 and 64 channels. A position sums a basic block
    (two 3 x 3 convolutions) and a shortcut (the identity, or a 1 x 1 convolution where the width
    changes) of the position before; both are edges. In the second and third stage, position n of N
    (counted from 1) also reads the positions N - n - 1, N - n and N - n + 1 of the stage before, as
    far as they exist, each through a block and a shortcut that halve the resolution. All
    convolutions have a bias and PyTorch's initial weights; a batch norm follows each.

    In training mode the edges are sampled for each example; `callbacks.BudgetedSearch` learns their
    probabilities. In evaluation mode the network uses the most probable architecture.

    Args:
        width: N, positions per stage; 3, 5, 7, 9 and 18 contain ResNet-20, -32, -44, -56 and -110.
        num_classes: number of classes.
        in_channels: channels of the images.
        image_size: height and width of the images, used only to count multiply-adds.
        initial: initial value of all logits; the paper's 3 is a probability of 0.95.
        architecture: `"search"`; or a fixed architecture: `"resnet"`, `"full"` (all edges) or the
            names of its edges, from `architecture_names`.
        statistics: see `nn.Fabric`.

    Example:
        >>> network = ResNetFabric(width=3)
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> from wiring_lightning import costs
        >>> wiring = network.wiring()
        >>> int(costs.parameters(wiring)), int(costs.multiply_adds(wiring))
        (760586, 91140736)
        >>> plain = wiring.with_active(network.active_edges(network.resnet()))
        >>> int(costs.parameters(plain)), int(costs.multiply_adds(plain))
        (273258, 40899200)
    """

    def __init__(
        self,
        width: int = 9,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        initial: float = 3.0,
        architecture: Literal["search", "full", "resnet"] | Sequence[str] = "search",
        statistics: Statistics = "drawn",
    ) -> None:
        self.record(locals())
        check_counts(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        check_counts(most=1000, width=width)
        check_finite("ResNetFabric", {"initial": initial}, ValueError)
        self.width = width
        spaces = [Space(16, 1)]
        edges: list[FabricEdge] = []
        for node in range(1, 1 + 3 * width):
            stage, position = divmod(node - 1, width)
            spaces.append(Space(16 * 2**stage, 2**stage))
            edges += _block_and_shortcut(node - 1, node, spaces, width)
            if stage > 0:
                mirrored = stage * width - position  # the node that mirrors this one
                for source in (mirrored - 1, mirrored, mirrored - 2):
                    if (stage - 1) * width <= source < stage * width:
                        edges += _block_and_shortcut(source, node, spaces, width)
        stem = nn.Sequential(*convolution(in_channels, 16, size=3), nn.ReLU(inplace=True))
        if architecture == "resnet":
            architecture = [edge.name for edge in edges if edge.target == edge.source + 1]
        fabric = Fabric(spaces, choose_edges(edges, architecture), initial, statistics)
        super().__init__(stem, fabric, nn.Linear(64, num_classes), image_size)
        self.describe(width=width)

    def resnet(self) -> Tensor:
        """`[edges]` the edges of the ResNet with 6 N + 2 layers, such as for `active_edges`."""
        ends = torch.tensor([self.fabric.source, self.fabric.target], device="cpu")
        return ends[0] + 1 == ends[1]


def _block_and_shortcut(
    source: int, target: int, spaces: list[Space], width: int
) -> list[FabricEdge]:
    """The two edges between a pair of nodes."""
    origin, space = spaces[source], spaces[target]
    stride = space.reduction // origin.reduction
    suffix = "" if target == source + 1 else f"_from_{_name(source, width).replace('.', '_')}"
    block = basic_block(origin.channels, space.channels, stride)
    shortcut = None
    if space != origin:
        shortcut = convolution(origin.channels, space.channels, 1, stride)
    name = _name(target, width)
    return [
        FabricEdge(f"{name}.residual{suffix}", source, target, block),
        FabricEdge(f"{name}.shortcut{suffix}", source, target, shortcut),
    ]


def _name(node: int, width: int) -> str:
    stage, position = divmod(node - 1, width)
    return "stem" if node == 0 else f"stage{stage + 1}.block{position + 1}"
