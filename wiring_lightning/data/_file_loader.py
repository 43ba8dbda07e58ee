"""The batch loader of data sets that do not fit into memory: worker processes read the files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from wiring_lightning.data._image_files import DamagedImageError, read_image
from wiring_lightning.data.loader import BatchLoader

Batch = tuple[Tensor, Tensor]
"""Images, float32 of shape [B, C, H, W], and labels, int64 of shape [B]."""

Sample = tuple[int, int]
"""Index of an image, and the seed of its augmentation."""


class FileLoader(BatchLoader):
    """Iterate over image files, one finished batch at a time, in the same order as BatchLoader.

    Order, shares of the processes and position are those of :class:`BatchLoader`; only where the
    pixels come from differs. What an image looks like depends on the seed, the epoch and the image,
    not on the number of worker processes or the batch it is in.

    Each epoch starts its own torch ``DataLoader`` at the first batch. The position counts batches
    that were handed out, not those that workers have prepared in advance.

    Args:
        paths: The image files.
        labels: Class indices, int64 of shape [N].
        batch_size: Samples per batch of this process.
        transform: Makes the pixels of a sample, uint8 of shape [C, H, W], from an image. It may
            draw from torch's global generator, which is seeded anew for each image.
        num_workers: How many processes read files; 0 reads them in this process.
        pin_memory: Whether to put batches where a GPU can fetch them in the background.
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
        # Order and position need the number of images, not their pixels.
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
            generator=torch.Generator(),  # or it would take a number from the global one
        )
        for batch in loader:
            if isinstance(batch, DamagedImageError):
                raise batch
            yield batch

    def _samples(self, start: int) -> Iterator[list[Sample]]:
        for index, (seeds,) in self._batches(start):
            yield list(zip(index.tolist(), seeds.tolist(), strict=True))

    @override
    def _draw_noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randint(2**32, (len(self.labels),), generator=generator),)


@dataclass(eq=False)
class _Files(Dataset[Batch | DamagedImageError]):
    """What runs in the worker processes: reads the images of one batch."""

    paths: list[str]
    labels: Tensor
    transform: Callable[[Image], Tensor]
    normalizer: Callable[[Tensor], Tensor]

    def __getitem__(self, samples: list[Sample]) -> Batch | DamagedImageError:
        """Return a batch, or what is wrong with a file.

        An error that is raised in a worker arrives with that worker's traceback as its text.
        """
        try:
            pixels = torch.stack([self._pixels(*sample) for sample in samples])
        except DamagedImageError as error:
            return error
        return self.normalizer(pixels), self.labels[[index for index, _ in samples]]

    def _pixels(self, index: int, seed: int) -> Tensor:
        image = read_image(self.paths[index])
        # `torch.manual_seed` would also reset the generators of the GPUs, and nobody would set
        # them back.
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(seed)
            return self.transform(image)
