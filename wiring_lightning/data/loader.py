"""The batch loader behind every data module: in memory, rank-aware and exactly resumable."""

import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from wiring_lightning.data.augment import CropFlip, Mirror
from wiring_lightning.functional import seed_of_step


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


class BatchLoader:
    """Iterate over images held in memory, on the CPU or on a GPU, one finished batch at a time.

    It takes the place of a :class:`torch.utils.data.DataLoader` and is deliberately not one: it
    has no workers to start, Lightning leaves its order alone, and its position is two integers.

    **Order.** With ``shuffle`` each epoch has its own permutation and its own augmentation, drawn
    from ``(seed, epoch)`` for all samples at once. Process r of R takes positions r, r + R,
    r + 2R, ... of it, so the i-th batches of R processes with batch size b together are the i-th
    batch of one process with batch size R * b, augmentation included; only the end of an epoch
    can differ, by the samples that sit out.

    **Uneven sizes.** All processes yield the same number of batches, as collective operations
    need. With ``shuffle`` the n mod R samples at the end of the permutation, other ones in each
    epoch, sit out. Without it every sample is yielded exactly once: shards may then differ by one
    sample, and where that would change the number of batches a shard is cut into near-equal
    batches instead.

    **Resuming.** :meth:`state_dict` is the epoch and the number of batches handed out. After
    :meth:`load_state_dict` the next iteration continues with the batch that follows. Call
    :meth:`set_epoch` before each epoch (Lightning does); a new epoch starts at its first batch.
    With a ``trainer`` both follow the trainer's own counters, which know two cases better: the
    batch of a step that failed was handed out but not used, so it comes again; and a run with
    ``max_steps`` that resumes from the end of an epoch gets a wrong number in ``set_epoch``.

    Args:
        images: Bytes, shape [N, C, H, W].
        labels: Class indices, int64 of shape [N], or masks with the class of each pixel, uint8 of
            shape [N, H, W], on the same device.
        batch_size: Samples per batch of this process.
        normalizer: Maps bytes [B, C, H, W] to float32 of the same shape.
        crop_flip: Augmentation to apply, or None. Masks can be mirrored, but not cut out.
        shuffle: Whether to draw a new order each epoch (training) or keep the order (evaluation).
        drop_last: Whether to leave out a last batch of fewer than ``batch_size`` samples. Only
            with ``shuffle``: an evaluation never drops samples.
        seed: Start of all randomness; the same on every process.
        rank: Index of this process, 0 to ``world_size - 1``.
        world_size: Number of processes that share the samples, R.
        trainer: The trainer whose ``fit`` iterates over the loader, if there is one.

    Raises:
        ValueError: If tensors do not fit together, a number is out of range, or some process
            would have no batch.

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
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(
                f"images must be uint8 of shape [N, C, H, W], got {images.dtype} of shape "
                f"{list(images.shape)}."
            )
        size, _, height, width = images.shape
        masks = labels.dtype == torch.uint8 and labels.shape == (size, height, width)
        if not masks and (labels.dtype != torch.int64 or labels.shape != (size,)):
            raise ValueError(
                f"labels must be int64 of shape [{size}], or masks, uint8 of shape "
                f"{[size, height, width]}, got {labels.dtype} of shape {list(labels.shape)}."
            )
        if masks and isinstance(crop_flip, CropFlip):
            raise ValueError("Images with masks can only be mirrored: crop_flip must be a Mirror.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
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
        self._num_batches = self._count_batches()
        if self._num_batches == 0:
            raise ValueError(
                f"{len(images)} samples are too few for a batch of {batch_size} on each of "
                f"{world_size} process(es) with drop_last={drop_last}."
            )
        self._epoch = 0
        self._handed_out = 0
        self._start = 0

    @property
    def batch_sampler(self) -> SimpleNamespace:
        """Where Lightning looks for :meth:`set_epoch`: on ``batch_sampler.sampler``.

        It looks at ``sampler`` too, but a loader with that attribute is taken for one of torch's
        (asked for more of their attributes, warned of shuffling where there is none).
        """
        return SimpleNamespace(sampler=self)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentation come next.

        Args:
            epoch: Index of the epoch. The epoch of a restored state keeps the restored position;
                any other starts at its first batch. With a trainer, its current epoch counts.
        """
        if self.trainer is not None:
            epoch = self.trainer.current_epoch
        if epoch != self._epoch:
            self._epoch = epoch
            self._handed_out = self._start = 0

    def __len__(self) -> int:
        """Batches in a whole epoch on this process; the same on all, and after a resume."""
        return self._num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(images, labels)`` on the data's device.

        Images are float32 [B, C, H, W], labels int64 [B], or [B, H, W] if they are masks.
        """
        # Nothing up to the first batch may run earlier: Lightning makes an iterator before it sets
        # the epoch, and throws another one away unused. A generator waits.
        start, self._start = self._start, 0
        for position, batch in enumerate(self._load(start), start + 1):
            self._handed_out = position
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and what has to stay the same for it to keep its meaning."""
        batches = self._handed_out
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
            state_dict: What :meth:`state_dict` returned, here or on another number of processes
                with the same product of processes and batch size.
        """
        self._epoch = state_dict["epoch"]
        self._handed_out = self._start = state_dict["batches"]
        mine = (self.seed, self._global_batch_size)
        saved = (state_dict["seed"], state_dict["global_batch_size"])
        if self._start > 0 and mine != saved:
            warnings.warn(
                f"The checkpoint was written in epoch {self._epoch} with seed and global batch size"
                f" {saved}, this run has {mine}: the rest of that epoch will repeat some samples "
                "and miss others.",
                stacklevel=2,
            )

    @property
    def _global_batch_size(self) -> int:
        return self.batch_size * self.world_size

    def _count_batches(self) -> int:
        smallest = len(self.images) // self.world_size
        if self.shuffle and self.drop_last:
            return smallest // self.batch_size
        if self.shuffle:
            return _ceil_div(smallest, self.batch_size)
        largest = _ceil_div(len(self.images), self.world_size)
        # The minimum matters for a batch size of 1 only: one batch then has to hold two samples.
        return min(_ceil_div(largest, self.batch_size), smallest)

    def _load(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of this epoch from batch ``start`` on."""
        for index, noise in self._batches(start):
            images, labels = self.normalizer(self.images[index]), self.labels[index]
            if self.crop_flip is not None:
                images = self.crop_flip(images, *noise)
                if labels.dim() > 1:
                    labels = self.crop_flip(labels, *noise)
            yield images, labels.long()

    def _batches(self, start: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Yield which samples are in each batch of this process, and their random numbers."""
        size, device = len(self.images), self.images.device
        generator = torch.Generator().manual_seed(seed_of_step(self.seed, self._epoch))
        if self.shuffle:
            order = torch.randperm(size, generator=generator)[: size - size % self.world_size]
        else:
            order = torch.arange(size)
        noise = [values.to(device) for values in self._draw_noise(generator)]
        shard = order[self.rank :: self.world_size].to(device)
        for first, end in list(pairwise(self._edges(len(shard))))[start:]:
            index = shard[first:end]
            yield index, [values[index] for values in noise]

    def _draw_noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw the random numbers of the augmentation for all N samples, each [N, ...]."""
        return () if self.crop_flip is None else self.crop_flip.draw(len(self.images), generator)

    def _edges(self, shard_size: int) -> list[int]:
        """Return where the batches of a shard begin, and where the last one ends."""
        count = self._num_batches
        if self.shuffle or _ceil_div(shard_size, self.batch_size) == count:
            return [min(i * self.batch_size, shard_size) for i in range(count + 1)]
        return [i * shard_size // count for i in range(count + 1)]
