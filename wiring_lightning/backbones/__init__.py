"""Networks whose wiring can be learned, one file per family; plain modules without Lightning."""

from wiring_lightning.backbones.conv_fabric import ConvFabric
from wiring_lightning.backbones.densenet import DenseNet
from wiring_lightning.backbones.gated_heads import GatedHeads
from wiring_lightning.backbones.mobilenet import MobileNetV1
from wiring_lightning.backbones.mobilenet_dnw import MobileNetV1DNW
from wiring_lightning.backbones.neural_graph import NeuralGraph
from wiring_lightning.backbones.resnet import ResNet
from wiring_lightning.backbones.resnet_fabric import ResNetFabric
from wiring_lightning.backbones.resnext import ResNeXt
from wiring_lightning.backbones.sparse_resnet import SparseResNet
from wiring_lightning.backbones.sparsenet import SparseNet

__all__ = [
    "ConvFabric",
    "DenseNet",
    "GatedHeads",
    "MobileNetV1",
    "MobileNetV1DNW",
    "NeuralGraph",
    "ResNeXt",
    "ResNet",
    "ResNetFabric",
    "SparseNet",
    "SparseResNet",
]
