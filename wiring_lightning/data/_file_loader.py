"""The batch loader of data sets that do not fit into memory: worker processes read the files."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from wiring_lightning.data._image_folders import DamagedImageError, read_image
from wiring_lightning.data._views import View
from wiring_lightning.data.train_loader import TrainLoader

Batch = tuple[Tensor, Tensor]
"""Images, float32 of shape [B, C, H, W], and labels, int64 of shape [B]."""

Sample = tuple[int, ...]
"""Index of an image, then the random numbers of its view."""


class FileLoader(TrainLoader):
    """Iterate over image files, one finished batch at a time, in the same order as a TrainLoader.

    Order, shares of the processes, augmentation and position are those of :class:`BatchLoader`;
    only where the pixels come from differs. What an image looks like depends on the seed, the
    epoch and the image, not on the number of worker processes or the batch it is in.

    Each epoch starts its own torch ``DataLoader`` at the first batch. The position counts batches
    that were handed out, not those that workers have prepared in advance.

    Args:
        trainer: The trainer that iterates over the loader, or None to be a plain loader.
        paths: The image files.
        labels: Class indices, int64 of shape [N].
        batch_size: Samples per batch of this process.
        view: Makes the pixels of a sample from an image; takes the place of ``crop_flip``.
        num_workers: How many processes read files; 0 reads them in this process.
        pin_memory: Whether to put batches where a GPU can fetch them in the background.
        options: The keyword arguments of :class:`BatchLoader`.
    """

    def __init__(
        self,
        trainer: Trainer | None,
        paths: list[str],
        labels: Tensor,
        batch_size: int,
        *,
        view: View,
        num_workers: int,
        pin_memory: bool,
        **options: Any,
    ) -> None:
        # Order and position need the number of images, not their pixels.
        no_pixels = torch.empty(len(paths), 0, 0, 0, dtype=torch.uint8)
        super().__init__(trainer, no_pixels, labels, batch_size, crop_flip=view, **options)
        self.files = _Files(paths, labels, view, self.normalizer)
        self.num_workers = num_workers
        self.pin_memory = pin_memory

    @override
    def __iter__(self) -> Iterator[Batch]:
        """Yield ``(images, labels)``, float32 [B, C, H, W] and int64 [B]."""
        start, self._start = self._start, 0
        loader = DataLoader(
            self.files,
            batch_size=None,  # one sample of `_Files` is a whole batch
            sampler=self._batches(start),
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            generator=torch.Generator(),  # or it would take a number from the global one
        )
        for position, batch in enumerate(loader, start):
            if isinstance(batch, DamagedImageError):
                raise batch
            self._handed_out = position + 1
            yield batch

    def _batches(self, start: int) -> Iterator[list[Sample]]:
        """Yield what belongs into each batch of this process, from batch ``start`` on."""
        order, noise = self._draw_epoch(self._epoch)
        shard = order[self.rank :: self.world_size]
        for first, end in list(pairwise(self._edges(len(shard))))[start:]:
            index = shard[first:end]
            columns = [index, *(values[index] for values in noise)]
            yield list(zip(*(column.tolist() for column in columns), strict=True))


class _Files(Dataset[Batch | DamagedImageError]):
    """What runs in the worker processes: reads the images of one batch."""

    def __init__(
        self,
        paths: list[str],
        labels: Tensor,
        view: View,
        normalizer: Callable[[Tensor], Tensor],
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.view = view
        self.normalizer = normalizer

    def __getitem__(self, samples: list[Sample]) -> Batch | DamagedImageError:
        """Return a batch, or what is wrong with a file.

        An error that is raised in a worker arrives with that worker's traceback as its text.
        """
        try:
            pixels = [self.view(read_image(self.paths[index]), *noise) for index, *noise in samples]
        except DamagedImageError as error:
            return error
        labels = self.labels[[index for index, *_ in samples]]
        return self.normalizer(torch.stack(pixels)), labels
