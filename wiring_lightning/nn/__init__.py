"""Layers whose wiring can change while the network trains."""

from wiring_lightning.nn.adjacency import Adjacency, AdjacencyMode, find_adjacencies
from wiring_lightning.nn.bernoulli_gate import BernoulliGate, find_bernoulli_gates
from wiring_lightning.nn.branches import Branches as Branches
from wiring_lightning.nn.channels import select_channels
from wiring_lightning.nn.dead_channels import remove_dead_channels
from wiring_lightning.nn.dense import DenseLayer as DenseLayer
from wiring_lightning.nn.described import (
    Described,
    find_differences as find_differences,
    find_flaws as find_flaws,
    with_descriptions,
)
from wiring_lightning.nn.fabric import Fabric, FabricEdge as FabricEdge
from wiring_lightning.nn.gate import Gate, find_gates
from wiring_lightning.nn.graph_stage import CompactGraphStage as CompactGraphStage, GraphStage
from wiring_lightning.nn.grouped_linear import GroupedLinear
from wiring_lightning.nn.learnable import Learnable as Learnable, find_learnable as find_learnable
from wiring_lightning.nn.node_operations import NodeOperations as NodeOperations
from wiring_lightning.nn.pointwise import PointwiseConv2d
from wiring_lightning.nn.pre_activation import (
    Feature as Feature,
    RectifiedChain as RectifiedChain,
    RectifiedConv2d as RectifiedConv2d,
)
from wiring_lightning.nn.residual import ResidualBlock as ResidualBlock
from wiring_lightning.nn.selection import Selection as Selection
from wiring_lightning.nn.shelf import Shelf as Shelf, StagePlan as StagePlan
from wiring_lightning.nn.sparse_conv import SparseConv2d
from wiring_lightning.nn.sparse_edges import SparseEdges
from wiring_lightning.nn.sparse_linear import SparseLinear
from wiring_lightning.nn.store_sparse import store_dense, store_sparse

# Names imported `as` themselves can be imported from here, but are not in `__all__`.
__all__ = [
    "Adjacency",
    "AdjacencyMode",
    "BernoulliGate",
    "Described",
    "Fabric",
    "Gate",
    "GraphStage",
    "GroupedLinear",
    "PointwiseConv2d",
    "SparseConv2d",
    "SparseEdges",
    "SparseLinear",
    "find_adjacencies",
    "find_bernoulli_gates",
    "find_gates",
    "remove_dead_channels",
    "select_channels",
    "store_dense",
    "store_sparse",
    "with_descriptions",
]
