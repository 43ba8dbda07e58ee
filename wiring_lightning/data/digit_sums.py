"""Several handwritten digits per example, and sums of some of them: the right wiring is known."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from wiring_lightning._checks import check_counts, check_seed
from wiring_lightning.data.augment import CropFlip
from wiring_lightning.data.digits import Digits
from wiring_lightning.data.in_memory import InMemoryDataModule, Split
from wiring_lightning.functional import derived_seed, planted_sources

_EVALUATED = 2000  # examples for validation, and as many for the test


class DigitSums(InMemoryDataModule):
    """Eight handwritten digits per example, and eight labels: each the sum of two of the digits.

    A task on which a wiring can be checked. Each digit is a channel of the image, and label t is
    the sum of the digits in the channels ``planted[t]``. A network with a part per channel and a
    head per label must find these channels. Of one of the two digits alone, nothing follows about
    a sum but which ten values are possible: the best guess is then right in 10 % of the cases, as
    it is without any digit (the most frequent sum of two digits is 9).

    The digits are those of :class:`Digits`: 1,197 images for training, 200 for validation and 400
    for the test. Every split draws its examples from its own images, so no image is in two splits.
    The examples do not depend on ``seed``.

    Args:
        batch_size: Examples per step and process.
        size: Number of training examples. Validation and test have 2,000 each.
        digits: Digits per example, which are the channels of the image.
        sums: Labels per example.
        addends: How many distinct digits each label is the sum of.
        wiring_seed: Seed of the choice of these digits.
        augment: Whether to shift the training images by up to one pixel, all digits alike.
        options: The other arguments of :class:`InMemoryDataModule`.

    Attributes:
        planted: The digits that each label is the sum of, int64 of shape [sums, addends].
        num_classes: Number of different sums; the classes are 0 to ``9 * addends``.

    Raises:
        ValueError: If a number is below 1, or ``addends`` is larger than ``digits``.

    Example:
        >>> data = DigitSums(batch_size=64, size=1000)
        >>> data.setup("fit")
        >>> print(data)
        DigitSums: 1000 training, 2000 validation and 2000 test images of shape (8, 8, 8)
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> images.shape, labels.shape
        (torch.Size([64, 8, 8, 8]), torch.Size([64, 8]))
        >>> data.planted[0].tolist(), data.num_classes  # label 0 is the sum of these two
        ([1, 6], 19)
    """

    crop_flip: ClassVar[CropFlip] = Digits.crop_flip

    def __init__(
        self,
        batch_size: int = 128,
        size: int = 12_800,
        digits: int = 8,
        sums: int = 8,
        addends: int = 2,
        wiring_seed: int = 0,
        augment: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(batch_size, augment, **options)
        check_counts(size=size, digits=digits, sums=sums, addends=addends)
        if addends > digits:
            raise ValueError(
                f"addends must be at most the number of digits, which is {digits} here, got "
                f"{addends}."
            )
        self.size = size
        self.digits = digits
        check_seed(wiring_seed, "wiring_seed")
        self.planted = planted_sources(sums, digits, addends, wiring_seed)
        self.num_classes = 9 * addends + 1

    @property
    @override
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width: a channel for each digit."""
        _, height, width = Digits.image_shape
        return self.digits, height, width

    @override
    def read_splits(self) -> tuple[Split, ...]:
        """Draw the examples of each split from the digits of this split."""
        sizes = (self.size, _EVALUATED, _EVALUATED)
        splits = Digits().read_splits()
        return tuple(
            self._draw(*split, size, seed=number)
            for number, (split, size) in enumerate(zip(splits, sizes, strict=True))
        )

    def _draw(self, images: Tensor, labels: Tensor, size: int, seed: int) -> Split:
        """Examples of one split: images [size, digits, 8, 8], labels [size, sums]."""
        generator = torch.Generator().manual_seed(derived_seed(seed))
        drawn = torch.randint(len(images), (size, self.digits), generator=generator, device="cpu")
        return images[drawn].squeeze(2), labels[drawn][:, self.planted].sum(-1)
