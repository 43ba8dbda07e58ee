"""Networks whose wiring can be learned, one file a family; plain modules without Lightning."""

from wiring_lightning.backbones.densenet import DenseNet
from wiring_lightning.backbones.resnet import ResNet
from wiring_lightning.backbones.resnext import ResNeXt
from wiring_lightning.backbones.sparse_resnet import SparseResNet
from wiring_lightning.backbones.sparsenet import SparseNet

__all__ = ["DenseNet", "ResNeXt", "ResNet", "SparseNet", "SparseResNet"]
