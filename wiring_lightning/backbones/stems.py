"""The first layers, which depend on the size of the images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

StemName = Literal["cifar", "mini_imagenet", "imagenet"]
MobileNetStem = Literal["cifar", "imagenet"]


@dataclass(frozen=True)
class StemPlan:
    """Kernel and stride of a stem's convolution, its pooling, and the usual size of its images."""

    kernel: int
    stride: int
    max_pool: bool
    image_size: int

    @property
    def reduction(self) -> int:
        """The factor by which the stem divides height and width."""
        return self.stride * (2 if self.max_pool else 1)


STEMS: dict[str, StemPlan] = {
    "cifar": StemPlan(kernel=3, stride=1, max_pool=False, image_size=32),
    "mini_imagenet": StemPlan(kernel=3, stride=1, max_pool=True, image_size=64),
    "imagenet": StemPlan(kernel=7, stride=2, max_pool=True, image_size=224),
}
MOBILENET_STEMS: dict[str, StemPlan] = {
    "cifar": STEMS["cifar"],
    "imagenet": StemPlan(kernel=3, stride=2, max_pool=False, image_size=224),
}


def stem_plan(
    name: str, image_size: int | None = None, stems: Mapping[str, StemPlan] = STEMS
) -> StemPlan:
    """The plan of a stem.

    Args:
        name: of the stem.
        image_size: height and width of the images; the usual size if not given.
        stems: the plans that the network has.

    Raises:
        ValueError: if there is no such stem.

    Example:
        >>> stem_plan("imagenet").image_size, stem_plan("imagenet", image_size=96).image_size
        (224, 96)
    """
    if name not in stems:
        raise ValueError(f'There is no stem "{name}"; choose one of {", ".join(stems)}.')
    plan = stems[name]
    return plan if image_size is None else replace(plan, image_size=image_size)


def small_stem_plan(network: str, name: str, image_size: int | None) -> StemPlan:
    """The plan of a stem for a network without a stem for ImageNet.

    Args:
        network: name of the network, for the message.
        name: as for `stem_plan`.
        image_size: as for `stem_plan`.

    Raises:
        ValueError: if there is no such stem, or it is that for ImageNet.
    """
    plan = stem_plan(name, image_size)
    if name == "imagenet":
        raise ValueError(f'{network} has the stems "cifar" and "mini_imagenet", got "imagenet".')
    return plan


def make_stem(
    plan: StemPlan, in_channels: int, out_channels: int, activate: bool = True
) -> nn.Sequential:
    """Convolution, batch norm and ReLU if `activate`, and maybe a 3 x 3 max-pool of stride 2."""
    kernel, padding = plan.kernel, plan.kernel // 2
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, plan.stride, padding, bias=False)
    ]
    if activate:
        layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    if plan.max_pool:
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(*layers)


def initialize_convolutions(*parts: nn.Module) -> None:
    """He initialisation (fan-out) of every convolution in the parts."""
    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
