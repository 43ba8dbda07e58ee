"""Image data modules that split by fixed rules and resume to the exact batch."""

from wiring_lightning.data.augment import CropFlip, Mirror, random_crop_flip as random_crop_flip
from wiring_lightning.data.base import ImageDataModule
from wiring_lightning.data.cifar import CIFAR10, CIFAR100
from wiring_lightning.data.digit_sums import DigitSums
from wiring_lightning.data.digits import Digits
from wiring_lightning.data.fashion_mnist import FashionMNIST
from wiring_lightning.data.image_folder import ImageFolder
from wiring_lightning.data.image_masks import ImageMaskFolder
from wiring_lightning.data.imagenet import ImageNet
from wiring_lightning.data.in_memory import InMemoryDataModule
from wiring_lightning.data.loader import BatchLoader
from wiring_lightning.data.mini_imagenet import MiniImageNet
from wiring_lightning.data.normalize import (
    Normalizer,
    channel_mean_std as channel_mean_std,
    pixel_mean as pixel_mean,
)
from wiring_lightning.data.part_labels import PartLabels

# Names imported `as` themselves can be imported from here, but are not in `__all__`.
__all__ = [
    "CIFAR10",
    "CIFAR100",
    "BatchLoader",
    "CropFlip",
    "DigitSums",
    "Digits",
    "FashionMNIST",
    "ImageDataModule",
    "ImageFolder",
    "ImageMaskFolder",
    "ImageNet",
    "InMemoryDataModule",
    "MiniImageNet",
    "Mirror",
    "Normalizer",
    "PartLabels",
]
