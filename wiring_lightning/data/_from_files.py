"""The base class of data sets on disk, whose images are normalised on the trainer's device."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from lightning.fabric.utilities.data import suggested_max_num_workers
from PIL.Image import Image
from torch import Tensor
from typing_extensions import override

from wiring_lightning.data._file_loader import FileLoader
from wiring_lightning.data._pinned import has_pinned_memory
from wiring_lightning.data._resumable import ResumableDataModule
from wiring_lightning.data.normalize import Normalizer


class FileDataModule(ResumableDataModule[list[str]]):
    """Base class of the data modules whose worker processes read files during training.

    Loaders yield bytes, which :meth:`on_after_batch_transfer` normalises where the batch then is.
    Worker processes live until the end of a fit, a validation, a test or a prediction.

    Args:
        batch_size: Images per step and process.
        num_workers: Number of worker processes for each training process. 0 reads images in the
            training process itself. By default the machine's cores are divided among its training
            processes.
        normalizer: Maps the loaders' images to the network's.
        seed: Seed of the random order and augmentation.
        drop_last: Whether to leave out a last training batch that is not full.

    Attributes:
        normalizer: For images of a loader that you iterate over yourself.
    """

    def __init__(
        self,
        batch_size: int,
        num_workers: int | None,
        normalizer: Normalizer,
        seed: int,
        drop_last: bool,
    ) -> None:
        super().__init__(batch_size, seed, drop_last)
        self.num_workers = num_workers
        self.normalizer = normalizer
        # Weak references: a loader that the trainer has dropped shall end its processes.
        self._loaders: WeakSet[FileLoader] = WeakSet()

    @abstractmethod
    def transform(self, train: bool) -> Callable[[Image], Tensor]:
        """Return what makes the pixels of a sample, uint8 of :attr:`image_shape`, from an image."""

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalise the images of a batch on the device that it was moved to.

        Lightning asks the data module only, and warns if the LightningModule has a method of this
        name too. That method is called here, with the normalised batch.

        Args:
            batch: Images and labels. Only bytes are normalised; anything else stays as it is.
            dataloader_idx: Index of the loader.

        Returns:
            The batch with images as float32 of the same shape, or in the trainer's true precision.
        """
        trainer = self.trainer
        match batch:
            case [Tensor(dtype=torch.uint8) as images, labels]:
                batch = self.normalizer(images), labels
                if trainer is not None:
                    # Lightning has converted the batch already, but could not convert bytes.
                    batch = trainer.precision_plugin.convert_input(batch)
        if trainer is None:
            return batch
        return trainer.lightning_module.on_after_batch_transfer(batch, dataloader_idx)

    @override
    def teardown(self, stage: str) -> None:
        """End the worker processes.

        Args:
            stage: Lightning's stage; not used.
        """
        self._close_loaders()

    @override
    def on_exception(self, exception: BaseException) -> None:
        """End the worker processes; Lightning does not call :meth:`teardown` after an error."""
        self._close_loaders()

    def _close_loaders(self) -> None:
        for loader in self._loaders:
            loader.close()

    @override
    def _loader(self, images: list[str], labels: Tensor, train: bool, **options: Any) -> FileLoader:
        trainer = self.trainer
        num_workers = self.num_workers
        if num_workers is None:
            num_workers = suggested_max_num_workers(1 if trainer is None else trainer.num_devices)
        pin_memory = trainer is not None and has_pinned_memory(trainer.strategy.root_device)
        loader = FileLoader(
            images,
            labels,
            self.batch_size,
            transform=self.transform(train),
            num_workers=num_workers,
            pin_memory=pin_memory,
            **options,
        )
        self._loaders.add(loader)
        return loader
