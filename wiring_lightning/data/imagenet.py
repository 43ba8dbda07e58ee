"""ImageNet: photographs in 1,000 classes, read from disk during training."""

from typing_extensions import override

from wiring_lightning.data._class_folders import ClassFolders
from wiring_lightning.data._picture_sources import Found, in_folders
from wiring_lightning.data.image_folder import ImageFolder

_FINDER = ClassFolders(
    "ImageNet",
    "the folder that holds 'train' and 'val', each with one folder of images per class",
    "complete the folder, or delete it in both 'train' and 'val'",
)


class ImageNet(ImageFolder):
    """ImageNet (ILSVRC 2012): 1.28 million training and 50,000 validation photographs.

    ``root`` has the folders ``train`` and ``val``, each with one folder of image files per class,
    the layout of torchvision's ``ImageFolder``. Any data set in that layout works; for others see
    :class:`ImageFolder`.

    The network sees float32 [B, 3, 224, 224], centred and scaled by the usual means and standard
    deviations of the channels. The loaders themselves yield ``(images, labels)`` with images as
    bytes, uint8 [B, 3, 224, 224], a quarter of the size. The data module normalises them on the
    trainer's device, in :meth:`on_after_batch_transfer`. If you iterate over a loader yourself, or
    give it to a trainer without the data module, call ``data.normalizer(images)``, on any device.

    Training crops a random part of each image, 8% to 100% of its area, resizes it to 224x224 and
    mirrors half of them. Evaluation resizes the shorter side to 256 and crops the centre. As in the
    papers, networks train on all of ``train``, and ``val`` is for validation and for testing: do
    not use it to select a network whose accuracy you report.

    The images do not fit into memory; ``num_workers`` processes read and augment them. They live
    through all epochs of a fit, and validation has as many of its own. Order and augmentation
    depend on the seed and the epoch only, not on the number of worker processes. A run that resumes
    inside an epoch gets the same batches as an uninterrupted run. Several processes evaluate each
    image exactly once. See :class:`BatchLoader`.

    Args:
        root: Folder that holds ``train`` and ``val``.
        batch_size: Images per step and process: with eight GPUs and 256, the network sees 2,048
            images per step.
        num_workers: Number of worker processes for each training process. 0 reads images in the
            training process itself. By default the machine's cores are divided among its training
            processes.
        image_size: Height and width of the images that the loaders yield, in pixels.
        resize: Length of an image's shorter side before evaluation takes the centre, in pixels.
        seed: Seed of the random order and augmentation; use another one for each repetition.
        drop_last: Whether to leave out a last training batch that is not full. Evaluation always
            uses every image.
        predict_root: Folder of pictures to predict, see :class:`ImageFolder`; by default those in
            ``val``.

    Attributes:
        normalizer: Maps the loaders' bytes to the network's images.

    Raises:
        ValueError: If a size is out of range.
        FileNotFoundError: In :meth:`setup`, if folders are missing.
        RuntimeError: In :meth:`setup`, if a class has no image or ``train`` and ``val`` hold
            different classes; during iteration, if an image is damaged.

    Example:
        >>> data = ImageNet(root="data/imagenet", image_size=160, resize=182)
        >>> data.image_shape
        (3, 160, 160)
    """

    def __init__(
        self,
        root: str = "data/imagenet",
        batch_size: int = 256,
        num_workers: int | None = None,
        image_size: int = 224,
        resize: int = 256,
        seed: int = 0,
        drop_last: bool = False,
        predict_root: str | None = None,
    ) -> None:
        super().__init__(
            root,
            batch_size,
            image_size,
            resize,
            predict_root=predict_root,
            num_workers=num_workers,
            seed=seed,
            drop_last=drop_last,
        )

    @property
    @override
    def num_classes(self) -> int:
        """Number of classes; before :meth:`setup`, the number of class folders in ``train``."""
        return super().num_classes or len(_FINDER.paths(self.folder / "train"))

    @override
    def find_pictures(self) -> Found:
        """List the image files in ``train`` and ``val``, with their classes."""
        return in_folders(self.folder, _FINDER, ("train", "val"))
