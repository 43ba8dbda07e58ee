"""The networks of `benchmarks.compact_speed`: each with what its compact form is compared to."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from wiring_lightning import costs
from wiring_lightning.backbones import (
    ConvFabric,
    MobileNetV1DNW,
    ResNet,
    ResNetFabric,
    ResNeXt,
    SparseNet,
)
from wiring_lightning.wiring import Wired


@dataclass(frozen=True)
class Pair:
    """A network, and the most that its compact form may take of the time of another one.

    Args:
        make: the network, with a fixed random wiring or architecture.
        whole: the network with all of its modules, whose time is 1; `None` for the network itself.
        most: the largest ratio, a factor of the live share of multiply-adds if `of_share`.
        of_share: whether the ratio may only be that share, times `most`.
        both_compact: whether the other network is compacted, too.
        side: height and width of the images, if not those of the other networks.
    """

    make: Callable[[], nn.Module]
    whole: Callable[[], nn.Module] | None
    most: float
    of_share: bool = True
    both_compact: bool = False
    side: int | None = None

    def target(self, network: nn.Module) -> tuple[float, float]:
        """The live share of the multiply-adds, and the largest ratio of times."""
        share = live_share(network)
        return share, self.most * share if self.of_share else self.most


def pairs(small: bool) -> dict[str, Pair]:
    """All pairs by name; `small` are of a size for tests."""
    shape = {"depth": 11, "width": 4, "cardinality": 4} if small else {"depth": 29, "width": 8}
    branches = 4 if small else 8
    layers = 14 if small else 38
    earlier = 3 if small else 10
    positions, scales, channels = (1, 3, 8) if small else (5, 5, 64)
    depth, stem = (10, 4) if small else (40, 32)

    def resnext(fan_in: int) -> Callable[[], nn.Module]:
        return lambda: ResNeXt(**shape, fan_in=fan_in, num_classes=100, wiring="random")  # type: ignore[arg-type]

    def full() -> nn.Module:
        return ResNeXt(**shape, num_classes=100, wiring="full")  # type: ignore[arg-type]

    def tiny_resnext() -> nn.Module:
        return ResNeXt(11, 2, 4, fan_in=1, image_size=8, wiring="random")

    def resnet_fabric() -> nn.Module:
        return ResNetFabric(positions)

    def conv_fabric() -> nn.Module:
        return ConvFabric(columns=4, scales=scales, channels=channels)

    return {
        f"ResNeXt, K = {branches // 2}": Pair(resnext(branches // 2), full, 1.4, False, True),
        "ResNeXt, K = 1": Pair(resnext(1), full, 1.3, True, True),
        "ResNeXt {11,2,4}, 8 x 8, K = 1": Pair(tiny_resnext, None, 1.0, False, side=8),
        f"ResNet-{layers}, K = {earlier}": Pair(
            lambda: ResNet(layers, earlier, wiring="random"), None, 1.1
        ),
        f"ResNet-{layers}, K = 1": Pair(lambda: ResNet(layers, 1, wiring="random"), None, 1.1),
        f"SparseNet-{depth}": Pair(lambda: SparseNet(depth, 4 if small else 24), None, 1.1),
        "MobileNetV1-DNW": Pair(lambda: MobileNetV1DNW(0.225, stem_channels=stem), None, 1.1),
        "ResNet Fabric": Pair(lambda: _with_fewer_edges(resnet_fabric()), resnet_fabric, 1.1),
        "Convolutional Fabric": Pair(lambda: _with_fewer_edges(conv_fabric()), conv_fabric, 1.1),
    }


def live_share(network: nn.Module) -> float:
    """Live multiply-adds over all of them."""
    assert isinstance(network, Wired)
    wiring = network.wiring()
    return float(costs.multiply_adds(wiring)) / float(costs.multiply_adds(wiring, live=False))


def make(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network in evaluation mode whose norms have other statistics than at first."""
    torch.manual_seed(seed)
    network = build()
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.normal_(0.0, 0.1)
                norm.running_var.uniform_(0.8, 1.25)
    return network.eval()


@torch.no_grad()
def _with_fewer_edges(fabric: nn.Module) -> nn.Module:
    """A fabric whose most probable architecture has about two thirds of the edges."""
    logits = fabric.get_parameter("fabric.gate.logits")
    for _ in range(1000):
        logits.copy_(torch.randn_like(logits) + 0.5)
        if 0.0 < live_share(fabric) < 1.0 and _connected(fabric):
            return fabric
    raise RuntimeError("no architecture with dead edges was found.")


def _connected(fabric: nn.Module) -> bool:
    assert isinstance(fabric, Wired)
    return bool(fabric.wiring().live_nodes[-1])
