"""ImageNet: photographs of 1,000 kinds of things, read from disk while the network trains."""

from itertools import chain
from pathlib import Path

import torch
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch import Trainer
from typing_extensions import override

from wiring_lightning._checks import check_counts
from wiring_lightning.data._file_loader import FileLoader
from wiring_lightning.data._image_folders import (
    ClassFiles,
    class_files,
    class_names,
    require_same_classes,
)
from wiring_lightning.data._position import PositionedDataModule
from wiring_lightning.data._views import CentreView, RandomView, View
from wiring_lightning.data.normalize import Normalizer

_LAYOUT = "the folder that holds 'train' and 'val', each with one folder of images per class"

# Of ImageNet's training images in [0, 1], as everyone rounds them.
_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
_STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


class ImageNet(PositionedDataModule):
    """ImageNet (ILSVRC 2012): 1.28 million training and 50,000 validation photographs.

    ``root`` holds the folders ``train`` and ``val``, and each of them one folder of image files
    per class, the layout of torchvision's ``ImageFolder``; any data set in that layout will do. The
    loaders yield ``(images, labels)`` with images as float32 [B, 3, 224, 224], centred and scaled
    by the channels' usual means and standard deviations.

    Training takes a random part of each image, 8% to 100% of its area, resizes it to 224x224 and
    mirrors half of them. Evaluation resizes the shorter side to 256 and takes the centre. As in the
    papers, networks train on all of ``train``, and ``val`` serves for validation and for testing:
    choose nothing by its accuracy that you report.

    The images do not fit into memory; ``num_workers`` processes read and augment them. Yet
    everything is as in the data modules that do: order and augmentation are a function of the seed
    and the epoch, on any number of worker processes; a run that resumes in the middle of an epoch
    sees the very batches that an uninterrupted run would have seen; and several processes evaluate
    each image exactly once. See :class:`BatchLoader` for all of this.

    Args:
        root: Folder that holds ``train`` and ``val``.
        batch_size: Images per step and process: with eight GPUs and 256, the network sees 2,048
            images per step.
        num_workers: How many worker processes read images for each training process. 0 reads them
            in the training process itself. If not given, the machine's cores are shared out among
            the training processes on it.
        image_size: Height and width of the images that the loaders yield, in pixels.
        resize: Length of an image's shorter side before evaluation takes the centre, in pixels.
        seed: Start of the random order and augmentation; use another one for each repetition.

    Attributes:
        num_classes: Number of class folders in ``train``; asking for it looks into ``root``.
        image_shape: Channels, height and width of the images that the loaders yield.

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
    ) -> None:
        super().__init__()
        check_counts(batch_size=batch_size, image_size=image_size, resize=resize)
        if resize < image_size:
            raise ValueError(f"resize must be at least image_size = {image_size}, got {resize}.")
        if num_workers is not None:
            check_counts(0, most=1000, num_workers=num_workers)
        self.root = root
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.image_size = image_size
        self.resize = resize
        self.seed = seed
        self.image_shape = (3, image_size, image_size)
        self._files: tuple[ClassFiles, ClassFiles] | None = None

    @property
    def num_classes(self) -> int:
        """Number of class folders in ``train``."""
        return len(class_names(self._train_folder, type(self).__name__, _LAYOUT))

    @override
    def setup(self, stage: str) -> None:
        """List the image files; does nothing the second time.

        Args:
            stage: What Lightning is about to do; makes no difference.

        Raises:
            FileNotFoundError: If folders are missing.
            RuntimeError: If a class has no image or ``train`` and ``val`` hold different classes.
        """
        if self._files is not None:
            return
        owner = type(self).__name__
        remedy = "complete the folder, or delete it in both 'train' and 'val'"
        train_folder, val_folder = self._train_folder, Path(self.root) / "val"
        train, val = (
            class_files(folder, owner, _LAYOUT, at_least=1, remedy=remedy)
            for folder in (train_folder, val_folder)
        )
        require_same_classes(train, val, owner, f"'{train_folder}' and '{val_folder}'")
        self._files = train, val

    @override
    def train_dataloader(self) -> FileLoader:
        """Return a loader of this process's share of the training images, in random order."""
        train, _ = self._listed()
        trainer = self.trainer
        loader = self._loader(
            train,
            RandomView(self.image_size),
            fit_trainer=trainer,
            # Overfitting a few batches on purpose needs the same ones in each epoch.
            shuffle=not getattr(trainer, "overfit_batches", 0),
        )
        return self._continued(loader)

    @override
    def val_dataloader(self) -> FileLoader:
        """Return a loader of the images in ``val``, class by class."""
        _, val = self._listed()
        view = CentreView(self.resize, self.image_size)
        return self._loader(val, view, fit_trainer=None, shuffle=False)

    @override
    def test_dataloader(self) -> FileLoader:
        """Return a loader of the images in ``val``; those of ImageNet's test set have no labels."""
        return self.val_dataloader()

    @override
    def predict_dataloader(self) -> FileLoader:
        """Return the test loader: on one process, predictions come in the order of the files."""
        return self.test_dataloader()

    def __str__(self) -> str:
        """Say what was found; Lightning's version expects torch's own data loaders."""
        if self._files is None:
            return f"{type(self).__name__} (not set up)"
        train, val = (sum(map(len, files.values())) for files in self._files)
        return (
            f"{type(self).__name__}: {train} training and {val} validation images of shape "
            f"{self.image_shape}"
        )

    @property
    def _train_folder(self) -> Path:
        return Path(self.root) / "train"

    def _listed(self) -> tuple[ClassFiles, ClassFiles]:
        if self._files is None:
            raise RuntimeError(f"Call {type(self).__name__}.setup() before asking for a loader.")
        return self._files

    def _loader(
        self, files: ClassFiles, view: View, *, fit_trainer: Trainer | None, shuffle: bool
    ) -> FileLoader:
        trainer = self.trainer
        num_workers = self.num_workers
        if num_workers is None:
            num_workers = suggested_max_num_workers(1 if trainer is None else trainer.num_devices)
        sizes = torch.tensor([len(paths) for paths in files.values()])
        return FileLoader(
            fit_trainer,
            list(chain.from_iterable(files.values())),
            torch.arange(len(files)).repeat_interleave(sizes),
            self.batch_size,
            view=view,
            num_workers=num_workers,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            normalizer=Normalizer(_MEAN, _STD),
            shuffle=shuffle,
            seed=self.seed,
            rank=0 if trainer is None else trainer.global_rank,
            world_size=1 if trainer is None else trainer.world_size,
        )
