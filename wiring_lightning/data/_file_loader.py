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
"""Images, uint8 of shape [B, C, H, W], and labels, int64 of shape [B]."""

Sample = tuple[int, int]
"""Index of an image, and the seed of its augmentation."""


class FileLoader(BatchLoader):
    """Iterate over image files, one batch of bytes at a time, in the same order as BatchLoader.

    It yields ``(images, labels)`` with images as uint8 [B, C, H, W], a quarter of the size of
    floats. They are normalised where they are needed, see :class:`FileDataModule`.

    Order, shares of the processes and position are those of :class:`BatchLoader`. The augmentation
    of an image depends on the seed, the epoch and the image only, not on the number of worker
    processes or the batch.

    Worker processes start at the first batch and stay for the next epochs, also if an epoch is left
    before its end. They end with the loader, with :meth:`close`, and after an error. The position
    counts batches that were yielded, not those that workers have prepared in advance.

    Args:
        paths: The image files.
        labels: Class indices, int64 of shape [N].
        batch_size: Samples per batch of this process.
        transform: Makes the pixels of a sample, uint8 of shape [C, H, W], from an image. It may
            use torch's global generator, which is seeded for each image.
        num_workers: Number of processes that read files; 0 reads them in this process.
        pin_memory: Whether to put batches into pinned memory, for asynchronous copies to a GPU.
        options: The other keyword arguments of :class:`BatchLoader`, without ``normalizer`` and
            ``crop_flip``.
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
        no_pixels = torch.empty(len(paths), 0, 0, 0, dtype=torch.uint8, device="cpu")
        super().__init__(no_pixels, labels, batch_size, normalizer=Tensor.byte, **options)
        self.files = _Files(paths, labels, transform)
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self._idle: list[_Workers] = []

    def close(self) -> None:
        """End the worker processes; a later iteration starts new ones.

        An iteration that is under way keeps its processes until it ends.
        """
        self._idle.clear()
        # That iteration puts its processes back into the old list, which is gone then.
        self._idle = []

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs, which starts processes of its own."""
        return {**self.__dict__, "_idle": []}

    @override
    def _load(self, start: int) -> Iterator[Batch]:
        # Two iterations at a time must not share processes: the second finds the list empty.
        idle = self._idle
        workers = idle.pop() if idle else _Workers(self.files, self.num_workers, self.pin_memory)
        try:
            for batch in workers.read(self._samples(start)):
                if isinstance(batch, ImageFileError):
                    raise batch
                yield batch
        except GeneratorExit:  # the epoch is left before its end
            idle[:] = [workers]
            raise
        except BaseException:
            # They may be gone. The error's traceback would keep the others alive.
            del workers
            raise
        idle[:] = [workers]

    def _samples(self, start: int) -> Iterator[list[Sample]]:
        for index, (seeds,) in self._batches(start):
            yield list(zip(index.tolist(), seeds.tolist(), strict=True))

    @override
    def _draw_noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randint(2**32, (len(self.labels),), generator=generator, device="cpu"),)


class _Workers:
    """Worker processes that live as long as this object, and read one epoch after the other."""

    def __init__(self, files: "_Files", num_workers: int, pin_memory: bool) -> None:
        self._epoch = _Epoch()
        self._loader = DataLoader(
            files,
            batch_size=None,  # one sample of `_Files` is a whole batch
            sampler=self._epoch,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # otherwise it would draw from the global generator
        )

    def read(self, samples: Iterator[list[Sample]]) -> Iterator[Batch | ImageFileError]:
        """Yield the batches of these samples; batches that were not fetched before are dropped."""
        self._epoch.samples = samples
        try:
            with torch.device("cpu"):  # torch draws a seed with the generator, which is there
                batches = iter(self._loader)
            yield from batches
        finally:
            # The samples refer to the `FileLoader`, and would keep it alive with its processes.
            self._epoch.samples = iter(())


class _Epoch:
    """Hands the samples of the present epoch to a DataLoader, which has one sampler for all."""

    def __init__(self) -> None:
        self.samples: Iterator[list[Sample]] = iter(())

    def __iter__(self) -> Iterator[list[Sample]]:
        return self

    def __next__(self) -> list[Sample]:
        return next(self.samples)


@dataclass(eq=False)
class _Files(Dataset[Batch | ImageFileError]):
    """The data set of the worker processes; one item is a whole batch."""

    paths: list[str]
    labels: Tensor
    transform: Callable[[Image], Tensor]

    def __getitem__(self, samples: list[Sample]) -> Batch | ImageFileError:
        """Return a batch, or an error.

        If a worker raises an error, torch replaces its message by the worker's traceback.
        """
        try:
            pixels = torch.stack([self._pixels(*sample) for sample in samples])
        except ImageFileError as error:
            return error
        return pixels, self.labels[[index for index, _ in samples]]

    def _pixels(self, index: int, seed: int) -> Tensor:
        image = read_image(self.paths[index])
        # `torch.manual_seed` would also seed the generators of the GPUs, which are not restored.
        with torch.random.fork_rng(devices=()), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)
            return self.transform(image)
