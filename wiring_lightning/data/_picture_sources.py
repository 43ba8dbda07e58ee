"""Where labelled pictures come from: folders with one subfolder per class, or a table."""

import os
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from wiring_lightning.data._class_folders import ClassFiles, ClassFolders, split_folders
from wiring_lightning.data._find_files import Images, find_images, read_text, warn_of_unread
from wiring_lightning.data._picture_table import find_below, read_table
from wiring_lightning.data._stratified import Picture, Splits, split_by_class

OTHERS = ("val", "test")
"""The splits besides ``train``."""


class Found(NamedTuple):
    """Labelled pictures: the names of their classes in order, and their splits.

    ``drawn`` says whether chance had a part in the splits.
    """

    class_names: list[str]
    splits: Splits
    drawn: bool = False


def in_folders(root: Path, finder: ClassFolders, needed: Iterable[str] = ()) -> Found:
    """Find the pictures in the class folders of ``root``, or of its folders of splits.

    Args:
        root: The folder.
        finder: Looks into the folders, and words the errors.
        needed: Names of folders of splits that must be there; without them, those are used that
            are there.

    Raises:
        FileNotFoundError: If the training pictures, or a needed folder, are missing.
        RuntimeError: If a class has no picture, or the splits have different classes.
    """
    folders = {name: root / name for name in needed} or split_folders(root)
    if not folders:
        return _listed(root, {"train": finder.files(root, 1)})
    if "train" not in folders:
        there = min(folders.values())
        raise FileNotFoundError(
            f"{finder.owner}: '{root}' holds class folders in '{there.name}', but none in 'train' "
            f"beside it; add that folder, or point root (--data.root) at {finder.layout}."
        )
    finder.warn_of_images_beside(root)
    found = finder.splits(*((folder, 1) for folder in folders.values()))
    return _listed(root, dict(zip(folders, found, strict=True)))


def in_table(root: Path, table: Path, owner: str) -> Found:
    """Read the pictures, their classes and perhaps their splits from a CSV file.

    Args:
        root: The folder that the paths in the table begin at.
        table: The file.
        owner: Name of the data set, for the error messages.

    Raises:
        FileNotFoundError: If the table or a picture in it is missing.
        RuntimeError: If the table is wrong, there are fewer than two classes, or a class is in
            another split only.
    """
    source = f"The table '{table}'"
    splits, told = read_table(read_text(table), source, find_below(root))
    names = sorted({label for _, label in splits["train"]})
    if told and not names:
        raise RuntimeError(f"{source} has no picture with the split 'train'; {owner} needs some.")
    for split in OTHERS:
        for name, label in splits.get(split, []):
            if label not in names:
                raise RuntimeError(
                    f"{source} has '{name}' of the class '{label}' in the split '{split}', but no "
                    "picture of that class in 'train'; correct the label or the split."
                )
    if len(names) < 2:
        raise RuntimeError(
            f"{source} has only the class '{names[0]}'; {owner} needs pictures of two classes or "
            "more."
        )
    return Found(names, splits)


def without_labels(folder: Path) -> tuple[list[str], Tensor]:
    """Find the pictures in a folder, or take one picture, to predict what they show.

    Returns:
        The paths, and -1 for the class of each.

    Raises:
        FileNotFoundError: If there is none.
    """
    paths, unread = Images([str(folder)], []) if folder.is_file() else find_images(folder)
    warn_of_unread(folder, unread)
    if not paths:
        raise FileNotFoundError(
            f"The folder '{folder}' holds no image; name the folder of the pictures "
            "(--data.predict_root)."
        )
    return paths, torch.full((len(paths),), -1, device="cpu")


def in_order(found: Found, names: list[str], source: str) -> Found:
    """Put the classes into the order that was asked for.

    Args:
        found: The pictures.
        names: The names of the classes.
        source: Who asks, such as ``class_names``, for the error messages.
    """
    if unknown := sorted(set(found.class_names) - set(names)):
        raise RuntimeError(
            f"There are pictures of the class '{unknown[0]}', which {source} does not name; "
            "correct the label or the list of classes."
        )
    if missing := sorted(set(names) - set(found.class_names)):
        raise RuntimeError(
            f"There are no pictures of the class '{missing[0]}', which {source} names; add "
            "pictures or correct the list of classes."
        )
    return found._replace(class_names=names)


def with_all_splits(found: Found, shares: Mapping[str, float], seed: int) -> Found:
    """Draw the splits that are missing from the training pictures.

    Nothing is drawn if there are pictures for validation, but none for testing: validation
    pictures are for both then. So they are if the share for testing is 0.
    """
    splits = {split: pictures for split, pictures in found.splits.items() if pictures}
    if "val" in splits:
        return found._replace(splits=splits)
    wanted = {split: shares[split] for split in OTHERS if split not in splits}
    drawn = split_by_class(splits["train"], wanted, seed)
    complete = {split: drawn.get(split, splits.get(split, [])) for split in ("train", *OTHERS)}
    return found._replace(splits=without_empty_test(complete), drawn=any(wanted.values()))


def without_empty_test(splits: Splits) -> Splits:
    """Leave out the test pictures if there are none, so that those for validation are used."""
    if splits["test"]:
        return splits
    if not splits["val"]:
        raise RuntimeError(
            "There are no pictures to measure with: val_share and test_share are both 0; raise one "
            "(--data.val_share, --data.test_share)."
        )
    return {"train": splits["train"], "val": splits["val"]}


def tensors(found: Found, root: Path) -> tuple[tuple[list[str], Tensor], ...]:
    """Return paths and labels of each split, as ``read_splits`` of a data module does.

    Args:
        found: The pictures.
        root: The folder that their names begin at.

    Returns:
        For each split the paths, and the numbers of the classes, int64.
    """
    number = {name: index for index, name in enumerate(found.class_names)}
    return tuple(
        (
            paths_below(root, (name for name, _ in pictures)),
            torch.tensor([number[label] for _, label in pictures], dtype=torch.int64, device="cpu"),
        )
        for pictures in found.splits.values()
    )


def paths_below(root: Path, names: Iterable[str]) -> list[str]:
    """Return the paths of pictures from their names."""
    start = _start(root)
    # Path.is_absolute takes seconds for a million names.
    return [name if os.path.isabs(name) else f"{start}{name}" for name in names]  # noqa: PTH117


def names_below(root: Path, paths: Iterable[str]) -> list[str]:
    """Return the names of pictures, their paths below ``root`` with ``/``.

    Example:
        >>> names_below(Path("photos"), ["photos/2024/a.jpg"])
        ['2024/a.jpg']
    """
    start = _start(root) or f".{os.sep}"
    return [path.removeprefix(start).replace(os.sep, "/") for path in paths]


def _start(root: Path) -> str:
    """What the path of a picture below ``root`` begins with, before its name."""
    return "" if root == Path() else f"{root}{os.sep}"


def _listed(root: Path, splits: Mapping[str, ClassFiles]) -> Found:
    """The pictures of class folders by name, in their splits."""

    def pictures(files: ClassFiles) -> list[Picture]:
        labels = chain.from_iterable([name] * len(paths) for name, paths in files.items())
        names = names_below(root, chain.from_iterable(files.values()))
        return list(zip(names, labels, strict=True))

    names = list(next(iter(splits.values())))
    return Found(names, {split: pictures(files) for split, files in splits.items()})
