"""The batch loader of every data module: in memory, rank-aware and exactly resumable."""

import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from math import ceil
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from wiring_lightning._checks import check_counts
from wiring_lightning.data.augment import CropFlip, Mirror
from wiring_lightning.functional import seed_of_epoch
from wiring_lightning.functional.transfer import send


class BatchLoader:
    """Iterate over batches of images in memory, on the CPU or on a GPU.

    It replaces a :class:`torch.utils.data.DataLoader`, but is not a subclass: it has no workers,
    Lightning does not change its order, and its position is two integers.

    **Order.** With ``shuffle`` each epoch has its own permutation and augmentation, which depend on
    ``(seed, epoch)`` only. Process r of R takes positions r, r + R, r + 2R, ... of the permutation.
    So the i-th batches of R processes with batch size b are together the i-th batch of one process
    with batch size R * b, with the same augmentation. Only the end of an epoch can differ.

    **Uneven sizes.** All processes yield the same number of batches, as collective operations
    need. With ``shuffle``, the last n mod R samples of each permutation are left out. Without it,
    every sample is yielded exactly once: shards may differ by one sample, and are cut into batches
    of nearly equal sizes if their numbers of batches would differ.

    **Resuming.** :meth:`state_dict` is the epoch and the number of batches that were yielded. After
    :meth:`load_state_dict` the next iteration continues with the next batch. Call :meth:`set_epoch`
    before each epoch (Lightning does); a new epoch starts at its first batch.

    With a ``trainer`` the trainer's own counters are used, which are right in two more cases. The
    batch of a step that failed is yielded again. And after a run with ``max_steps`` resumes at the
    end of an epoch, Lightning calls ``set_epoch`` with a wrong number.

    Args:
        images: Bytes, shape [N, C, H, W].
        labels: Class indices, int64 of shape [N], or [N, T] for T labels per image, or masks with
            the class of each pixel, uint8 of shape [N, H, W], on the same device.
        batch_size: Samples per batch of this process.
        normalizer: Maps bytes [B, C, H, W] to float32 of the same shape.
        crop_flip: Augmentation to apply, or None. Masks can be mirrored, but not cut out.
        shuffle: Whether to draw a new order each epoch (training) or keep the order (evaluation).
        drop_last: Whether to leave out a last batch of fewer than ``batch_size`` samples. Only
            with ``shuffle``: an evaluation never drops samples.
        seed: Seed of order and augmentation; the same on every process.
        rank: Index of this process, 0 to ``world_size - 1``.
        world_size: Number of processes that share the samples, R.
        trainer: The trainer whose ``fit`` iterates over the loader, if there is one.

    Raises:
        ValueError: If the shapes of the tensors do not match, a number is out of range, or some
            process would have no batch.

    Example:
        >>> images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
        >>> loader = BatchLoader(images, torch.arange(6), 4, normalizer=torch.Tensor.float)
        >>> [labels.tolist() for _, labels in loader]
        [[0, 1, 2, 3], [4, 5]]
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        *,
        normalizer: Callable[[Tensor], Tensor],
        crop_flip: CropFlip | Mirror | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        trainer: Trainer | None = None,
    ) -> None:
        masks = _are_masks(images, labels)
        if masks and isinstance(crop_flip, CropFlip):
            raise ValueError("Images with masks can only be mirrored: crop_flip must be a Mirror.")
        check_counts(batch_size=batch_size)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), got {rank}.")
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.normalizer = normalizer
        self.crop_flip = crop_flip
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.trainer = trainer
        self._global_batch_size = batch_size * world_size
        self._num_batches = self._count_batches()
        if self._num_batches == 0:
            few = len(images) < world_size
            advice = "use fewer processes (--trainer.devices)" if few else "lower batch_size"
            raise ValueError(
                f"{len(images)} sample(s) are too few for a batch of {batch_size} on each of "
                f"{world_size} process(es) with drop_last={drop_last}: {advice}, or add samples."
            )
        self._epoch = 0
        self._yielded = 0  # batches of this epoch so far
        self._start = 0  # the batch that the next iteration begins with

    @property
    def batch_sampler(self) -> SimpleNamespace:
        """Lets Lightning find :meth:`set_epoch`, as ``batch_sampler.sampler.set_epoch``.

        Lightning also uses ``sampler``, but takes a loader with that attribute for one of torch's:
        it then needs more of their attributes, and warns of shuffling.
        """
        return SimpleNamespace(sampler=self)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines order and augmentation.

        Args:
            epoch: Index of the epoch. The epoch of a restored state keeps the restored position;
                any other starts at its first batch. With a trainer, its current epoch is used.
        """
        if self.trainer is not None:
            epoch = self.trainer.current_epoch
        if epoch != self._epoch:
            self._epoch = epoch
            self._yielded = self._start = 0

    def __len__(self) -> int:
        """Number of batches in a whole epoch; the same on all processes, and after a resume."""
        return self._num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(images, labels)`` on the data's device.

        Images are float32 [B, C, H, W], labels int64 [B], or [B, T] with T labels per image, or
        [B, H, W] if they are masks.
        """
        # This must stay a generator, which runs nothing before the first batch: Lightning makes an
        # iterator before it sets the epoch, and discards another one unused.
        start, self._start = self._start, 0
        for position, batch in enumerate(self._load(start), start + 1):
            self._yielded = position
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and the settings that it is valid for."""
        batches = self._yielded
        if self.trainer is not None:
            progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
            # At the start of an epoch the trainer's count is still that of the previous one.
            batches = min(batches, progress.processed)
        return {
            "epoch": self._epoch,
            "batches": batches,
            "seed": self.seed,
            "global_batch_size": self._global_batch_size,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a position.

        Args:
            state_dict: A state of :meth:`state_dict`. The number of processes may differ, if its
                product with the batch size is the same.
        """
        self._epoch = state_dict["epoch"]
        self._yielded = self._start = state_dict["batches"]
        own = (self.seed, self._global_batch_size)
        saved = (state_dict["seed"], state_dict["global_batch_size"])
        if self._start > 0 and own != saved:
            warnings.warn(
                f"The checkpoint was written in epoch {self._epoch} with seed and global batch size"
                f" {saved}, this run has {own}: the rest of that epoch will repeat some samples "
                "and miss others.",
                stacklevel=2,
            )

    def _count_batches(self) -> int:
        """Number of batches of every process in an epoch."""
        smallest = len(self.images) // self.world_size
        if self.shuffle and self.drop_last:
            return smallest // self.batch_size
        if self.shuffle:
            return ceil(smallest / self.batch_size)
        largest = ceil(len(self.images) / self.world_size)
        # The minimum matters for a batch size of 1 only: one batch then has two samples.
        return min(ceil(largest / self.batch_size), smallest)

    def _load(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of this epoch from batch ``start`` on."""
        for index, noise in self._batches(start):
            images, labels = self.normalizer(self.images[index]), self.labels[index]
            if self.crop_flip is not None:
                images = self.crop_flip(images, *noise)
                if labels.dim() > 2:
                    labels = self.crop_flip(labels, *noise)
            yield images, labels.long()

    def _batches(self, start: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Yield the samples of each batch of this process, and their random numbers."""
        size, device = len(self.images), self.images.device
        generator = torch.Generator().manual_seed(seed_of_epoch(self.seed, self._epoch))
        if self.shuffle:
            order = torch.randperm(size, generator=generator, device="cpu")
            order = order[: size - size % self.world_size]
        else:
            order = torch.arange(size, device="cpu")
        # Drawn on the CPU, so that all devices train on the same batches. All copies of an epoch
        # are made before its first batch; then the host never waits for the device.
        noise = [send(values, device) for values in self._draw_noise(generator)]
        shard = send(order[self.rank :: self.world_size], device)
        for first, end in list(pairwise(self._edges(len(shard))))[start:]:
            index = shard[first:end]
            yield index, [values[index] for values in noise]

    def _draw_noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw the random numbers of the augmentation for all N samples, each [N, ...]."""
        return () if self.crop_flip is None else self.crop_flip.draw(len(self.images), generator)

    def _edges(self, shard_size: int) -> list[int]:
        """Return the start of each batch of a shard, and the end of the last one."""
        count = self._num_batches
        if self.shuffle or ceil(shard_size / self.batch_size) == count:
            return [min(i * self.batch_size, shard_size) for i in range(count + 1)]
        return [i * shard_size // count for i in range(count + 1)]


def _are_masks(images: Tensor, labels: Tensor) -> bool:
    """Whether labels are masks, and not classes of whole images; an error if they are neither."""
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(
            f"images must be uint8 of shape [N, C, H, W], got {images.dtype} of shape "
            f"{list(images.shape)}."
        )
    size, _, height, width = images.shape
    masks = labels.dtype == torch.uint8 and labels.shape == (size, height, width)
    whole = labels.dtype == torch.int64 and labels.dim() in (1, 2) and len(labels) == size
    if not masks and not whole:
        raise ValueError(
            f"labels must be int64 of shape [{size}], or [{size}, T] for T labels per image, or "
            f"masks, uint8 of shape {[size, height, width]}, got {labels.dtype} of shape "
            f"{list(labels.shape)}."
        )
    return masks
