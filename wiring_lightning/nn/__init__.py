"""Layers whose wiring can change while the network trains."""

from wiring_lightning.nn.branches import Branches
from wiring_lightning.nn.dense import DenseLayer
from wiring_lightning.nn.gate import Gate, Selection, find_gates
from wiring_lightning.nn.pointwise import PointwiseConv2d
from wiring_lightning.nn.residual import ResidualBlock

__all__ = [
    "Branches",
    "DenseLayer",
    "Gate",
    "PointwiseConv2d",
    "ResidualBlock",
    "Selection",
    "find_gates",
]
