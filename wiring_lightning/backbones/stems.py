"""The first layers, which depend on the size of the images."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

StemName = Literal["cifar", "mini_imagenet", "imagenet"]


@dataclass(frozen=True)
class StemPlan:
    """What a stem does to an image: kernel and stride of its convolution, pooling, usual size."""

    kernel: int
    stride: int
    max_pool: bool
    image_size: int

    @property
    def reduction(self) -> int:
        """By how much the stem divides height and width."""
        return self.stride * (2 if self.max_pool else 1)


STEMS: dict[StemName, StemPlan] = {
    "cifar": StemPlan(kernel=3, stride=1, max_pool=False, image_size=32),
    "mini_imagenet": StemPlan(kernel=3, stride=1, max_pool=True, image_size=64),
    "imagenet": StemPlan(kernel=7, stride=2, max_pool=True, image_size=224),
}


def make_stem(
    name: StemName, in_channels: int, out_channels: int, activate: bool = True
) -> nn.Sequential:
    """Convolution, batch norm and ReLU, and a 3 x 3 max-pool of stride 2 for larger images.

    Without `activate` there are no batch norm and ReLU: networks of pre-activation layers bring
    their own.

    Raises:
        ValueError: if there is no stem of that name.
    """
    plan = stem_plan(name)
    layers: list[nn.Module] = [
        nn.Conv2d(
            in_channels,
            out_channels,
            plan.kernel,
            stride=plan.stride,
            padding=plan.kernel // 2,
            bias=False,
        ),
    ]
    if activate:
        layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    if plan.max_pool:
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(*layers)


def stem_plan(name: StemName) -> StemPlan:
    """The plan of a stem.

    Raises:
        ValueError: if there is no stem of that name.
    """
    if name not in STEMS:
        raise ValueError(f'There is no stem "{name}"; choose one of {", ".join(STEMS)}.')
    return STEMS[name]


def initialize_convolutions(*parts: nn.Module) -> None:
    """He initialisation (fan-out) of every convolution in the parts."""
    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
