"""CIFAR-10 and CIFAR-100: 32x32 colour photographs in 10 and 100 classes."""

from typing import ClassVar

from wiring_lightning.data._torchvision import TorchvisionDataModule
from wiring_lightning.data.augment import CropFlip


class CIFAR10(TorchvisionDataModule):
    """CIFAR-10: 50,000 training and 10,000 test images [3, 32, 32] in 10 classes.

    The defaults are those of the connectivity-learning papers: 45,000 training and 5,000
    validation images, scaled to [0, 1] minus the mean image; training images are padded by 4
    pixels of mean colour, cropped at random, and mirrored half of the time. The official file
    order is already random, so the last 5,000 images are a fair validation split.

    The files are in the folder ``cifar-10-batches-py`` in ``root``.

    Example:
        >>> data = CIFAR10(root="data", batch_size=64)
        >>> data.num_classes, data.image_shape
        (10, (3, 32, 32))
    """

    num_classes: ClassVar[int] = 10
    image_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    crop_flip: ClassVar[CropFlip] = CropFlip(padding=4)
    dataset_name: ClassVar[str] = "CIFAR10"
    folder: ClassVar[str] = "cifar-10-batches-py"


class CIFAR100(TorchvisionDataModule):
    """CIFAR-100: 50,000 training and 10,000 test images [3, 32, 32] in 100 classes.

    Everything else is as in :class:`CIFAR10`. The labels are the 100 fine ones.

    The files are in the folder ``cifar-100-python`` in ``root``.

    Example:
        >>> CIFAR100(val_size=0).num_classes
        100
    """

    num_classes: ClassVar[int] = 100
    image_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    crop_flip: ClassVar[CropFlip] = CropFlip(padding=4)
    dataset_name: ClassVar[str] = "CIFAR100"
    folder: ClassVar[str] = "cifar-100-python"
