"""Folders with one subfolder of image files per class: what is in them, and reading one image.

The layout is that of :class:`torchvision.datasets.ImageFolder`.
"""

from pathlib import Path

from PIL import Image

ClassFiles = dict[str, list[str]]
"""Paths of the images of each class, both sorted by name."""


def class_names(folder: Path, owner: str, layout: str) -> list[str]:
    """Return the names of the class folders, sorted.

    Args:
        folder: The folder that holds them.
        owner: Name of the data set, for the error messages.
        layout: The folder that ``root`` should name, for the error messages.

    Raises:
        FileNotFoundError: If ``folder`` does not exist or holds fewer than two folders.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{owner} is not in '{folder}', there is no such folder: point root (--data.root) at "
            f"{layout}."
        )
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    # A single folder is more likely the one that should have been named.
    if len(names) < 2:
        found = f"only the folder '{names[0]}'" if names else "no class folders"
        raise FileNotFoundError(
            f"{owner} is not in '{folder}', which holds {found}: point root (--data.root) at "
            f"{layout}."
        )
    return names


def class_files(folder: Path, owner: str, layout: str, at_least: int, remedy: str) -> ClassFiles:
    """Return the image files of each class, those in folders further down included.

    Args:
        folder: The folder that holds one folder per class.
        owner: Name of the data set, for the error messages.
        layout: The folder that ``root`` should name, for the error messages.
        at_least: How many images each class needs.
        remedy: What to do about a class with fewer, for the error message.

    Raises:
        FileNotFoundError: If ``folder`` does not exist or holds fewer than two folders.
        RuntimeError: If a class has fewer images than it needs.
    """
    # Not at the top of the file: importing torchvision takes about a second.
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    names = class_names(folder, owner, layout)
    labels = {name: label for label, name in enumerate(names)}
    files: ClassFiles = {name: [] for name in names}
    for path, label in make_dataset(folder, labels, IMG_EXTENSIONS, allow_empty=True):
        files[names[label]].append(path)
    for name, paths in files.items():
        if len(paths) < at_least:
            raise RuntimeError(
                f"{owner}: the class folder '{folder / name}' holds {len(paths)} image(s), but "
                f"{at_least} are needed; {remedy}."
            )
    return files


def require_same_classes(train: ClassFiles, evaluation: ClassFiles, owner: str, where: str) -> None:
    """Check that two splits have class folders of the same names.

    Args:
        train: The training images.
        evaluation: The images for validation or test.
        owner: Name of the data set, for the error message.
        where: The two folders in words, for the error message.

    Raises:
        RuntimeError: If a class is missing in one of them.
    """
    different = sorted(train.keys() ^ evaluation.keys())
    if different:
        raise RuntimeError(
            f"{owner}: {where} must hold the same classes, but {len(different)} are in one of them "
            f"only, such as '{different[0]}'; complete the folders, or split the images of each "
            "class instead of the classes."
        )


class DamagedImageError(RuntimeError):
    """An image file that cannot be read."""


def read_image(path: str, in_color: bool = True) -> Image.Image:
    """Read one image file.

    Args:
        path: The file.
        in_color: Whether to return red, green and blue whatever is in the file.

    Raises:
        DamagedImageError: If it is damaged, no image, or cannot be opened.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB") if in_color else image.copy()
    except _DAMAGE as error:
        # Only the operating system's errors come with a text of their own.
        reason = getattr(error, "strerror", None) or "it is damaged or no image"
        raise DamagedImageError(
            f"The image file '{path}' cannot be read ({reason}); replace it with an intact copy."
        ) from error


# What Pillow's decoders raise on files that are not as they should be.
_DAMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
