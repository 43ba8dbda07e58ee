"""ResNet whose blocks learn which earlier blocks they read."""

from typing import Literal

import torch
from torch import nn

from wiring_lightning._checks import MOST_LAYERS, check_counts
from wiring_lightning.backbones.residual_network import ResidualNetwork
from wiring_lightning.backbones.stages import equal_stages, imagenet_layout
from wiring_lightning.backbones.stems import StemName, initialize_convolutions, make_stem, stem_plan
from wiring_lightning.functional import Space
from wiring_lightning.nn import Gate, ResidualBlock
from wiring_lightning.nn.branches import Identity
from wiring_lightning.nn.checks import check_fan_in, check_word
from wiring_lightning.nn.residual import BlockName

ResNetWiring = Literal["learned", "previous", "random", "covered"]

# Kind of block and blocks per stage of the ImageNet layouts (ResNet, Table 1).
_IMAGENET_PLANS: dict[int, tuple[BlockName, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


class ResNet(ResidualNetwork):
    """ResNet whose blocks learn which earlier blocks they read (MaskConnect, Section 3.4).

    For small images three stages of `(depth - 2) / 6` basic blocks with 16, 32 and 64 channels; for
    ImageNet the four stages of ResNet-18, -34, -50, -101 or -152. Shortcuts and connections across
    stages stride and pad channels with zeros, so no connection has parameters. The first block of a
    stage sums its sources in the shape of the stage before. Only the first block reads the stem.

    Args:
        depth: number of layers: 2 + 6n for small images (20, 38, 74, 110, ...), 18, 34, 50, 101 or
            152 for the `"imagenet"` stem.
        fan_in: K, how many earlier blocks each block reads; a block with fewer reads all of them.
            The paper uses 10, 15 and 20 for depth 38, 74 and 110, and 10 for 50 on ImageNet. Not
            used by `wiring="previous"`.
        num_classes: number of classes.
        stem: `"cifar"` (3 x 3), `"mini_imagenet"` (3 x 3 and a max-pool) or `"imagenet"` (7 x 7 of
            stride 2 and a max-pool).
        wiring: `"learned"` (needs `callbacks.MaskConnect` to learn), `"previous"` (the plain
            ResNet, Fixed-Prev), `"random"` (Fixed-Random: K random connections that stay) or
            `"covered"` (random, too, but every block has a reader; at K = 1 that is the chain).
        identity: `"mean"` or `"sum"` of the identities of the K sources. `"sum"` is the paper's
            literal formula; its activations grow with every block, beyond 10^10 at depth 110.
        weighted: whether every active connection also learns a positive weight (see `nn.Gate`).
        in_channels: channels of the images.
        image_size: height and width of the images, used only to count multiply-adds; by default
            32, 64 or 224, as the stem suggests.

    Example:
        >>> network = ResNet(depth=38, fan_in=10, num_classes=100)
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 100])
        >>> from wiring_lightning import costs
        >>> int(costs.parameters(network.wiring(), live=False))
        567220
    """

    def __init__(
        self,
        depth: int = 38,
        fan_in: int = 10,
        num_classes: int = 10,
        stem: StemName = "cifar",
        wiring: ResNetWiring = "learned",
        identity: Identity = "mean",
        weighted: bool = False,
        in_channels: int = 3,
        image_size: int | None = None,
    ) -> None:
        self.record(locals())
        plan = stem_plan(stem, image_size)
        check_word("wiring", wiring, ResNetWiring)
        check_word("identity", identity, Identity)
        check_counts(num_classes=num_classes, in_channels=in_channels, image_size=plan.image_size)
        check_counts(most=MOST_LAYERS, depth=depth)
        kind, stages = _stages(depth, stem)
        total = sum(stages)
        if wiring != "previous":
            meaning = f"{total - 1}, the number of blocks before the last of {total}"
            check_fan_in(fan_in, total - 1, meaning)
        width = 64 if stem == "imagenet" else 16
        narrow = width * (4 if kind == "bottleneck" else 1)
        spaces = [
            Space(narrow * 2**stage, plan.reduction * 2**stage) for stage in range(len(stages))
        ]
        stem_layers = make_stem(plan, in_channels, width)
        initialize_convolutions(stem_layers)
        blocks: dict[str, ResidualBlock] = {}
        origin = Space(width, plan.reduction)
        for space, count in zip(spaces, stages, strict=True):
            for _ in range(count):
                blocks[f"block{len(blocks) + 1}"] = ResidualBlock(kind, origin, space)
                origin = space
        classifier = nn.Linear(origin.channels, num_classes)
        connection = None
        if wiring != "previous":
            # After all weights, so that a seed gives the same weights with every wiring.
            earlier = torch.ones(total - 1, total - 1, dtype=torch.bool, device="cpu").tril()
            connection = Gate(total - 1, total - 1, fan_in, wiring, earlier, weighted)
        super().__init__(
            stem=stem_layers,
            blocks=blocks,
            connection=connection,
            fan_in=fan_in,
            mean=identity == "mean",
            spaces=spaces,
            classifier=classifier,
            image_size=plan.image_size,
        )
        self.assumes_image_size = image_size is None
        self.describe(depth=depth, stem=stem, wiring=wiring)
        if wiring != "previous":
            self.describe(fan_in=fan_in, identity=identity)


def _stages(depth: int, stem: StemName) -> tuple[BlockName, tuple[int, ...]]:
    """Kind of block, and blocks per stage."""
    if stem == "imagenet":
        return imagenet_layout(depth, _IMAGENET_PLANS)
    rule = "2 + 6n (8, 14, 20, 38, 74, 110, ...) for three equal stages of two-layer blocks"
    return "basic", equal_stages(depth, layers=2, others=2, rule=rule)
