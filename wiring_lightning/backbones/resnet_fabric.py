"""The ResNet Fabric: ResNets, and blocks that lead from one stage into the next."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from wiring_lightning.backbones.fabric_architecture import choose_edges
from wiring_lightning.backbones.fabric_network import FabricNetwork
from wiring_lightning.functional import Space
from wiring_lightning.nn.fabric import Fabric, FabricEdge
from wiring_lightning.nn.fabric_modules import basic_block, convolution


class ResNetFabric(FabricNetwork):
    """A super-network that contains ResNet-20, -32, -44, -56 or -110 as one of many (BSN).

    Three stages of `width` positions with 16, 32 and 64 channels. A position sums a basic block
    (two 3 x 3 convolutions) and a shortcut (the identity, or a 1 x 1 convolution where the width
    changes) of the position before. Each of the two is an edge of its own that may be left out. In
    the second and third stage, position n of N (counted from 1) also reads the positions N - n - 1,
    N - n and N - n + 1 of the stage before, each through a block and a shortcut that halve the
    resolution, so the last positions of a stage feed the first ones of the next. Position 0 of a
    stage is the state before it, position -1 does not exist, and position N feeds the first one of
    the next stage anyway. All convolutions have a bias and PyTorch's initial weights; a batch norm
    follows each.

    In training mode the edges are drawn for each example; `callbacks.BudgetedSearch` learns their
    probabilities. In evaluation mode the network uses the most probable ones.

    Args:
        width: N, positions per stage; 3, 5, 7, 9 and 18 contain ResNet-20, -32, -44, -56 and -110.
        num_classes: number of classes.
        in_channels: channels of the images.
        image_size: height and width of the images, used only to count multiply-adds.
        initial: value that the logits of all edges start with; the paper's 3 is a probability of
            0.95.
        architecture: `"search"`; or an architecture whose edges are always there: `"resnet"`,
            `"full"` (all edges), or the names of its edges, as `architecture_names` tells them.

    Raises:
        ValueError: if `width` is below 1, or `architecture` names no edge.

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
    ) -> None:
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}.")
        self.describe(width=width)
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
        fabric = Fabric(spaces, choose_edges(edges, architecture), initial)
        super().__init__(stem, fabric, nn.Linear(64, num_classes), image_size)

    def resnet(self) -> Tensor:
        """`[edges]` the edges of the ResNet with 6 N + 2 layers that the fabric contains.

        They can be made the most probable ones, or passed to `active_edges` for the costs.
        """
        return torch.tensor(self.fabric.source) + 1 == torch.tensor(self.fabric.target)


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
    return [
        FabricEdge(f"{_name(target, width)}.residual{suffix}", source, target, block),
        FabricEdge(f"{_name(target, width)}.shortcut{suffix}", source, target, shortcut),
    ]


def _name(node: int, width: int) -> str:
    stage, position = divmod(node - 1, width)
    return "stem" if node == 0 else f"stage{stage + 1}.block{position + 1}"
