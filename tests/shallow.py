"""The networks of the registry for what traces them, which takes longer with every layer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.methods import Method
from wiring_lightning.backbones import ConvFabric, DenseNet, ResNet

# As shallow as a class can be with all kinds of its layers, and something left to choose.
# The other networks of the registry are already.
_SHALLOW: dict[Callable[..., Any], dict[str, Any]] = {
    ResNet: {"depth": 8, "fan_in": 1},
    DenseNet: {"depth": 10, "fan_in": 1},
    ConvFabric: {"channels": 4, "scales": 2},
}


def shallow(method: Method) -> Method:
    """The same method with fewer layers."""
    if method.arguments.get("weighted"):  # of several, as it is
        return method
    return replace(method, arguments=method.arguments | _SHALLOW.get(method.backbone, {}))
