"""Read data sets that torchvision supports."""

import pickle
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar

import torch
from typing_extensions import override

from wiring_lightning.data._find_files import given
from wiring_lightning.data.base import ImageDataModule
from wiring_lightning.data.in_memory import Split


class TorchvisionDataModule(ImageDataModule):
    """Base of the data modules that read files with one of :mod:`torchvision.datasets`.

    Args:
        root: Folder that holds, or will hold, the data set's own folder.
        batch_size: Images per step and process: with four GPUs and 128, the network sees 512
            images per step.
        val_size: Number of training images to set aside for validation, always the last ones of
            the training set. 0 trains on all of them and turns validation off.
        download: Whether to download the data set into ``root`` if it is not there yet.
        options: The other arguments of :class:`InMemoryDataModule`.

    Attributes:
        dataset_name: Name of the class in :mod:`torchvision.datasets`.
        folder: Folder of its files, relative to ``root``.
    """

    dataset_name: ClassVar[str]
    folder: ClassVar[str]

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 128,
        val_size: int = 5000,
        *,
        download: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(batch_size, val_size, **options)
        self.root = root
        self.download = download

    @override
    def prepare_data(self) -> None:
        """Fetch the files if ``download`` is set and they are not there.

        Raises:
            RuntimeError: If they cannot be fetched.
        """
        if not self.download:
            return
        try:
            self._dataset_class()(str(given(self.root)), download=True)
        except (OSError, HTTPException, RuntimeError) as error:  # torchvision may reword the first
            reason = " ".join(str(error).split())
            raise RuntimeError(
                f"{self.dataset_name} could not be downloaded to '{self.root}' ({reason}); check "
                f"the connection or copy the folder '{self.folder}' there by hand."
            ) from error

    @override
    def read(self, train: bool) -> Split:
        """Read the training or the test images from ``root``.

        Raises:
            FileNotFoundError: If the data set's folder does not exist.
            RuntimeError: If files in it are missing or damaged.
        """
        dataset_class = self._dataset_class()
        root = given(self.root)
        folder = root / self.folder
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{self.dataset_name} is not in '{folder}': fetch it with download=True "
                f"(--data.download=true), or point root (--data.root) at the folder that holds "
                f"'{self.folder}'."
            )
        try:
            dataset = dataset_class(str(root), train=train)
            images = torch.as_tensor(dataset.data, device="cpu")
            labels = torch.as_tensor(dataset.targets, dtype=torch.int64, device="cpu")
            if len(images) != len(labels):
                raise ValueError(f"{len(images)} images but {len(labels)} labels")
        except _DAMAGE as error:
            names = _damaged_files(dataset_class, folder)
            what = f"damaged or missing: {', '.join(names)}" if names else f"unreadable ({error})"
            raise RuntimeError(
                f"{self.dataset_name} cannot be read, in '{folder}' there are files {what}; "
                "delete that folder and fetch it again with download=True (--data.download=true)."
            ) from error
        images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
        return images.contiguous(), labels

    def _dataset_class(self) -> Any:
        # Imported here, because importing torchvision takes about a second.
        from torchvision import datasets

        return getattr(datasets, self.dataset_name)


# What torchvision raises where it reads files that are missing, damaged or of another kind.
_DAMAGE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


def _damaged_files(dataset_class: Any, folder: Path) -> list[str]:
    """Return the names of the files whose checksum is wrong or that are not there."""
    from torchvision.datasets.utils import check_integrity

    if hasattr(dataset_class, "train_list"):
        meta = dataset_class.meta
        expected = [
            *dataset_class.train_list,
            *dataset_class.test_list,
            (meta["filename"], meta["md5"]),
        ]
    else:
        # The published checksums are those of the archives, not of the unpacked files.
        expected = [(Path(name).stem, None) for name, _ in dataset_class.resources]
    return [name for name, md5 in expected if not check_integrity(str(folder / name), md5)]
