"""What all image data modules share: splits, normalisation, augmentation and loaders."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from typing_extensions import override

from wiring_lightning.data.augment import CropFlip
from wiring_lightning.data.loader import BatchLoader
from wiring_lightning.data.normalize import Normalization, Normalizer
from wiring_lightning.data.train_loader import TrainLoader

Split = tuple[Tensor, Tensor]
"""Images, bytes of shape [N, C, H, W], and their labels, int64 of shape [N]."""


@dataclass(frozen=True, eq=False)
class _Splits:
    """A data set that was read, with the statistics of its training images."""

    train: Split
    val: Split
    test: Split
    normalizer: Normalizer

    def to(self, device: torch.device) -> "_Splits":
        """Return the same splits on ``device``; nothing is copied if they are there already."""

        def move(split: Split) -> Split:
            return split[0].to(device), split[1].to(device)

        return _Splits(
            move(self.train), move(self.val), move(self.test), self.normalizer.to(device)
        )


class ImageDataModule(LightningDataModule, ABC):
    """Base of the data modules: labelled images that fit into memory.

    A data set needs three class attributes and one method, :meth:`read`. The images are read
    once, and moved once to the GPU if the trainer uses one, so no worker processes are needed.
    Loaders yield ``(images, labels)`` with images as float32 [B, C, H, W], normalised, and in
    training augmented. A run that resumes in the middle of an epoch sees the very batches that an
    uninterrupted run would have seen; see :class:`BatchLoader` for that and for several processes.

    Args:
        batch_size: Images per step and process: with four GPUs and 128, the network sees 512
            images per step.
        val_size: How many training images to set aside for validation, always the last ones of
            the training set. 0 trains on all of them and turns validation off.
        augment: Whether to shift and mirror the training images at random.
        normalization: How to centre the images after scaling them to [0, 1]. 'pixel_mean'
            subtracts the mean training image; 'channel_mean_std' subtracts each channel's mean
            and divides by its standard deviation. Both are measured on the training split only.
        seed: Start of the random order and augmentation; use another one for each repetition.
        drop_last: Whether to leave out a last training batch that is not full. Evaluation always
            uses every image.

    Attributes:
        num_classes: Number of classes.
        image_shape: Channels, height and width of the images that the loaders yield.
        crop_flip: What ``augment`` turns on.

    Raises:
        ValueError: If ``batch_size`` is below 1 or ``val_size`` negative; in :meth:`setup`, if
            ``val_size`` leaves no training image or ``normalization`` is unknown.

    Example:
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

    def __init__(
        self,
        batch_size: int = 128,
        val_size: int = 5000,
        augment: bool = True,
        normalization: Normalization = "pixel_mean",
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if val_size < 0:
            raise ValueError(f"val_size must be at least 0, got {val_size}.")
        self.batch_size = batch_size
        self.val_size = val_size
        self.augment = augment
        self.normalization = normalization
        self.seed = seed
        self.drop_last = drop_last
        self._splits: _Splits | None = None
        self._train_loader: TrainLoader | None = None
        self._resume_state: dict[str, Any] = {}

    @abstractmethod
    def read(self, train: bool) -> Split:
        """Read the whole data set from disk.

        Args:
            train: Whether to read the training images, those for validation included, or the test
                images. Must return the same images in the same order each time.

        Returns:
            Images, uint8 of shape [N, *image_shape], and labels, int64 of shape [N].
        """

    @override
    def setup(self, stage: str) -> None:
        """Read the images and split them; does nothing the second time.

        Args:
            stage: What Lightning is about to do. All stages need the training images, since the
                normalisation is measured on them.

        Raises:
            ValueError: If ``val_size`` leaves no training image.
        """
        if self._splits is not None:
            return
        images, labels = self.read(train=True)
        size = len(images) - self.val_size
        if size < 1:
            raise ValueError(
                f"val_size must be smaller than the {len(images)} training images, "
                f"got {self.val_size}."
            )
        self._splits = _Splits(
            train=(images[:size], labels[:size]),
            val=(images[size:], labels[size:]),
            test=self.read(train=False),
            normalizer=Normalizer.fit(images[:size], self.normalization),
        )

    @override
    def train_dataloader(self) -> TrainLoader:
        """Return a loader of this process's share of the training images, in random order."""
        splits = self._placed()
        trainer = self.trainer
        self._train_loader = TrainLoader(
            trainer,
            *splits.train,
            self.batch_size,
            crop_flip=self.crop_flip if self.augment else None,
            # Overfitting a few batches on purpose needs the same ones in each epoch.
            shuffle=not getattr(trainer, "overfit_batches", 0),
            drop_last=self.drop_last,
            **self._common_options(),
        )
        if self._resume_state:
            self._train_loader.load_state_dict(self._resume_state)
            self._resume_state = {}
        return self._train_loader

    @override
    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Return a loader of the validation images, or no loader if ``val_size`` is 0."""
        splits = self._placed()
        return self._evaluation_loader(splits.val) if self.val_size else []

    @override
    def test_dataloader(self) -> BatchLoader:
        """Return a loader of the test images, in the data set's order."""
        return self._evaluation_loader(self._placed().test)

    @override
    def predict_dataloader(self) -> BatchLoader:
        """Return the test loader: on one process, predictions come in the test images' order."""
        return self.test_dataloader()

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training images, for the checkpoint."""
        return {} if self._train_loader is None else self._train_loader.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue training from a position.

        Lightning hands a stateful loader its state as well, but not if ``configure_optimizers``
        asked for ``trainer.estimated_stepping_batches``: the loader then exists before the
        checkpoint's loader states are known, and they are dropped without a word
        (Lightning-AI/pytorch-lightning#20550). The state of a data module always arrives.

        Args:
            state_dict: What :meth:`state_dict` returned.
        """
        if self.trainer is not None and not self.trainer.training:
            return
        self._resume_state = state_dict
        if self._train_loader is not None:
            self._train_loader.load_state_dict(state_dict)

    def __str__(self) -> str:
        """Say what was loaded; Lightning's version expects torch's own data loaders."""
        if self._splits is None:
            return f"{type(self).__name__} (not set up)"
        splits = self._splits
        return (
            f"{type(self).__name__}: {len(splits.train[0])} training, {len(splits.val[0])} "
            f"validation and {len(splits.test[0])} test images of shape {self.image_shape}"
        )

    def _placed(self) -> _Splits:
        """Return the splits on the device where their batches are needed."""
        if self._splits is None:
            raise RuntimeError(f"Call {type(self).__name__}.setup() before asking for a loader.")
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            if device.type == "cuda":
                self._splits = self._splits.to(device)
        return self._splits

    def _evaluation_loader(self, split: Split) -> BatchLoader:
        return BatchLoader(*split, self.batch_size, **self._common_options())

    def _common_options(self) -> dict[str, Any]:
        trainer = self.trainer
        return {
            "normalizer": self._placed().normalizer,
            "seed": self.seed,
            "rank": 0 if trainer is None else trainer.global_rank,
            "world_size": 1 if trainer is None else trainer.world_size,
        }
