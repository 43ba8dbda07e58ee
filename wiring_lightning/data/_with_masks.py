"""The base class of data modules with masks."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from wiring_lightning.data._mask_splits import Pair
from wiring_lightning.data.augment import Mirror
from wiring_lightning.data.in_memory import InMemoryDataModule, Split
from wiring_lightning.data.normalize import Normalization


class MaskDataModule(InMemoryDataModule):
    """Base class of the data modules whose labels are masks with the class of each pixel.

    Args:
        batch_size: Images per step and process: with four GPUs and 16, the network sees 64 images
            per step.
        normalization: How to centre the images after scaling them to [0, 1]. 'symmetric' maps black
            to -1 and white to 1; 'pixel_mean' subtracts the mean training image;
            'channel_mean_std' subtracts each channel's mean and divides by its standard deviation,
            measured on the training split only.
        options: The other arguments of :class:`InMemoryDataModule`.
    """

    crop_flip: ClassVar[Mirror] = Mirror()

    def __init__(
        self, batch_size: int = 16, normalization: Normalization = "symmetric", **options: Any
    ) -> None:
        super().__init__(batch_size, normalization=normalization, **options)

    @abstractmethod
    def find_pairs(self) -> tuple[list[Pair], list[Pair], list[Pair]]:
        """Return the files for training, validation (may be empty) and test."""

    @abstractmethod
    def read_pair(self, image_path: str, mask_path: str) -> tuple[Tensor, Tensor]:
        """Return an image, uint8 of shape [3, H, W], and its mask, uint8 of shape [H, W]."""

    @override
    def read_splits(self) -> tuple[Split, ...]:
        """Read the three splits.

        Returns:
            Three times images, uint8 of shape [N, 3, H, W], and masks, uint8 of shape [N, H, W].
        """
        # Find all files before reading any, so that a missing one is reported at once.
        return tuple(self._read_all(pairs) for pairs in self.find_pairs())

    def _read_all(self, pairs: list[Pair]) -> Split:
        channels, height, width = self.image_shape
        images = torch.empty(len(pairs), channels, height, width, dtype=torch.uint8, device="cpu")
        masks = torch.empty(len(pairs), height, width, dtype=torch.uint8, device="cpu")
        for index, pair in enumerate(pairs):
            images[index], masks[index] = self.read_pair(*pair)
        return images, masks
