"""mini-ImageNet: small photographs in 100 classes, read from one folder per class."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image, Resampling
from torch import Tensor
from typing_extensions import override

from wiring_lightning._checks import check_counts
from wiring_lightning.data._class_folders import ClassFiles, ClassFolders, split_folders
from wiring_lightning.data._picture_sources import Found, names_below
from wiring_lightning.data._read_image import pixels, read_image
from wiring_lightning.data._stratified import Picture
from wiring_lightning.data.augment import CropFlip
from wiring_lightning.data.base import ImageDataModule
from wiring_lightning.data.image_folder import ImageFolder
from wiring_lightning.data.in_memory import Split

_STORED_SIZE = 84
_WINDOW_SIZE = 64
_LAYOUT = "the folder that holds one folder of images per class, or 'train' and 'test'"
_REMEDY = "complete it, or lower train_per_class or test_per_class"


class MiniImageNet(ImageDataModule):
    """mini-ImageNet (Vinyals et al.): 100 classes of 600 colour photographs, as [3, 64, 64].

    The connectivity-learning papers train on 500 images of each class and test on the other 100.
    ``root`` has one folder of image files per class. Of a class's files, sorted by name, the first
    ``train_per_class`` are for training and the next ``test_per_class`` for testing. If ``root``
    has the folders ``train`` and ``test`` (or ``val``) instead, with the class folders inside, each
    set is the first files of its own folder.

    Images of another size are resized to 84x84. Training crops a window of 64x64 at random and
    mirrors half of them; evaluation, and training without ``augment``, crop the centre. The classes
    are interleaved, so that the last ``val_size`` training images have them in equal shares.

    All images are read at the start and stay in memory, on the trainer's device: 1.27 GB
    for the whole data set.

    Args:
        root: Folder that holds the class folders, or ``train`` and ``test``.
        batch_size: Images per step and process: with four GPUs and 256, the network sees 1,024
            images per step.
        train_per_class: Number of training images of each class.
        test_per_class: Number of test images of each class.
        val_size: Number of training images to set aside for validation, always the last ones of
            the training set. 0 trains on all of them, as the papers do, and turns validation off.
        options: The other arguments of :class:`InMemoryDataModule`.

    Attributes:
        num_classes: Number of class folders, counted at each access.

    Raises:
        ValueError: If a size is out of range.
        FileNotFoundError: In :meth:`setup`, if folders are missing.
        RuntimeError: In :meth:`setup`, if a class has too few images, the classes of ``train`` and
            ``test`` differ, or an image is damaged.

    Example:
        >>> data = MiniImageNet(root="data/mini-imagenet", val_size=5000)
        >>> data.image_shape
        (3, 64, 64)
    """

    image_shape: ClassVar[tuple[int, int, int]] = (3, _WINDOW_SIZE, _WINDOW_SIZE)
    crop_flip: ClassVar[CropFlip] = CropFlip(padding=0, margin=(_STORED_SIZE - _WINDOW_SIZE) // 2)

    def __init__(
        self,
        root: str = "data/mini-imagenet",
        batch_size: int = 256,
        train_per_class: int = 500,
        test_per_class: int = 100,
        val_size: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(batch_size, val_size, **options)
        check_counts(train_per_class=train_per_class, test_per_class=test_per_class)
        self.root = root
        self.train_per_class = train_per_class
        self.test_per_class = test_per_class

    @cached_property
    def _files(self) -> "_FirstOfEachClass":
        finder = ClassFolders(type(self).__name__, _LAYOUT, _REMEDY)
        return _FirstOfEachClass(self.root, finder, self.train_per_class, self.test_per_class)

    @property
    def class_names(self) -> list[str]:
        """Names of the class folders in ``root``, or in its folder ``train``, sorted."""
        return self._files.folder_names()

    @property
    def num_classes(self) -> int:  # type: ignore[override]  # known only when the folder is there
        """Number of class folders in ``root``, or in its folder ``train``."""
        return len(self.class_names)

    @property
    def predict_names(self) -> list[str]:
        """Names of the test images, their paths below ``root``."""
        self._files.setup("test")
        return self._files.predict_names

    @property
    def predict_labels(self) -> list[str] | None:
        """Names of the classes of the test images."""
        self._files.setup("test")
        return self._files.predict_labels

    @override
    def read(self, train: bool) -> Split:
        """Read the training or the test images, with the classes interleaved.

        Returns:
            Images, uint8 of shape [N, 3, 84, 84], and labels, int64 of shape [N]: the index of
            the class in the sorted names of the class folders.
        """
        return self._files.read(train)

    @override
    def _augmentation(self, train: bool) -> CropFlip:
        return self.crop_flip if train and self.augment else self.crop_flip.centred()


class _FirstOfEachClass(ImageFolder):
    """The first pictures of each class, with the classes interleaved, as 84x84 pixels."""

    def __init__(
        self, root: str, finder: ClassFolders, train_per_class: int, test_per_class: int
    ) -> None:
        super().__init__(root, image_size=_STORED_SIZE, resize=_STORED_SIZE)
        self.finder = finder
        self.train_per_class = train_per_class
        self.test_per_class = test_per_class

    def read(self, train: bool) -> Split:
        """Read all pictures of a split."""
        # Both splits are found first, so that an error in the test set is reported at once.
        self.setup("fit")
        paths, labels = self._ready()[0 if train else -1]
        stored = self.transform(train)
        images = torch.empty(
            len(paths), 3, _STORED_SIZE, _STORED_SIZE, dtype=torch.uint8, device="cpu"
        )
        for index, path in enumerate(paths):
            images[index] = stored(read_image(path))
        return images, labels

    @override
    def transform(self, train: bool) -> Callable[[Image], Tensor]:
        """Return what resizes a picture; the crops are cut from the images in memory."""
        size = _STORED_SIZE, _STORED_SIZE
        return lambda image: pixels(image.resize(size, Resampling.BILINEAR))

    @override
    def find_pictures(self) -> Found:
        """List the pictures of each class that are for training and for test."""
        train_size, test_size = self.train_per_class, self.test_per_class
        folders = self._split_folders()
        if folders is None:
            train = self.finder.files(self.folder, train_size + test_size)
            test = {name: paths[train_size:] for name, paths in train.items()}
        else:
            train, test = self.finder.splits((folders[0], train_size), (folders[1], test_size))
        # Of two splits, an `ImageFolder` tests on `val`, and draws nothing.
        splits = {
            "train": self._in_turns(train, train_size),
            "val": self._in_turns(test, test_size),
        }
        return Found(list(train), splits)

    def folder_names(self) -> list[str]:
        """Names of the classes, whether or not they have enough pictures."""
        train_folder, _ = self._split_folders() or (self.folder, None)
        return list(self.finder.paths(train_folder))

    def _in_turns(self, files: ClassFiles, per_class: int) -> list[Picture]:
        """The first pictures of each class, one of each class after the other."""
        paths = (paths[position] for position in range(per_class) for paths in files.values())
        return list(zip(names_below(self.folder, paths), [*files] * per_class, strict=True))

    def _split_folders(self) -> tuple[Path, Path] | None:
        """Return the folders of the training and the test classes, if the sets are apart."""
        found = split_folders(self.folder)
        if not found:
            return None
        other = found.get("test") or found.get("val")
        if "train" in found and other:
            return found["train"], other
        there, missing = (
            ("train", "'test' or 'val'") if "train" in found else (min(found), "'train'")
        )
        raise FileNotFoundError(
            f"{self.finder.owner}: '{self.root}' holds class folders in '{there}', but none in "
            f"{missing} beside it; add that folder, or point root (--data.root) at {_LAYOUT}."
        )
