"""Part Labels: faces in which each pixel is hair, skin or background."""

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from wiring_lightning.data._find_files import existing, given, read_list
from wiring_lightning.data._mask_files import IGNORED, classes_of_colors
from wiring_lightning.data._mask_splits import Pair
from wiring_lightning.data._read_image import pixels, read_image
from wiring_lightning.data._with_masks import MaskDataModule

_IMAGES = "lfw_funneled"
_MASKS = "parts_lfw_funneled_gt_images"
_LISTS = ("parts_train.txt", "parts_validation.txt", "parts_test.txt")
_STORED_SIZE = 250
_SIZE = 256
_FRAME = (_SIZE - _STORED_SIZE) // 2

_BLUE, _GREEN, _RED = (0, 0, 255), (0, 255, 0), (255, 0, 0)


class PartLabels(MaskDataModule):
    """LFW Part Labels (Kae et al.): 1,500 + 500 + 927 labelled faces, as [3, 256, 256].

    ``root`` has the files of the release:

    * ``lfw_funneled/NAME/NAME_0001.jpg``: the funneled images, 250x250;
    * ``parts_lfw_funneled_gt_images/NAME_0001.ppm``: their masks, hair in red, skin in green and
      background in blue;
    * ``parts_train.txt``, ``parts_validation.txt`` and ``parts_test.txt``: the splits, one image
      per line, as a person's name and a number.

    The loaders yield ``(images, masks)``: images float32 [B, 3, 256, 256], masks int64
    [B, 256, 256]. As in Budgeted Super Networks, images are padded by 3 black pixels, training
    mirrors half of them together with their masks, and the values are mapped to [-1, 1]. Pixels of
    the padding have no class (255), so loss and accuracy ignore them.

    All images are read at the start and stay in memory, on the trainer's device: 0.8 GB
    for the whole data set.

    Args:
        root: Folder that holds the two folders and the three lists.
        batch_size: Images per step and process: with four GPUs and 16, the network sees 64 images
            per step.
        options: The other arguments of :class:`InMemoryDataModule`; ``normalization`` is
            'symmetric' if not given.

    Attributes:
        num_classes: Number of classes.
        class_names: Their names, in the order of their numbers.

    Raises:
        FileNotFoundError: In :meth:`setup`, if a folder, a list or an image is missing.
        RuntimeError: In :meth:`setup`, if a list is empty or has a line of another form, or an
            image is damaged, of another size, or has a colour that is no class.

    Example:
        >>> data = PartLabels(root="data/part_labels", batch_size=16)
        >>> data.num_classes, data.image_shape
        (3, (3, 256, 256))
    """

    num_classes: ClassVar[int] = 3
    class_names: ClassVar[tuple[str, ...]] = ("background", "skin", "hair")
    image_shape: ClassVar[tuple[int, int, int]] = (3, _SIZE, _SIZE)

    def __init__(
        self, root: str = "data/part_labels", batch_size: int = 16, **options: Any
    ) -> None:
        super().__init__(batch_size, **options)
        self.root = root

    @override
    def find_pairs(self) -> tuple[list[Pair], list[Pair], list[Pair]]:
        """Find the files that the lists name."""
        root = given(self.root)
        for folder in (root / _IMAGES, root / _MASKS):
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"PartLabels is not in '{root}', there is no folder '{folder.name}': point "
                    f"root (--data.root) at the folder that holds '{_IMAGES}' and '{_MASKS}'."
                )
        train, val, test = ([_pair(root, *line) for line in _lines(root / name)] for name in _LISTS)
        return train, val, test

    @override
    def read_pair(self, image_path: str, mask_path: str) -> tuple[Tensor, Tensor]:
        """Read an image and its mask, and pad them by black pixels without a class."""
        image, mask = read_image(image_path), read_image(mask_path)
        for path, picture in ((image_path, image), (mask_path, mask)):
            if picture.size != (_STORED_SIZE, _STORED_SIZE):
                raise RuntimeError(
                    f"PartLabels: '{path}' has {picture.width}x{picture.height} pixels, not "
                    f"{_STORED_SIZE}x{_STORED_SIZE}; take the release's own files."
                )
        classes = classes_of_colors(mask, (_BLUE, _GREEN, _RED), mask_path)
        frame = [_FRAME] * 4
        return pad(pixels(image), frame), pad(classes, frame, value=IGNORED)


def _lines(path: Path) -> list[tuple[str, int]]:
    """Return the names and numbers in a list."""
    if not path.exists():
        raise FileNotFoundError(
            f"PartLabels: the list '{path}' is missing; copy it from the release, where it lies "
            "beside the archives."
        )
    found = []
    for number, words in enumerate(map(str.split, read_list(path)), 1):
        if not words:
            continue
        if len(words) != 2 or not words[1].isdecimal():
            raise RuntimeError(
                f"PartLabels: line {number} of '{path}' is '{' '.join(words)}', where a person's "
                "name and a number are needed, such as 'Aaron_Peirsol 3'."
            )
        found.append((words[0], int(words[1])))
    if not found:
        raise RuntimeError(f"PartLabels: the list '{path}' is empty; copy it from the release.")
    return found


def _pair(root: Path, name: str, number: int) -> tuple[str, str]:
    """Return the paths of an image and its mask."""
    stem = f"{name}_{number:04}"
    image = existing(root / _IMAGES / name / f"{stem}.jpg")
    mask = existing(root / _MASKS / f"{stem}.ppm")
    for path in (image, mask):
        if not path.is_file():
            fault = "is no regular file" if path.exists() else "is missing"
            raise FileNotFoundError(
                f"PartLabels: the file '{path}' {fault}, although a list names it; unpack the "
                "release's archives again."
            )
    return str(image), str(mask)
