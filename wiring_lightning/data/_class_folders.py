"""Folders with one subfolder of image files per class.

The layout is that of :class:`torchvision.datasets.ImageFolder`.
"""

import warnings
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from wiring_lightning.data._find_files import find_images, subfolders, warn_of_unread

ClassFiles = dict[str, list[str]]
"""Paths of the images of each class, both sorted by name."""


@dataclass(frozen=True)
class ClassFolders:
    """Finds images in folders with one subfolder per class, and checks the folders.

    Args:
        owner: Name of the data set.
        layout: The folder that ``root`` should name.
        remedy: The advice for a class with too few images, for the error message.
    """

    owner: str
    layout: str
    remedy: str

    def paths(self, folder: Path) -> dict[str, Path]:
        """Return the class folders by their names, sorted."""
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{self.owner} is not in '{folder}', there is no such folder: point root "
                f"(--data.root) at {self.layout}."
            )
        found = subfolders(folder)
        # With a single subfolder, root probably points one level too high.
        if len(found) < 2:
            holds = f"only the folder '{min(found)}'" if found else "no class folders"
            raise FileNotFoundError(
                f"{self.owner} is not in '{folder}', which holds {holds}: point root (--data.root) "
                f"at {self.layout}."
            )
        return found

    def files(self, folder: Path, at_least: int) -> ClassFiles:
        """Return the images of each class, at least ``at_least``, with those in subfolders."""
        folders = self.paths(folder)
        self.warn_of_images_beside(folder)
        found = {name: find_images(path) for name, path in folders.items()}
        warn_of_unread(folder, list(chain.from_iterable(one.unread for one in found.values())))
        files = {name: one.paths for name, one in found.items()}
        for name, images in files.items():
            if len(images) < at_least:
                raise RuntimeError(
                    f"{self.owner}: the class folder '{folders[name]}' holds {len(images)} "
                    f"image(s), but {at_least} are needed; {self.remedy}."
                )
        return files

    def warn_of_images_beside(self, folder: Path) -> None:
        """Warn of images in a folder that are in none of its folders."""
        if images := list(chain.from_iterable(find_images(folder, below=False))):
            warnings.warn(
                f"{self.owner}: '{folder}' holds {len(images)} image(s) that are in no class "
                f"folder, such as '{Path(images[0]).name}', and are not used: put them into one, "
                "or elsewhere.",
                stacklevel=2,
            )

    def splits(self, *folders: tuple[Path, int]) -> list[ClassFiles]:
        """Return the images of folders with the same classes, given with their ``at_least``."""
        found = [self.files(*folder) for folder in folders]
        for (folder, _), files in zip(folders, found, strict=True):
            different = sorted(found[0].keys() ^ files.keys())
            if different:
                raise RuntimeError(
                    f"{self.owner}: '{folders[0][0]}' and '{folder}' must hold the same classes, "
                    f"but {len(different)} are in one of them only, such as '{different[0]}'; "
                    "complete the folders, or split the images of each class instead of the "
                    "classes."
                )
        return found


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folders of the splits in ``root`` by ``train``, ``val`` and ``test``.

    A class may have such a name too, but its folder holds images: only a folder with folders
    inside counts. ``training``, ``valid``, ``validation`` and ``testing`` are other names of them,
    and capitals make no difference.

    Raises:
        RuntimeError: If one split has two folders, or images are beside the folders of the splits.
    """
    if not root.is_dir():
        return {}
    folders = subfolders(root)
    found = {}
    for split, names in _SPLIT_NAMES.items():
        there = [p for name, p in folders.items() if name.lower() in names and subfolders(p)]
        if len(there) > 1:
            raise RuntimeError(
                f"'{there[0]}' and '{there[1]}' both hold the classes of one split; leave one."
            )
        if there:
            found[split] = there[0]
    for other in folders.values() if found else ():
        if other not in found.values() and any(find_images(other)):
            split_folder = next(iter(found.values()))
            raise RuntimeError(
                f"'{split_folder}' holds the folders of a split, but '{other}' beside it holds "
                "images, too, which would not be used: move or rename one of them (a class with "
                "the name of a split has no folders inside)."
            )
    return found


_SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
