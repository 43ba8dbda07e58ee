"""Layers whose wiring can change while the network trains."""

from wiring_lightning.nn.branches import Branches
from wiring_lightning.nn.dense import DenseLayer
from wiring_lightning.nn.gate import Gate, Selection, find_gates
from wiring_lightning.nn.pointwise import PointwiseConv2d
from wiring_lightning.nn.pre_activation import (
    Feature,
    RectifiedChain,
    RectifiedConv2d,
    preferred_layout,
)
from wiring_lightning.nn.residual import ResidualBlock
from wiring_lightning.nn.shelf import Shelf, StagePlan

__all__ = [
    "Branches",
    "DenseLayer",
    "Feature",
    "Gate",
    "PointwiseConv2d",
    "RectifiedChain",
    "RectifiedConv2d",
    "ResidualBlock",
    "Selection",
    "Shelf",
    "StagePlan",
    "find_gates",
    "preferred_layout",
]
