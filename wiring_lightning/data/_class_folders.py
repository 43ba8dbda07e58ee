"""Folders with one subfolder of image files per class.

The layout is that of :class:`torchvision.datasets.ImageFolder`.
"""

from dataclasses import dataclass
from pathlib import Path

from wiring_lightning.data._image_files import image_files

ClassFiles = dict[str, list[str]]
"""Paths of the images of each class, both sorted by name."""


@dataclass(frozen=True)
class ClassFolders:
    """Looks into folders with one folder per class, and says in a sentence what is wrong there.

    Args:
        owner: Name of the data set.
        layout: The folder that ``root`` should name.
        remedy: What to do about a class with too few images.

    Raises:
        FileNotFoundError: If a folder does not exist or holds fewer than two folders.
        RuntimeError: If a class has too few images, or is in one of two folders only.
    """

    owner: str
    layout: str
    remedy: str

    def names(self, folder: Path) -> list[str]:
        """Return the names of the class folders, sorted."""
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{self.owner} is not in '{folder}', there is no such folder: point root "
                f"(--data.root) at {self.layout}."
            )
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        # A single folder is more likely the one that should have been named.
        if len(names) < 2:
            found = f"only the folder '{names[0]}'" if names else "no class folders"
            raise FileNotFoundError(
                f"{self.owner} is not in '{folder}', which holds {found}: point root (--data.root) "
                f"at {self.layout}."
            )
        return names

    def files(self, folder: Path, at_least: int) -> ClassFiles:
        """Return ``at_least`` or more images per class, those in folders further down included."""
        files = {name: image_files(folder / name) for name in self.names(folder)}
        for name, paths in files.items():
            if len(paths) < at_least:
                raise RuntimeError(
                    f"{self.owner}: the class folder '{folder / name}' holds {len(paths)} image(s),"
                    f" but {at_least} are needed; {self.remedy}."
                )
        return files

    def two_splits(
        self, train: tuple[Path, int], other: tuple[Path, int]
    ) -> tuple[ClassFiles, ClassFiles]:
        """Return the images of two folders with the same classes, each with its ``at_least``."""
        train_files, other_files = self.files(*train), self.files(*other)
        different = sorted(train_files.keys() ^ other_files.keys())
        if different:
            raise RuntimeError(
                f"{self.owner}: '{train[0]}' and '{other[0]}' must hold the same classes, but "
                f"{len(different)} are in one of them only, such as '{different[0]}'; complete the "
                "folders, or split the images of each class instead of the classes."
            )
        return train_files, other_files
