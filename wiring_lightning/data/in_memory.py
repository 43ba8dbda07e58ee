"""The base class of data sets in memory, which are normalised and augmented in whole batches."""

from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from wiring_lightning.data._resumable import ResumableDataModule
from wiring_lightning.data.augment import CropFlip, Mirror
from wiring_lightning.data.loader import BatchLoader
from wiring_lightning.data.normalize import Normalization, Normalizer

Split = tuple[Tensor, Tensor]
"""Images, bytes [N, C, H, W], and their labels, int64 [N] or [N, T], or masks, bytes [N, H, W]."""


class InMemoryDataModule(ResumableDataModule[Tensor]):
    """Base class of the data modules that read all images once and keep them in memory.

    A subclass defines the two attributes below and :meth:`read_splits`. The images are read once
    and moved once to the trainer's device, of whatever kind, so no worker processes are needed.
    Loaders yield images as float32 [B, C, H, W], normalised and, in training, augmented on that
    device, with their labels or masks. The random numbers are drawn on the CPU, so all devices see
    the same images. A run that resumes inside an epoch gets the same batches as an uninterrupted
    run. See :class:`BatchLoader` for this and for several processes.

    Args:
        batch_size: Images per step and process: with four GPUs and 128, the network sees 512
            images per step.
        augment: Whether to shift, crop or mirror the training images at random, differently in
            each epoch, by ``crop_flip``.
        normalization: How to centre the images after scaling them to [0, 1]. 'pixel_mean'
            subtracts the mean training image; 'channel_mean_std' subtracts each channel's mean
            and divides by its standard deviation. Both are measured on the training split only.
            'symmetric' maps black to -1 and white to 1.
        seed: Seed of the random order and augmentation; use another one for each repetition.
            The splits do not depend on it.
        drop_last: Whether to leave out a last training batch that is not full. Evaluation always
            uses every image.

    Attributes:
        image_shape: Channels, height and width of the images that the loaders yield.
        crop_flip: The augmentation.
        normalizer: Maps bytes to the network's images as the loaders do; there after :meth:`setup`.

    Raises:
        ValueError: If ``batch_size`` is below 1; in :meth:`setup`, if ``normalization`` is unknown.
    """

    crop_flip: ClassVar[CropFlip | Mirror]

    def __init__(
        self,
        batch_size: int = 128,
        augment: bool = True,
        normalization: Normalization = "pixel_mean",
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, drop_last)
        self.augment = augment
        self.normalization = normalization

    @override
    def setup(self, stage: str) -> None:
        """Read the images, once.

        Args:
            stage: Lightning's stage: ``fit`` normalises by the data's own statistics again. All
                stages need the training images, since these are measured on them.
        """
        if self._splits is None:
            splits = self.read_splits()
            self.normalizer = Normalizer.fit(splits[0][0], self.normalization)
            self._own_normalizer = None
            self._splits = splits
        super().setup(stage)

    @override
    def _normalized_shape(self) -> tuple[int, int, int]:
        _, channels, height, width = super()._ready()[0][0].shape
        return channels, height, width

    def _augmentation(self, train: bool) -> CropFlip | Mirror | None:
        """Return the augmentation of a split's images."""
        return self.crop_flip if train and self.augment else None

    @override
    def _ready(self) -> tuple[Split, ...]:
        """Return the splits on the device where their batches are needed."""
        splits = super()._ready()
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            # Tensors that are already on the device are not copied again.
            splits = tuple((images.to(device), labels.to(device)) for images, labels in splits)
            self._splits = splits
        return splits

    @override
    def _loader(self, images: Tensor, labels: Tensor, train: bool, **options: Any) -> BatchLoader:
        return BatchLoader(
            images,
            labels,
            self.batch_size,
            normalizer=self.normalizer,
            crop_flip=self._augmentation(train),
            **options,
        )
