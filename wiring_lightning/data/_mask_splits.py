"""Which images and masks belong together, and which are for training, validation and test."""

from pathlib import Path

import torch

from wiring_lightning.data._image_files import IMAGE_ENDINGS, image_files

Pair = tuple[str, str]
"""Paths of an image and its mask."""

Pairs = dict[str, Pair]
"""Pairs by their common name, sorted by it: the path below the folder, without the ending."""


def find_pairs(images: Path, masks: Path, all_have_both: bool) -> Pairs:
    """Find the images that have a mask.

    Args:
        images: Folder of the images.
        masks: Folder of the masks.
        all_have_both: Whether an image without a mask, or a mask without an image, is an error.

    Raises:
        FileNotFoundError: If a folder does not exist, holds no image, or a partner is missing.
        RuntimeError: If two files in a folder differ in their endings only.
    """
    image_files, mask_files = _files(images), _files(masks)
    alone = image_files.keys() ^ mask_files.keys()
    if all_have_both and alone:
        name = min(alone)
        has_image = name in image_files
        path, where = (image_files[name], masks) if has_image else (mask_files[name], images)
        raise FileNotFoundError(
            f"'{path}' has no partner of that name in '{where}' (one of {len(alone)}); add it, or "
            "name the images to use in lists (--data.train_list, --data.test_list)."
        )
    both = sorted(image_files.keys() & mask_files.keys())
    return {name: (image_files[name], mask_files[name]) for name in both}


def split_by_chance(
    pairs: Pairs, val_share: float, test_share: float, seed: int
) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Draw the training, validation and test images; the same ones for the same names and seed.

    Raises:
        ValueError: If a share leaves no training or no test image.

    Example:
        >>> pairs = {name: (f"{name}.jpg", f"{name}.png") for name in "abcdefghij"}
        >>> [len(split) for split in split_by_chance(pairs, 0.1, 0.2, seed=0)]
        [7, 1, 2]
    """
    size = len(pairs)
    val_size, test_size = round(size * val_share), round(size * test_share)
    if test_size < 1 or val_size + test_size >= size:
        raise ValueError(
            f"val_share {val_share} and test_share {test_share} of {size} images leave "
            f"{max(0, size - val_size - test_size)} for training and {test_size} for testing; "
            "change the shares or add images."
        )
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = [list(pairs.values())[position] for position in order]
    train_size = size - val_size - test_size
    return drawn[:train_size], drawn[train_size:-test_size], drawn[-test_size:]


def split_by_lists(
    pairs: Pairs, train: Path, val: Path | None, test: Path
) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Read the training, validation and test images from lists, in their order.

    Raises:
        FileNotFoundError: If a list does not exist, or an image or mask that it names.
        RuntimeError: If a list is empty, or a name is in two places.
    """
    found_in: dict[str, Path] = {}

    def chosen(path: Path) -> list[Pair]:
        names = _names(path)
        for name in names:
            if name not in pairs:
                raise FileNotFoundError(
                    f"'{path}' names '{name}', but that image or its mask is missing; add it or "
                    "remove the line."
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
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder '{folder}': point root (--data.root) at the folder that holds the "
            "folders of images and masks (--data.images, --data.masks)."
        )
    files: dict[str, str] = {}
    for path in map(Path, image_files(folder)):
        # Other systems leave hidden files beside the images, with the images' endings.
        if path.name.startswith("."):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise RuntimeError(
                f"'{files[name]}' and '{path}' differ in their endings only; remove one of them."
            )
        files[name] = str(path)
    if not files:
        raise FileNotFoundError(f"The folder '{folder}' holds no image; put the images there.")
    return files


def _names(path: Path) -> list[str]:
    """Return the names in a list; they may have the ending of an image."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no list '{path}'; correct its name or write it.")
    text = path.read_text(encoding="utf-8")
    lines = [Path(line.strip()) for line in text.splitlines() if line.strip()]
    names = [
        (line.with_suffix("") if line.suffix.lower() in IMAGE_ENDINGS else line).as_posix()
        for line in lines
    ]
    if not names:
        raise RuntimeError(f"The list '{path}' is empty; write one name a line.")
    return names
