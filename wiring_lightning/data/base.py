"""The base class of data sets with training and test images and one label per image."""

from abc import abstractmethod
from typing import Any, ClassVar

from typing_extensions import override

from wiring_lightning._checks import check_counts
from wiring_lightning.data.augment import CropFlip
from wiring_lightning.data.in_memory import InMemoryDataModule, Split


class ImageDataModule(InMemoryDataModule):
    """Base class of the data modules with one label per image.

    A subclass defines the three attributes below and :meth:`read`. Loaders yield
    ``(images, labels)``.

    Args:
        batch_size: Images per step and process: with four GPUs and 128, the network sees 512
            images per step.
        val_size: How many training images to set aside for validation, always the last ones of
            the training set. 0 trains on all of them and turns validation off.
        options: The other arguments of :class:`InMemoryDataModule`.

    Attributes:
        num_classes: Number of classes.
        image_shape: Channels, height and width of the images that the loaders yield.
        crop_flip: The augmentation.

    Raises:
        ValueError: If ``batch_size`` is below 1 or ``val_size`` negative; in :meth:`setup`, if
            ``val_size`` leaves no training image or ``normalization`` is unknown.

    Example:
        >>> import torch
        >>> class Noise(ImageDataModule):
        ...     num_classes, image_shape = 2, (1, 4, 4)
        ...     crop_flip = CropFlip(padding=1)
        ...     def read(self, train):
        ...         size = 10 if train else 5
        ...         images = torch.randint(256, (size, 1, 4, 4)).to(torch.uint8)
        ...         return images, torch.arange(size) % 2
        >>> data = Noise(batch_size=4, val_size=3)
        >>> data.setup("fit")
        >>> [len(labels) for _, labels in data.train_dataloader()]
        [4, 3]
    """

    num_classes: ClassVar[int]
    image_shape: ClassVar[tuple[int, int, int]]
    crop_flip: ClassVar[CropFlip]

    def __init__(self, batch_size: int = 128, val_size: int = 5000, **options: Any) -> None:
        super().__init__(batch_size, **options)
        check_counts(0, val_size=val_size)
        self.val_size = val_size

    @abstractmethod
    def read(self, train: bool) -> Split:
        """Read the whole data set from disk.

        Args:
            train: Whether to read the training and validation images, or the test images. Must
                return the same images in the same order each time.

        Returns:
            Images, uint8 of shape [N, *image_shape], and labels, int64 of shape [N].
        """

    @override
    def read_splits(self) -> tuple[Split, Split, Split]:
        """Read the images and set aside the last training images for validation."""
        images, labels = self.read(train=True)
        size = len(images) - self.val_size
        if size < 1:
            raise ValueError(
                f"val_size must be smaller than the {len(images)} training images, "
                f"got {self.val_size}."
            )
        train, val = (images[:size], labels[:size]), (images[size:], labels[size:])
        return train, val, self.read(train=False)
