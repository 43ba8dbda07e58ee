"""The batch loader of data sets that do not fit into memory: worker processes read the files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from wiring_lightning.data._read_image import ImageFileError, read_image
from wiring_lightning.data.loader import BatchLoader

Batch = tuple[Tensor, Tensor]
"""Images, float32 of shape [B, C, H, W], and labels, int64 of shape [B]."""

Sample = tuple[int, int]
"""Index of an image, and the seed of its augmentation."""


class FileLoader(BatchLoader):
    """Iterate over image files, one finished batch at a time, in the same order as BatchLoader.

    Order, shares of the processes and position are those of :class:`BatchLoader`. The augmentation
    of an image depends on the seed, the epoch and the image only, not on the number of worker
    processes or the batch.

    Each epoch starts its own torch ``DataLoader`` at the first batch. The position counts batches
    that were yielded, not those that workers have prepared in advance.

    Args:
        paths: The image files.
        labels: Class indices, int64 of shape [N].
        batch_size: Samples per batch of this process.
        transform: Makes the pixels of a sample, uint8 of shape [C, H, W], from an image. It may
            use torch's global generator, which is seeded for each image.
        num_workers: Number of processes that read files; 0 reads them in this process.
        pin_memory: Whether to put batches into pinned memory, for asynchronous copies to a GPU.
        options: The other keyword arguments of :class:`BatchLoader`.
    """

    def __init__(
        self,
        paths: list[str],
        labels: Tensor,
        batch_size: int,
        *,
        transform: Callable[[Image], Tensor],
        num_workers: int,
        pin_memory: bool,
        **options: Any,
    ) -> None:
        # `BatchLoader` needs the number of images, but not their pixels.
        no_pixels = torch.empty(len(paths), 0, 0, 0, dtype=torch.uint8)
        super().__init__(no_pixels, labels, batch_size, **options)
        self.files = _Files(paths, labels, transform, self.normalizer)
        self.num_workers = num_workers
        self.pin_memory = pin_memory

    @override
    def _load(self, start: int) -> Iterator[Batch]:
        loader = DataLoader(
            self.files,
            batch_size=None,  # one sample of `_Files` is a whole batch
            sampler=self._samples(start),
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            generator=torch.Generator(),  # otherwise it would draw from the global generator
        )
        for batch in loader:
            if isinstance(batch, ImageFileError):
                raise batch
            yield batch

    def _samples(self, start: int) -> Iterator[list[Sample]]:
        for index, (seeds,) in self._batches(start):
            yield list(zip(index.tolist(), seeds.tolist(), strict=True))

    @override
    def _draw_noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randint(2**32, (len(self.labels),), generator=generator),)


@dataclass(eq=False)
class _Files(Dataset[Batch | ImageFileError]):
    """The data set of the worker processes; one item is a whole batch."""

    paths: list[str]
    labels: Tensor
    transform: Callable[[Image], Tensor]
    normalizer: Callable[[Tensor], Tensor]

    def __getitem__(self, samples: list[Sample]) -> Batch | ImageFileError:
        """Return a batch, or an error.

        If a worker raises an error, torch replaces its message by the worker's traceback.
        """
        try:
            pixels = torch.stack([self._pixels(*sample) for sample in samples])
        except ImageFileError as error:
            return error
        return self.normalizer(pixels), self.labels[[index for index, _ in samples]]

    def _pixels(self, index: int, seed: int) -> Tensor:
        image = read_image(self.paths[index])
        # `torch.manual_seed` would also seed the generators of the GPUs, which are not restored.
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(seed)
            return self.transform(image)
