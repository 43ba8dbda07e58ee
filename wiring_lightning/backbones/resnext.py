"""ResNeXt with learned connections between the branches of adjacent modules."""

from typing import Literal

from torch import nn

from wiring_lightning._checks import MOST_LAYERS, check_counts
from wiring_lightning.backbones.multi_branch import MultiBranchNetwork, module_name
from wiring_lightning.backbones.stages import equal_stages, imagenet_layout
from wiring_lightning.backbones.stems import StemName, initialize_convolutions, make_stem, stem_plan
from wiring_lightning.nn import Branches, Gate, Selection
from wiring_lightning.nn.branches import Identity
from wiring_lightning.nn.checks import check_fan_in, check_word

WiringName = Literal["learned", "full", "random", "covered", "real"]

# Modules per stage of the ImageNet layouts (ResNeXt, Table 1).
_IMAGENET_STAGES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class ResNeXt(MultiBranchNetwork):
    """ResNeXt whose branches learn which branches of the previous module they read.

    Architecture {D, w, C} of GateConnect's Tables 5 and 6 and of MaskConnect's Tables 6 and 7. For
    small images three stages of `(depth - 2) / 9` modules with 64, 128 and 256 output channels
    after a stem of 16 (256, 512, 1024 after 64 if `width` is at least 64); for ImageNet the four
    stages of ResNeXt-50, -101 or -152. The branches of the first module all read the stem. The
    classifier reads all branches of the last module.

    Args:
        depth: D, number of layers: 2 + 9n for small images (20, 29, 38, ...), 50, 101 or 152 for
            the `"imagenet"` stem.
        width: w, channels inside the bottleneck of one branch in the first stage; doubles with
            every stage.
        cardinality: C, number of branches per module.
        fan_in: K, number of branches of the previous module that each branch reads. The paper finds
            K = C / 2 best and K = 1 sparsest; K = C is the plain ResNeXt. Not used by
            `wiring="full"`.
        num_classes: number of classes.
        stem: `"cifar"` (3 x 3), `"mini_imagenet"` (3 x 3 and a max-pool) or `"imagenet"` (7 x 7 of
            stride 2 and a max-pool).
        wiring: `"learned"` (needs `callbacks.MaskConnect` to learn), `"full"` (the plain ResNeXt,
            Fixed-Full), `"random"` (Fixed-Random: K random connections that stay), `"covered"`
            (random, too, but every branch has at least one reader) or `"real"` (GateConnect's
            ablation with real-valued gates).
        identity: `"mean"` or `"sum"` of the identities of the K sources (of all C before the
            classifier). `"mean"` is exactly ResNeXt at K = C. `"sum"` is the papers' literal
            formula; its activations grow by a factor of about K per module.
        weighted: whether every active connection also learns a positive weight (see `nn.Gate`).
        in_channels: channels of the images.
        image_size: height and width of the images, used only to count multiply-adds; by default
            32, 64 or 224, as the stem suggests.

    Example:
        >>> import torch
        >>> network = ResNeXt(depth=20, width=4, cardinality=8, fan_in=4, num_classes=100)
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 100])
        >>> from wiring_lightning import costs
        >>> int(costs.parameters(network.wiring(), live=False))
        283572
    """

    def __init__(
        self,
        depth: int = 20,
        width: int = 4,
        cardinality: int = 8,
        fan_in: int = 4,
        num_classes: int = 10,
        stem: StemName = "cifar",
        wiring: WiringName = "learned",
        identity: Identity = "mean",
        weighted: bool = False,
        in_channels: int = 3,
        image_size: int | None = None,
    ) -> None:
        self.record(locals())
        plan = stem_plan(stem, image_size)
        check_word("wiring", wiring, WiringName)
        check_word("identity", identity, Identity)
        check_counts(
            width=width,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=plan.image_size,
        )
        check_counts(most=MOST_LAYERS, depth=depth, cardinality=cardinality)
        if wiring != "full":
            check_fan_in(fan_in, cardinality, f"the cardinality (C = {cardinality})")
        stages = _stages(depth, stem)
        wide = width >= 64 or stem == "imagenet"
        stem_channels, channels = (64, 256) if wide else (16, 64)
        total = sum(stages)
        blocks: list[Branches] = []
        current = stem_channels
        for stage, modules in enumerate(stages):
            for index in range(modules):
                merge = wiring == "full" or len(blocks) == total - 1
                summed = cardinality if merge else fan_in  # branches that a target sums
                blocks.append(
                    Branches(
                        cardinality,
                        current,
                        width * 2**stage,
                        channels * 2**stage,
                        stride=2 if stage > 0 and index == 0 else 1,
                        shared_input=wiring == "full" or not blocks,
                        merge=merge,
                        identity_scale=1 / summed if identity == "mean" else 1.0,
                    )
                )
                current = channels * 2**stage
        stem_layers = make_stem(plan, in_channels, stem_channels)
        classifier = nn.Linear(current, num_classes)
        initialize_convolutions(
            stem_layers, *(block.projection for block in blocks if block.projection)
        )
        connections: dict[str, Gate | Selection] = {}
        if wiring != "full":
            # After all weights, so that a seed gives the same weights with every wiring.
            connections = {
                module_name(position): Gate(
                    cardinality, cardinality, fan_in, mode=wiring, weighted=weighted
                )
                for position in range(1, len(blocks))
            }
        super().__init__(
            stem_layers,
            blocks,
            connections,
            classifier,
            image_size=plan.image_size,
            reduction=plan.reduction,
        )
        self.assumes_image_size = image_size is None
        self.describe(
            depth=depth, width=width, cardinality=cardinality, stem=stem, wiring=wiring,
            identity=identity, fan_in=None if wiring == "full" else fan_in,
        )  # fmt: skip


def _stages(depth: int, stem: StemName) -> tuple[int, ...]:
    """Modules per stage."""
    if stem == "imagenet":
        return imagenet_layout(depth, _IMAGENET_STAGES)
    rule = "2 + 9n (11, 20, 29, 38, ...) for three equal stages of three-layer modules"
    return equal_stages(depth, layers=3, others=2, rule=rule)
