"""The networks of the registry for what traces them, which takes longer with every layer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.methods import Method
from wiring_lightning.backbones import ConvFabric, DenseNet, ResNet, SparseNet, SparseResNet

# As shallow as a class can be with all kinds of its layers, and something left to choose.
# A ResNeXt of the registry, a MobileNet and a fabric of residual blocks are already.
_SHALLOW: dict[Callable[..., Any], dict[str, Any]] = {
    ResNet: {"depth": 8, "fan_in": 1},
    DenseNet: {"depth": 10, "fan_in": 1},
    SparseNet: {"depth": 16},
    SparseResNet: {"depth": 20},
    ConvFabric: {"channels": 4, "scales": 2},
}


def shallow(method: Method) -> Method:
    """The same method with fewer layers."""
    more = dict(_SHALLOW.get(method.backbone, {}))
    if method.arguments.get("weighted"):
        more |= {"depth": 14, "fan_in": 2}  # a weighted sum of several
    return replace(method, arguments=method.arguments | more)
