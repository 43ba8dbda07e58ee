"""Layers whose wiring can change while the network trains."""

from wiring_lightning.nn.adjacency import Adjacency, AdjacencyMode, find_adjacencies
from wiring_lightning.nn.bernoulli_gate import BernoulliGate, find_bernoulli_gates
from wiring_lightning.nn.branches import Branches
from wiring_lightning.nn.channels import select_channels
from wiring_lightning.nn.dense import DenseLayer
from wiring_lightning.nn.described import (
    Described,
    find_differences,
    find_flaws,
    with_descriptions,
)
from wiring_lightning.nn.fabric import Fabric, FabricEdge
from wiring_lightning.nn.gate import Gate, Selection, find_gates
from wiring_lightning.nn.graph_stage import CompactGraphStage, GraphStage
from wiring_lightning.nn.learnable import Learnable, find_learnable
from wiring_lightning.nn.node_operations import NodeOperations
from wiring_lightning.nn.pointwise import PointwiseConv2d
from wiring_lightning.nn.pre_activation import Feature, RectifiedChain, RectifiedConv2d
from wiring_lightning.nn.residual import ResidualBlock
from wiring_lightning.nn.shelf import Shelf, StagePlan
from wiring_lightning.nn.sparse_edges import SparseEdges

__all__ = [
    "Adjacency",
    "AdjacencyMode",
    "BernoulliGate",
    "Branches",
    "CompactGraphStage",
    "DenseLayer",
    "Described",
    "Fabric",
    "FabricEdge",
    "Feature",
    "Gate",
    "GraphStage",
    "Learnable",
    "NodeOperations",
    "PointwiseConv2d",
    "RectifiedChain",
    "RectifiedConv2d",
    "ResidualBlock",
    "Selection",
    "Shelf",
    "SparseEdges",
    "StagePlan",
    "find_adjacencies",
    "find_bernoulli_gates",
    "find_differences",
    "find_flaws",
    "find_gates",
    "find_learnable",
    "select_channels",
    "with_descriptions",
]
