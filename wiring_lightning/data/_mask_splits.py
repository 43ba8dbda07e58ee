"""Pair images with their masks, and split the pairs into training, validation and test."""

from collections.abc import Sequence
from pathlib import Path

import torch

from wiring_lightning.data._find_files import (
    IMAGE_ENDINGS,
    existing,
    find_images,
    nfc,
    read_list,
    warn_of_unread,
)

Pair = tuple[str, str]
"""Paths of an image and its mask."""

Pairs = dict[str, Pair]
"""Pairs by their common name, sorted by it: the path below the folder, without the ending."""


def find_pairs(images: Path, masks: Path, mask_suffix: str, all_have_both: bool) -> Pairs:
    """Find the images that have a mask.

    Args:
        images: Folder of the images.
        masks: Folder of the masks.
        mask_suffix: Suffix of a mask's name that its image's name does not have.
        all_have_both: Whether an image without a mask, or a mask without an image, is an error.

    Raises:
        FileNotFoundError: If a folder or a partner is missing, or no name has the suffix.
        RuntimeError: If two files have the same name but for their endings.
    """
    image_paths = _files(images)
    mask_paths = image_paths if masks == images else _files(masks)
    if mask_suffix:
        # Images and masks may share a folder: the suffix tells them apart.
        marked = {name: path for name, path in mask_paths.items() if name.endswith(mask_suffix)}
        if not marked:
            raise FileNotFoundError(
                f"No name of an image in '{masks}' ends in '{mask_suffix}'; correct mask_suffix "
                "(--data.mask_suffix)."
            )
        mask_paths = {name.removesuffix(mask_suffix): path for name, path in marked.items()}
        own = set(marked.values())
        image_paths = {name: path for name, path in image_paths.items() if path not in own}
    alone = image_paths.keys() ^ mask_paths.keys()
    if all_have_both and alone:
        name = min(alone)
        if name in image_paths:
            path, partner, where = image_paths[name], name + mask_suffix, masks
        else:
            path, partner, where = mask_paths[name], name, images
        raise FileNotFoundError(
            f"'{path}' has no partner '{partner}' in '{where}' (one of {len(alone)}); add it, or "
            "name the images to use in lists (--data.train_list, --data.test_list)."
        )
    both = sorted(image_paths.keys() & mask_paths.keys())
    return {name: (image_paths[name], mask_paths[name]) for name in both}


def split_by_chance(
    names: Sequence[str], val_share: float, test_share: float, seed: int
) -> list[list[str]]:
    """Split names of images at random; the split depends on them and the seed only.

    Args:
        names: The names.
        val_share: Share of the names for validation, rounded to at least one name; 0 is none.
        test_share: Share of the names for testing, rounded to at least one name.
        seed: Another seed is another split.

    Returns:
        The names for training, validation and testing.

    Raises:
        ValueError: If nothing is left for training, or for testing.

    Example:
        >>> split_by_chance("abcdefg", 0.1, 0.2, seed=0)
        [['e', 'a', 'f', 'd', 'c'], ['g'], ['b']]
    """
    size = len(names)
    val_size, test_size = (
        max(1, round(size * share)) if share else 0 for share in (val_share, test_share)
    )
    if test_size < 1 or val_size + test_size >= size:
        raise ValueError(
            f"val_share {val_share} and test_share {test_share} of {size} images leave "
            f"{max(0, size - val_size - test_size)} for training and {test_size} for testing; "
            "change the shares or add images."
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(size, generator=generator, device="cpu").tolist()
    drawn = [names[position] for position in order]
    train_size = size - val_size - test_size
    return [drawn[:train_size], drawn[train_size:-test_size], drawn[-test_size:]]


def split_by_lists(
    pairs: Pairs, train: Path, val: Path | None, test: Path
) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Read the training, validation and test images from lists, in their order.

    Args:
        pairs: All images that have a mask.
        train: The list of the training images.
        val: The list of the validation images; without it there are none.
        test: The list of the test images.

    Raises:
        FileNotFoundError: If a list or an image that it names is missing.
        RuntimeError: If a list is empty, or an image is named twice.
    """
    found_in: dict[str, Path] = {}

    def chosen(path: Path) -> list[Pair]:
        names = _names(path)
        for name in names:
            if name not in pairs:
                raise FileNotFoundError(
                    f"'{path}' names '{name}', but that image or its mask is missing or no "
                    "regular file; add it or remove the line."
                )
            if name in found_in:
                raise RuntimeError(
                    f"'{name}' is in '{found_in[name]}' and again in '{path}'; name each image "
                    "once."
                )
            found_in[name] = path
        return [pairs[name] for name in names]

    return chosen(train), [] if val is None else chosen(val), chosen(test)


def _files(folder: Path) -> dict[str, str]:
    """Return the image files in a folder and below, by their names without endings, sorted."""
    folder = existing(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder '{folder}': point root (--data.root) at the folder that holds the "
            "folders of images and masks (--data.images, --data.masks)."
        )
    found = find_images(folder)
    warn_of_unread(folder, found.unread)
    files: dict[str, str] = {}
    for path in found.paths:
        name = nfc(Path(path).relative_to(folder).with_suffix("").as_posix())
        if name in files:
            raise RuntimeError(
                f"'{files[name]}' and '{path}' differ in their endings only, or in the Unicode "
                "form of their names; remove one of them."
            )
        files[name] = path
    if not files:
        raise FileNotFoundError(f"The folder '{folder}' holds no image; put the images there.")
    return files


def _names(path: Path) -> list[str]:
    """Return the names in a list; they may have the ending of an image."""
    lines = [Path(line) for line in read_list(path) if line]
    if not lines:
        raise RuntimeError(f"The list '{path}' is empty; write one name a line.")
    return [
        (line.with_suffix("") if line.suffix.lower() in IMAGE_ENDINGS else line).as_posix()
        for line in lines
    ]
