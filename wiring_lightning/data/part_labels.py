"""Part Labels: faces in which each pixel is hair, skin or background."""

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from wiring_lightning.data._image_folders import read_image
from wiring_lightning.data._in_memory import InMemoryDataModule, Split
from wiring_lightning.data._mask_files import IGNORED, classes_of_colors
from wiring_lightning.data.augment import Mirror
from wiring_lightning.data.normalize import Normalization

_IMAGES = "lfw_funneled"
_MASKS = "parts_lfw_funneled_gt_images"
_LISTS = ("parts_train.txt", "parts_validation.txt", "parts_test.txt")
_STORED_SIZE = 250
_SIZE = 256
_FRAME = (_SIZE - _STORED_SIZE) // 2

_BLUE, _GREEN, _RED = (0, 0, 255), (0, 255, 0), (255, 0, 0)


class PartLabels(InMemoryDataModule):
    """LFW Part Labels (Kae et al.): 1,500 + 500 + 927 labelled faces, as [3, 256, 256].

    ``root`` holds the files of the release as they come:

    * ``lfw_funneled/NAME/NAME_0001.jpg``: the funneled images, 250x250;
    * ``parts_lfw_funneled_gt_images/NAME_0001.ppm``: their masks, hair in red, skin in green and
      background in blue;
    * ``parts_train.txt``, ``parts_validation.txt`` and ``parts_test.txt``: the splits, one image a
      line, as a person's name and a number.

    The loaders yield ``(images, masks)``: images float32 [B, 3, 256, 256], masks int64
    [B, 256, 256]. As in Budgeted Super Networks, images get a frame of 3 black pixels, training
    mirrors half of them together with their masks, and the values are mapped to [-1, 1]. Pixels of
    the frame have no class (255), so they count neither in the loss nor in the accuracy.

    All images are read at the start and stay in memory, on the GPU if the trainer uses one: 0.8 GB
    for the whole data set.

    Args:
        root: Folder that holds the two folders and the three lists.
        batch_size: Images per step and process: with four GPUs and 16, the network sees 64 images
            per step.
        augment: Whether to mirror half of the training images, anew in each epoch.
        normalization: How to centre the images after scaling them to [0, 1]. 'symmetric' maps black
            to -1 and white to 1; 'pixel_mean' subtracts the mean training image;
            'channel_mean_std' subtracts each channel's mean and divides by its standard deviation,
            measured on the training split only.
        seed: Start of the random order and augmentation; use another one for each repetition.
        drop_last: Whether to leave out a last training batch that is not full. Evaluation always
            uses every image.

    Attributes:
        num_classes: Number of classes.
        class_names: Their names, in the order of their numbers.

    Raises:
        ValueError: If ``batch_size`` is below 1.
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
    crop_flip: ClassVar[Mirror] = Mirror()

    def __init__(
        self,
        root: str = "data/part_labels",
        batch_size: int = 16,
        augment: bool = True,
        normalization: Normalization = "symmetric",
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, augment, normalization, seed, drop_last)
        self.root = root

    @override
    def read_splits(self) -> tuple[Split, Split, Split]:
        """Read the three splits, framed.

        Returns:
            Three times images, uint8 of shape [N, 3, 256, 256], and masks, uint8 of shape
            [N, 256, 256].
        """
        root = Path(self.root)
        for folder in (root / _IMAGES, root / _MASKS):
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"PartLabels is not in '{root}', there is no folder '{folder.name}': point "
                    f"root (--data.root) at the folder that holds '{_IMAGES}' and '{_MASKS}'."
                )
        # All files are looked up first: what is missing shows at once, not after minutes.
        train, val, test = ([_pair(root, *line) for line in _lines(root / name)] for name in _LISTS)
        return _read_all(train), _read_all(val), _read_all(test)


def _lines(path: Path) -> list[tuple[str, int]]:
    """Return the names and numbers in a list."""
    if not path.is_file():
        raise FileNotFoundError(
            f"PartLabels: the list '{path}' is missing; copy it from the release, where it lies "
            "beside the archives."
        )
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    found = []
    for number, words in enumerate(lines, 1):
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
    pair = root / _IMAGES / name / f"{stem}.jpg", root / _MASKS / f"{stem}.ppm"
    for path in pair:
        if not path.is_file():
            raise FileNotFoundError(
                f"PartLabels: the file '{path}' is missing, although a list names it; unpack the "
                "release's archives again."
            )
    return str(pair[0]), str(pair[1])


def _read_all(pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Read pairs of files into the middle of black images and masks without classes."""
    # Not at the top of the file: importing torchvision takes about a second.
    from torchvision.transforms.functional import pil_to_tensor

    images = torch.zeros(len(pairs), 3, _SIZE, _SIZE, dtype=torch.uint8)
    masks = torch.full((len(pairs), _SIZE, _SIZE), IGNORED, dtype=torch.uint8)
    inside = slice(_FRAME, _FRAME + _STORED_SIZE)
    for index, paths in enumerate(pairs):
        image, mask = (read_image(path) for path in paths)
        for path, picture in zip(paths, (image, mask), strict=True):
            if picture.size != (_STORED_SIZE, _STORED_SIZE):
                width, height = picture.size
                raise RuntimeError(
                    f"PartLabels: '{path}' has {width}x{height} pixels, not "
                    f"{_STORED_SIZE}x{_STORED_SIZE}; take the release's own files."
                )
        images[index, :, inside, inside] = pil_to_tensor(image)
        masks[index, inside, inside] = classes_of_colors(mask, (_BLUE, _GREEN, _RED), paths[1])
    return images, masks
