"""ResNeXt with learned connections between the branches of adjacent modules."""

from typing import Literal

from torch import nn

from wiring_lightning.backbones.multi_branch import MultiBranchNetwork
from wiring_lightning.backbones.stems import StemName, initialize_convolutions, make_stem, stem_plan
from wiring_lightning.nn import Branches, Gate, Selection
from wiring_lightning.nn.branches import Identity

WiringName = Literal["learned", "full", "random", "real"]

# Modules per stage of the ImageNet layouts (ResNeXt, Table 1).
_IMAGENET_STAGES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class ResNeXt(MultiBranchNetwork):
    """ResNeXt whose branches learn which branches of the previous module they listen to.

    Architecture {D, w, C} of GateConnect's Tables 5 and 6 and of MaskConnect's Tables 6 and 7. For
    small images three stages of `(depth - 2) / 9` modules with 64, 128 and 256 output channels
    behind a stem of 16 (256, 512, 1024 behind 64 if `width` is at least 64); for ImageNet the four
    stages of ResNeXt-50, -101 or -152. The first module's branches all read the stem, the
    classifier reads all branches of the last module.

    Args:
        depth: D, number of layers: 2 + 9n for small images (20, 29, 38, ...), 50, 101 or 152 for
            the `"imagenet"` stem.
        width: w, channels inside the bottleneck of one branch in the first stage; doubles with
            every stage.
        cardinality: C, number of branches per module.
        fan_in: K, number of branches of the previous module that each branch listens to. The paper
            finds K = C / 2 best and K = 1 sparsest; K = C is the plain ResNeXt. Not used by
            `wiring="full"`.
        num_classes: number of classes.
        stem: `"cifar"` (3 x 3), `"mini_imagenet"` (3 x 3 and a max-pool) or `"imagenet"` (7 x 7 of
            stride 2 and a max-pool).
        wiring: `"learned"` (needs `callbacks.MaskConnect` to learn), `"full"` (the plain ResNeXt,
            Fixed-Full), `"random"` (Fixed-Random: K random connections that stay) or `"real"`
            (GateConnect's ablation with real-valued gates).
        identity: how often a target counts the identities of its K sources: `"mean"` once (at K = C
            exactly ResNeXt), `"sum"` K times, the papers' literal formula, which grows by a factor
            of about K per module. The classifier counts them likewise over the C branches it reads.
        weighted: whether every active connection also learns a positive weight (see `nn.Gate`).
        in_channels: channels of the images.
        image_size: height and width of the images, used only to count multiply-adds; by default
            32, 64 or 224, as the stem suggests.

    Raises:
        ValueError: if the depth fits no stage plan, K is not between 1 and C, or a name is unknown.

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
        plan = stem_plan(stem)
        if wiring not in ("learned", "full", "random", "real"):
            raise ValueError(
                f'wiring must be "learned", "full", "random" or "real", got "{wiring}".'
            )
        if identity not in ("mean", "sum"):
            raise ValueError(f'identity must be "mean" or "sum", got "{identity}".')
        for name, value in (("width", width), ("cardinality", cardinality)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if wiring != "full" and not 1 <= fan_in <= cardinality:
            raise ValueError(
                f"fan_in (K) must be between 1 and the cardinality (C = {cardinality}), "
                f"got {fan_in}."
            )
        self.describe(
            depth=depth, width=width, cardinality=cardinality, stem=stem, wiring=wiring,
            identity=identity, fan_in=None if wiring == "full" else fan_in,
        )  # fmt: skip
        stages = _stages(depth, stem)
        wide = width >= 64 or stem == "imagenet"
        stem_channels, channels = (64, 256) if wide else (16, 64)
        total = sum(stages)
        blocks: list[Branches] = []
        connections: dict[str, Gate | Selection] = {}
        current = stem_channels
        for stage, modules in enumerate(stages):
            for index in range(modules):
                position = len(blocks)
                merge = wiring == "full" or position == total - 1
                listened = cardinality if merge else fan_in
                blocks.append(
                    Branches(
                        cardinality,
                        current,
                        width * 2**stage,
                        channels * 2**stage,
                        stride=2 if stage > 0 and index == 0 else 1,
                        shared_input=wiring == "full" or position == 0,
                        merge=merge,
                        identity_scale=1 / listened if identity == "mean" else 1.0,
                    )
                )
                current = channels * 2**stage
        stem_layers = make_stem(stem, in_channels, stem_channels)
        classifier = nn.Linear(current, num_classes)
        initialize_convolutions(
            stem_layers, *(block.projection for block in blocks if block.projection)
        )
        if wiring != "full":
            # Drawn after all weights, so that every wiring starts from the same weights for a seed.
            connections = {
                f"module{position + 1}": Gate(
                    cardinality, cardinality, fan_in, mode=wiring, weighted=weighted
                )
                for position in range(1, total)
            }
        super().__init__(
            stem_layers,
            blocks,
            connections,
            classifier,
            image_size=plan.image_size if image_size is None else image_size,
            reduction=plan.reduction,
        )


def _stages(depth: int, stem: StemName) -> tuple[int, ...]:
    """Modules per stage."""
    if stem == "imagenet":
        if depth not in _IMAGENET_STAGES:
            raise ValueError(
                f"depth must be one of {', '.join(map(str, _IMAGENET_STAGES))} with the imagenet "
                f"stem, got {depth}."
            )
        return _IMAGENET_STAGES[depth]
    if depth < 11 or (depth - 2) % 9:
        raise ValueError(
            f"depth must be 2 + 9n (11, 20, 29, 38, ...) for three equal stages of three-layer "
            f"modules, got {depth}."
        )
    return ((depth - 2) // 9,) * 3
