"""Images with masks: a folder of images and a folder of masks with the class of each pixel."""

import json
import warnings
from itertools import chain
from pathlib import Path
from typing import Any

from PIL.Image import Resampling
from torch import Tensor
from torch.nn.functional import interpolate
from typing_extensions import override

from wiring_lightning._checks import check_counts, check_seed
from wiring_lightning.data._find_files import IMAGE_ENDINGS, given
from wiring_lightning.data._mask_files import Color, classes_of_colors, classes_of_numbers
from wiring_lightning.data._mask_splits import (
    Pair,
    Pairs,
    find_pairs,
    split_by_chance,
    split_by_lists,
)
from wiring_lightning.data._read_image import pixels, read_image
from wiring_lightning.data._resumable import warn_of_kept_split
from wiring_lightning.data._with_masks import MaskDataModule
from wiring_lightning.data.in_memory import Split


class ImageMaskFolder(MaskDataModule):
    """Semantic segmentation with images and masks from two folders.

    ``root`` has a folder of images and a folder of masks. An image and its mask have the same name
    except for the ending and ``mask_suffix``, and are in the same subfolder, if any. A mask is an
    image of one channel with the number of each pixel's class, or, with ``palette``, an image in
    which each class has a colour. Pixels with the number 255 have no class and are ignored. Each
    file is turned upright by its own EXIF orientation.

    The loaders yield ``(images, masks)``: images float32 [B, 3, height, width], masks int64
    [B, height, width]. Images are resized by bilinear interpolation, masks by taking the nearest
    pixel. Training mirrors half of the images, together with their masks.

    The splits are random, by ``split_seed``, or read from lists in ``root`` with one name per line.
    A random split is part of the checkpoint: a run that resumes or tests from that checkpoint has
    the same split, also if there are more images now.

    All images are read at the start and stay in memory, on the trainer's device.

    Args:
        class_names: Name of each class, in the order of their numbers.
        root: Folder that holds the two folders, and the lists.
        images: Name of the folder of images.
        masks: Name of the folder of masks.
        image_size: Height and width of the images that the loaders yield; one number for both, or
            two.
        palette: Red, green and blue of each class, 0 to 255, if the masks are in colour.
        ignored_color: Red, green and blue of pixels without a class, if the masks are in colour.
        train_list: File in ``root`` that names the training images. The lists replace
            ``val_share``, ``test_share`` and ``split_seed``.
        val_list: File in ``root`` that names the validation images; without it, there are none.
        test_list: File in ``root`` that names the test images.
        val_share: Share of all images to set aside for validation, at least one image. 0 turns
            validation off.
        test_share: Share of all images to set aside for testing, at least one image.
        split_seed: Chooses the images that are set aside. Keep it for all repetitions.
        mask_suffix: Suffix of a mask's name, such as '_mask' if ``x_mask.png`` is the mask of
            ``x.jpg``. Other files in the folder of masks are skipped, so it can also be the folder
            of images.
        options: The other arguments of :class:`InMemoryDataModule`; if not given, ``batch_size``
            is 16 and ``normalization`` 'symmetric'.

    Attributes:
        num_classes: Number of classes.

    Raises:
        ValueError: If an argument is out of range or contradicts another one; in :meth:`setup`, if
            the shares leave a split without images.
        FileNotFoundError: In :meth:`setup`, if a folder, a list, an image or a mask is missing.
        RuntimeError: In :meth:`setup`, if a file is damaged, a mask has another size than its
            image, or a mask has a number or colour that is not a class.

    Example:
        >>> data = ImageMaskFolder(["road", "sky"], image_size=(64, 128))
        >>> data.num_classes, data.image_shape
        (2, (3, 64, 128))
    """

    def __init__(
        self,
        class_names: list[str],
        root: str = "data/image_masks",
        images: str = "images",
        masks: str = "masks",
        image_size: int | tuple[int, int] = 256,
        palette: list[Color] | None = None,
        ignored_color: Color | None = None,
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        val_share: float = 0.1,
        test_share: float = 0.2,
        split_seed: int = 0,
        *,
        mask_suffix: str = "",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        for side in (height, width):
            check_counts(image_size=side)
        _check_classes(class_names, palette, ignored_color)
        if (train_list is None) != (test_list is None) or (val_list and train_list is None):
            raise ValueError(
                "Lists come together: give train_list and test_list, or no list at all."
            )
        for name, share in (("val_share", val_share), ("test_share", test_share)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {share}.")
        if mask_suffix.lower().endswith(IMAGE_ENDINGS):
            raise ValueError(
                f"mask_suffix stands before the ending, such as '_mask', got '{mask_suffix}'."
            )
        self.class_names = class_names
        self.num_classes = len(class_names)
        self.root = root
        self.images = images
        self.masks = masks
        self.size = height, width
        self.palette = palette
        self.ignored_color = ignored_color
        self.lists = (train_list, val_list, test_list)
        self.shares = (val_share, test_share)
        check_seed(split_seed, "split_seed")
        self.split_seed = split_seed
        self.mask_suffix = mask_suffix
        # Names in each split: as they were drawn or kept here, and as a checkpoint holds them.
        self._drawn: list[list[str]] | None = None
        self._kept: list[list[str]] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that the loaders yield."""
        return 3, *self.size

    @override
    def find_pairs(self) -> tuple[list[Pair], list[Pair], list[Pair]]:
        """Find the images with their masks, and split them at random or by the lists."""
        root = given(self.root)
        train_list, val_list, test_list = self.lists
        images, masks = root / self.images, root / self.masks
        if train_list is not None and test_list is not None:
            pairs = find_pairs(images, masks, self.mask_suffix, all_have_both=False)
            val_path = None if val_list is None else root / val_list
            return split_by_lists(pairs, root / train_list, val_path, root / test_list)
        pairs = find_pairs(images, masks, self.mask_suffix, all_have_both=True)
        self._drawn = self._names(pairs)
        train, val, test = ([pairs[name] for name in names] for names in self._drawn)
        return train, val, test

    @override
    def read_pair(self, image_path: str, mask_path: str) -> tuple[Tensor, Tensor]:
        """Read an image and its mask, and resize them."""
        height, width = self.size
        image, mask = read_image(image_path), self._read_mask(mask_path)
        mask_size = mask.shape[1], mask.shape[0]
        if image.size != mask_size:
            turned = image.size == mask_size[::-1]
            hint = ", also once each is turned as its own EXIF orientation says" if turned else ""
            raise RuntimeError(
                f"The image '{image_path}' has {image.width}x{image.height} pixels, its mask "
                f"'{mask_path}' {mask_size[0]}x{mask_size[1]}; both must have the same size{hint}."
            )
        image = image.resize((width, height), Resampling.BILINEAR)
        mask = interpolate(mask[None, None], self.size, mode="nearest-exact")[0, 0]
        return pixels(image), mask

    @override
    def read_splits(self) -> tuple[Split, ...]:
        """Read the three splits, and warn of classes that no training mask has."""
        splits = super().read_splits()
        masks = splits[0][1]
        counts = masks.flatten().bincount(minlength=self.num_classes).tolist()
        missing = [name for name, count in zip(self.class_names, counts, strict=False) if not count]
        if missing:
            hint = "" if self.palette else "; white masks need a palette, since 255 means no class"
            warnings.warn(
                f"No training mask in '{Path(self.root) / self.masks}' holds the class "
                f"'{missing[0]}': nothing can learn it{hint}.",
                stacklevel=2,
            )
        return splits

    @override
    def _drawn_split(self) -> str | None:
        return None if self._drawn is None else json.dumps(self._drawn)

    @override
    def _keep_split(self, text: str) -> None:
        self._kept = json.loads(text)
        if self._drawn not in (None, self._kept):
            self._splits = None
            self.setup("fit")  # reads them again

    def _names(self, pairs: Pairs) -> list[list[str]]:
        """The names in each split: those of the checkpoint, if they come from one."""
        drawn = split_by_chance(list(pairs), *self.shares, self.split_seed)
        if self._kept is None or self._kept == drawn:
            return drawn
        kept = list(chain.from_iterable(self._kept))
        gone = [name for name in kept if name not in pairs]
        if gone:
            raise FileNotFoundError(
                f"The split of the checkpoint names '{gone[0]}', but that image or its mask is not "
                f"in '{self.root}' (one of {len(gone)}); put it there, or point root (--data.root) "
                "at the folder of the run."
            )
        warn_of_kept_split(self.root, len(pairs) - len(kept))
        return self._kept

    def _read_mask(self, path: str) -> Tensor:
        if self.palette is None:
            return classes_of_numbers(read_image(path, in_color=False), self.num_classes, path)
        return classes_of_colors(
            read_image(path, on_white=False), self.palette, path, self.ignored_color
        )


def _check_classes(
    names: list[str], palette: list[Color] | None, ignored_color: Color | None
) -> None:
    """Check that classes have different names, and with a palette different colours."""
    if not 2 <= len(names) <= 255:
        raise ValueError(f"class_names must hold 2 to 255 names, got {len(names)}.")
    if len(set(names)) < len(names):
        raise ValueError(f"class_names must differ, got {', '.join(names)}.")
    if palette is None:
        if ignored_color is not None:
            raise ValueError("ignored_color needs a palette; without one, 255 marks no class.")
        return
    if len(palette) != len(names):
        raise ValueError(
            f"palette must hold {len(names)} colours as class_names does, got {len(palette)}."
        )
    colors = [*palette, *([] if ignored_color is None else [ignored_color])]
    for color in colors:
        if len(color) != 3 or not all(0 <= value <= 255 for value in color):
            raise ValueError(f"A colour is three numbers from 0 to 255, got {list(color)}.")
    if len({tuple(color) for color in colors}) < len(colors):
        raise ValueError(f"The colours of palette and ignored_color must differ, got {colors}.")
