"""Handwritten digits that come with scikit-learn: a complete data set without a download."""

from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from wiring_lightning.data.augment import CropFlip
from wiring_lightning.data.base import ImageDataModule
from wiring_lightning.data.in_memory import Split

_TEST_SIZE = 400
_SPLIT_SEED = 0


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """Shuffle samples so that every contiguous part has the classes in their overall shares.

    Each class is shuffled and spread evenly over [0, 1); sorting these positions interleaves the
    classes. Every cut gives stratified splits, up to one sample per class at either end.

    Args:
        labels: Class indices, shape [N].
        seed: Seed of the shuffling.

    Returns:
        A permutation of 0 .. N - 1, int64 of shape [N].

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> labels[stratified_order(labels, seed=0)]
        tensor([0, 1, 0, 0, 1, 0])
    """
    generator = torch.Generator().manual_seed(seed)
    position = torch.empty(len(labels), dtype=torch.float64, device="cpu")
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator, device="cpu")]
        position[members] = (torch.arange(len(members), device="cpu").double() + 0.5) / len(members)
    return position.argsort(stable=True)


class Digits(ImageDataModule):
    """Optical digits: 1,797 grey images [1, 8, 8] of handwritten digits in 10 classes.

    Small enough to train on in seconds, for a first run and for tests. The images come with
    scikit-learn; their 17 grey levels are scaled to bytes. The test set is always the same 400
    images, and the validation images are the last ``val_size`` of the other 1,397. All splits are
    stratified.

    The augmentation shifts by at most one pixel and never mirrors, since a mirrored digit has
    another shape.

    Args:
        batch_size: Images per step and process: with four GPUs and 128, the network sees 512
            images per step.
        val_size: How many of the 1,397 training images to set aside for validation. 0 trains on
            all of them and turns validation off.
        options: The other arguments of :class:`InMemoryDataModule`.

    Example:
        >>> data = Digits(batch_size=64)
        >>> data.setup("fit")
        >>> print(data)
        Digits: 1197 training, 200 validation and 400 test images of shape (1, 8, 8)
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> images.shape, labels.shape
        (torch.Size([64, 1, 8, 8]), torch.Size([64]))
    """

    num_classes: ClassVar[int] = 10
    image_shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    crop_flip: ClassVar[CropFlip] = CropFlip(padding=1, flip=False)

    def __init__(self, batch_size: int = 128, val_size: int = 200, **options: Any) -> None:
        super().__init__(batch_size, val_size, **options)

    @override
    def read(self, train: bool) -> Split:
        """Return the 1,397 training or the 400 test images."""
        images, labels = _all_digits()
        order = stratified_order(labels, _SPLIT_SEED)
        order = order[:-_TEST_SIZE] if train else order[-_TEST_SIZE:]
        return images[order], labels[order]


@cache  # scikit-learn reads them from a text file
def _all_digits() -> Split:
    # Imported here, because importing scikit-learn takes about a second.
    from sklearn.datasets import load_digits

    digits = load_digits()
    levels = torch.as_tensor(digits.images, dtype=torch.float64, device="cpu")
    images = (levels * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    return images, torch.as_tensor(digits.target, dtype=torch.int64, device="cpu")
