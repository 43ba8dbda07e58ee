"""Pictures of one's own, in folders by class or in a table, read from disk during training."""

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL.Image import Image
from torch import Tensor
from typing_extensions import override

from wiring_lightning._checks import check_counts, check_number, check_seed, listed
from wiring_lightning.data import _picture_sources as sources
from wiring_lightning.data._centre import CentreOfThin
from wiring_lightning.data._class_folders import ClassFolders, split_folders
from wiring_lightning.data._find_files import given, subfolders
from wiring_lightning.data._from_files import FileDataModule
from wiring_lightning.data._picture_sources import Found
from wiring_lightning.data._picture_table import find_below, read_table, write_table
from wiring_lightning.data._resumable import warn_of_kept_split
from wiring_lightning.data._stratified import names_in
from wiring_lightning.data.loader import BatchLoader
from wiring_lightning.data.normalize import Normalizer
from wiring_lightning.files import is_remote, write_new_file

# The usual statistics of ImageNet's training images in [0, 1], and their means over the colours.
_COLOR = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_GREY = (0.449,), (0.226,)
_LAYOUT = "the folder that holds one folder of images per class, or 'train' and 'val' or 'test'"
_SPLIT_FILE = "split.csv"


class ImageFolder(FileDataModule):
    """Pictures of your own, of any size, in one folder per class or in a table.

    ``root`` holds one folder of image files per class, whose names are those of the classes. Or it
    holds the folders ``train`` (or ``training``), ``val`` (``valid``, ``validation``) and ``test``
    (``testing``), with the class folders inside; capitals make no difference. Or a table names the
    pictures, see below. A warning counts the pictures of kinds that Pillow does not read, such as
    HEIC.

    **Splits.** What is not there is set aside from the training pictures: ``val_share`` and
    ``test_share`` of every class, at least one picture. The draw depends on ``split_seed`` and the
    names of the pictures only. With ``train`` and ``val`` alone nothing is drawn, and ``val`` is
    for testing, too; so it is if ``test_share`` is 0. A split that was drawn is written to
    ``split.csv`` in the folder of the run, and is part of the checkpoint: a run that resumes or
    tests from that checkpoint has the same split, also if there are more pictures now. To train
    another network on the same split, name that file as ``table``.

    **Table.** A CSV file whose first line names the columns ``path`` and ``label``, and perhaps
    ``split`` (train, val or test). Paths begin at ``root``.

    **What the network sees.** Training crops a random part of each picture, resizes it to
    ``image_size`` in both directions and mirrors half of them. Evaluation resizes the shorter side
    to ``resize`` and crops the centre. What is transparent is white. Loaders yield ``(images,
    labels)`` with images as bytes, uint8 [B, C, image_size, image_size]; the data module normalises
    them on the trainer's device by ImageNet's means and deviations. In a loop of your own, call
    ``data.normalizer(images)``.

    **Prediction.** ``wiring predict`` takes the pictures in ``predict_root`` and in the folders
    below it, sorted by name. They need no labels, and ``root`` need not be there: the checkpoint
    knows the names of the classes. Without ``predict_root`` it takes the pictures in ``root`` if
    that has no class folders, and the test pictures if it has. ``callbacks.PredictionWriter``
    describes the table that it writes.

    Args:
        root: Folder of the pictures.
        batch_size: Images per step and process: with four GPUs and 64, the network sees 256 images
            per step.
        image_size: Height and width of the images that the loaders yield, in pixels.
        resize: Length of a picture's shorter side before evaluation takes the centre, in pixels.
            By default 8/7 of ``image_size``, such as 256 for 224.
        grey: Whether the network sees one channel of grey levels instead of three colours.
        table: A CSV file that names the pictures, instead of class folders.
        class_names: The names of the classes, in the order of the network's outputs. By default
            those that are found, sorted.
        val_share: Share of every class to set aside for validation. 0 turns validation off.
        test_share: Share of every class to set aside for testing.
        split_seed: Seed of the split.
        predict_root: Folder of pictures to predict, or one picture.
        augment: Whether training crops and mirrors at random; otherwise it sees what evaluation
            does.
        min_area: Smallest share of a picture's area that a random crop keeps.
        num_workers: Number of worker processes for each training process. 0 reads images in the
            training process itself. By default the machine's cores are divided among its training
            processes.
        seed: Seed of the random order and augmentation; use another one for each repetition. The
            split does not depend on it.
        drop_last: Whether to leave out a last training batch that is not full. Evaluation always
            uses every image.

    Attributes:
        normalizer: Maps the loaders' bytes to the network's images.

    Raises:
        ValueError: If a number is out of range.
        FileNotFoundError: In :meth:`setup`, if folders, the table or a picture in it are missing.
        RuntimeError: In :meth:`setup`, if there are fewer than two classes, a class has too few
            pictures, the splits hold different classes or the table is wrong; during iteration, if
            a picture is damaged.

    Example:
        >>> data = ImageFolder("data/flowers", image_size=96, grey=True)
        >>> data.image_shape, data.resize
        ((1, 96, 96), 110)
    """

    def __init__(
        self,
        root: str = "data/images",
        batch_size: int = 64,
        image_size: int = 224,
        resize: int | None = None,
        grey: bool = False,
        table: str | None = None,
        class_names: list[str] | None = None,
        val_share: float = 0.1,
        test_share: float = 0.1,
        split_seed: int = 0,
        predict_root: str | None = None,
        augment: bool = True,
        min_area: float = 0.08,
        num_workers: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        mean, std = (
            torch.tensor(values, device="cpu").view(-1, 1, 1)
            for values in (_GREY if grey else _COLOR)
        )
        super().__init__(batch_size, num_workers, Normalizer(mean, std), seed, drop_last)
        check_counts(image_size=image_size)
        self.resize = round(image_size * 8 / 7) if resize is None else resize
        check_counts(resize=self.resize)
        if self.resize < image_size:
            raise ValueError(f"resize must be at least image_size = {image_size}, got {resize}.")
        if num_workers is not None:
            check_counts(0, most=1000, num_workers=num_workers)
        check_number("val_share", val_share, below=1)
        check_number("test_share", test_share, below=1)
        if val_share + test_share >= 1:
            raise ValueError(
                f"val_share {val_share} and test_share {test_share} leave nothing for training; "
                "their sum must be below 1."
            )
        check_number("min_area", min_area, above=0)
        if min_area > 1:
            raise ValueError(f"min_area must be at most 1, got {min_area}.")
        if class_names is not None and not 2 <= len(set(class_names)) == len(class_names):
            raise ValueError(f"class_names must hold two different names or more: {class_names}.")
        self.root = root
        self.image_size = image_size
        self.grey = grey
        self.table = table
        self.shares = {"val": val_share, "test": test_share}
        check_seed(split_seed, "split_seed")
        self.split_seed = split_seed
        self.predict_root = predict_root
        self.augment = augment
        self.min_area = min_area
        self._asked_names = class_names
        self._saved_names: list[str] | None = None
        self._found: Found | None = None
        self._predicted: tuple[list[str], Tensor] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that the loaders yield."""
        return 1 if self.grey else 3, self.image_size, self.image_size

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, in the order of the network's outputs.

        Those of the pictures, of the argument ``class_names``, or of the checkpoint that was
        loaded; None before there are any, or after :meth:`setup` for pictures without labels.
        """
        if self._found is not None:
            return self._found.class_names
        return self._asked_names or self._saved_names

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None as long as their names are not known."""
        return None if self.class_names is None else len(self.class_names)

    @property
    def predict_names(self) -> list[str]:
        """Names of the pictures of :meth:`predict_dataloader`, their paths below the folder."""
        if self._predicted is not None:
            folder = self.folder if self.predict_root is None else given(self.predict_root)
            folder = folder.parent if folder.is_file() else folder
            return sources.names_below(folder, self._predicted[0])
        return sources.names_below(self.folder, self._ready()[-1][0])

    @property
    def predict_labels(self) -> list[str] | None:
        """Names of the true classes of these pictures; None if they have no labels."""
        if self._predicted is not None or self.class_names is None:
            return None
        return [self.class_names[label] for label in self._ready()[-1][1].tolist()]

    @override
    def setup(self, stage: str) -> None:
        """Find the labelled pictures, once, or for each prediction those without labels.

        Args:
            stage: Lightning's stage: ``predict`` needs no labelled pictures.
        """
        if stage == "predict":
            folder = self._picture_folder()
            self._predicted = None if folder is None else sources.without_labels(folder)
        if stage != "predict" or self._predicted is None:
            super().setup(stage)

    @override
    def read_splits(self) -> tuple[tuple[list[str], Tensor], ...]:
        """List the pictures of each split, with their classes."""
        found = self.find_pictures()
        if self._asked_names is not None:
            found = sources.in_order(found, self._asked_names, "class_names (--data.class_names)")
        self._found = sources.with_all_splits(found, self.shares, self.split_seed)
        return sources.tensors(self._found, self.folder)

    def find_pictures(self) -> Found:
        """Return the labelled pictures, in the splits that folders or the table name."""
        root, owner = self.folder, type(self).__name__
        if self.table is not None:
            return sources.in_table(root, given(self.table), owner)
        return sources.in_folders(root, ClassFolders(owner, _LAYOUT, "add images, or remove it"))

    @override
    def transform(self, train: bool) -> Callable[[Image], Tensor]:
        """Return the random crop of training, or the centre of an image for evaluation."""
        # Imported here, because importing torchvision takes about a second.
        from torchvision import transforms

        steps: Sequence[Callable[[Any], Any]]
        if train and self.augment:
            scale = (self.min_area, 1.0)
            steps = [
                transforms.RandomResizedCrop(self.image_size, scale),
                transforms.RandomHorizontalFlip(),
            ]
        else:
            steps = [
                CentreOfThin(self.resize, self.image_size),
                transforms.Resize(self.resize),
                transforms.CenterCrop(self.image_size),
            ]
        grey = [transforms.Grayscale()] if self.grey else []
        return transforms.Compose([*grey, *steps, transforms.PILToTensor()])

    @override
    def train_dataloader(self) -> BatchLoader:
        """Return a loader of the training pictures, and write down a split that was drawn."""
        loader = super().train_dataloader()
        self._write_split()
        return loader

    @override
    def predict_dataloader(self) -> BatchLoader:
        """Return a loader of the pictures to predict, in the order of :attr:`predict_names`.

        Pictures without labels have the label -1. Of R processes, process r has the pictures r,
        r + R, r + 2R, ...
        """
        if self._predicted is None:
            return self.test_dataloader()
        return self._share_of(*self._predicted, train=False)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the position, the names of the classes, and the split if it was drawn."""
        state = super().state_dict()
        if self.class_names is not None:
            state["class_names"] = list(self.class_names)
        return state

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the names of the classes and the split, and continue from the position."""
        state = dict(state_dict)
        if (names := state.pop("class_names", None)) is not None:
            self._take_names(names)
        super().load_state_dict(state)

    def __str__(self) -> str:
        """Describe what was found."""
        if self._predicted is None:
            return super().__str__()
        count = len(self._predicted[0])
        return f"{type(self).__name__}: {count} images of shape {self.image_shape} to predict"

    @property
    def folder(self) -> Path:
        """The folder ``root``, with its name in the Unicode form that it has on disk."""
        return given(self.root)

    def _take_names(self, names: list[str]) -> None:
        """Keep the names of a checkpoint's classes; an error if those of the data differ."""
        own = self.class_names
        if own is not None and own != names:
            different = next((name for name in own if name not in names), None)
            what = "another order" if different is None else f"'{different}'"
            if len(own) < len(names) and different is None:
                what = f"no '{next(name for name in names if name not in own)}'"
            raise RuntimeError(
                f"The classes of the checkpoint are {listed(names)}, those of the data have "
                f"{what}: give the data the same classes; pictures without labels are named by "
                "predict_root (--data.predict_root)."
            )
        self._saved_names = names

    @override
    def _drawn_split(self) -> str | None:
        found = self._found
        return write_table(found.splits) if found is not None and found.drawn else None

    @override
    def _keep_split(self, text: str) -> None:
        found = self._found
        if found is None or not found.drawn:
            return
        kept, _ = read_table(text, "The split of the checkpoint", find_below(self.folder))
        now = dict(chain.from_iterable(found.splits.values()))
        # Labels may have been corrected since.
        splits = {
            split: [(name, now.get(name, label)) for name, label in pictures]
            for split, pictures in sources.without_empty_test(kept).items()
        }
        if splits == found.splits:
            return
        if names_in(splits) != names_in(found.splits):
            known = set().union(*names_in(splits).values())
            warn_of_kept_split(self.root, len(now.keys() - known))
        self._found = found._replace(splits=splits)
        self._splits = sources.tensors(self._found, self.folder)

    def _write_split(self) -> None:
        """Write a split that was drawn into the folder of the run, unless it is there."""
        trainer, split = self.trainer, self._drawn_split()
        if trainer is None or split is None:
            return
        if getattr(trainer, "fast_dev_run", False):  # which leaves no files
            return
        folder = trainer.log_dir  # all ranks take part in log_dir
        is_of_this_run = isinstance(trainer.logger, TensorBoardLogger | CSVLogger)
        # The command line's trainer has a `folder` for a run whose logger has none.
        if not is_of_this_run and getattr(trainer, "folder", None) is None:
            return  # other runs write there, too
        if not trainer.is_global_zero or folder is None or is_remote(folder):
            return
        path = Path(folder) / _SPLIT_FILE
        content = split.encode("utf-8", "surrogateescape")
        if not path.is_file() or path.read_bytes() != content:
            write_new_file(path, content)

    def _picture_folder(self) -> Path | None:
        """The folder of the pictures without labels, or one picture, if there is one."""
        if self.predict_root is not None:
            folder = given(self.predict_root)
            if not folder.exists():
                raise FileNotFoundError(
                    f"There is no folder '{folder}': name the folder of the pictures to predict "
                    "(--data.predict_root)."
                )
            return folder
        root = self.folder
        if self.table is not None or not root.is_dir() or split_folders(root):
            return None
        return root if len(subfolders(root)) < 2 else None
