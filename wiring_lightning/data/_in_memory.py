"""What all data modules share whose images fit into memory: splits, normalisation and loaders.

The file is private so that the command line does not offer its base class as a data set.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from wiring_lightning._checks import check_counts
from wiring_lightning.data._position import PositionedDataModule
from wiring_lightning.data.augment import CropFlip, Mirror
from wiring_lightning.data.loader import BatchLoader
from wiring_lightning.data.normalize import Normalization, Normalizer
from wiring_lightning.data.train_loader import TrainLoader

Split = tuple[Tensor, Tensor]
"""Images, bytes [N, C, H, W], and their labels, int64 [N], or their masks, bytes [N, H, W]."""


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


class InMemoryDataModule(PositionedDataModule, ABC):
    """Base of the data modules that read all images once and keep them in memory.

    A data set needs the two attributes below and one method, :meth:`read_splits`.

    Args:
        batch_size: Images per step and process.
        augment: Whether to apply ``crop_flip`` to the training images.
        normalization: How to centre the images after scaling them to [0, 1].
        seed: Start of the random order and augmentation; use another one for each repetition.
        drop_last: Whether to leave out a last training batch that is not full. Evaluation always
            uses every image.

    Attributes:
        image_shape: Channels, height and width of the images that the loaders yield.
        crop_flip: What ``augment`` turns on.

    Raises:
        ValueError: If ``batch_size`` is below 1.
    """

    crop_flip: ClassVar[CropFlip | Mirror]

    def __init__(
        self,
        batch_size: int,
        augment: bool,
        normalization: Normalization,
        seed: int,
        drop_last: bool,
    ) -> None:
        super().__init__()
        check_counts(batch_size=batch_size)
        self.batch_size = batch_size
        self.augment = augment
        self.normalization = normalization
        self.seed = seed
        self.drop_last = drop_last
        self._splits: _Splits | None = None

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that the loaders yield."""

    @abstractmethod
    def read_splits(self) -> tuple[Split, Split, Split]:
        """Read the training, validation and test images; those for validation may be none."""

    @override
    def setup(self, stage: str) -> None:
        """Read the images; does nothing the second time.

        Args:
            stage: What Lightning is about to do. All stages need the training images, since the
                normalisation is measured on them.

        Raises:
            ValueError: If ``normalization`` is unknown.
        """
        if self._splits is not None:
            return
        train, val, test = self.read_splits()
        normalizer = Normalizer.fit(train[0], self.normalization)
        self._splits = _Splits(train, val, test, normalizer)

    @override
    def train_dataloader(self) -> TrainLoader:
        """Return a loader of this process's share of the training images, in random order."""
        splits = self._placed()
        trainer = self.trainer
        loader = TrainLoader(
            trainer,
            *splits.train,
            self.batch_size,
            crop_flip=self.crop_flip if self.augment else None,
            # Overfitting a few batches on purpose needs the same ones in each epoch.
            shuffle=not getattr(trainer, "overfit_batches", 0),
            drop_last=self.drop_last,
            **self._common_options(),
        )
        return self._continued(loader)

    @override
    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Return a loader of the validation images, or no loader if there are none."""
        split = self._placed().val
        return self._evaluation_loader(split) if len(split[0]) else []

    @override
    def test_dataloader(self) -> BatchLoader:
        """Return a loader of the test images, in the data set's order."""
        return self._evaluation_loader(self._placed().test)

    @override
    def predict_dataloader(self) -> BatchLoader:
        """Return the test loader: on one process, predictions come in the test images' order."""
        return self.test_dataloader()

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
