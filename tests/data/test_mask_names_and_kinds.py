"""Masks as people have them: beside their images, as GIF files, and turned as photographs are."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.image_folders import write_image
from tests.data.test_image_masks import CLASSES, HEIGHT, WIDTH, make, mask_of, write_pair
from tests.data.test_part_labels import make as make_faces, write_release
from tests.data.test_read_image import SIDES, make_pipe, save, stored
from wiring_lightning.data import ImageMaskFolder

SIZE = (HEIGHT, WIDTH)
NAMES = [f"{number:02}" for number in range(5)]


def all_masks(data: ImageMaskFolder) -> list[list[list[int]]]:
    """The masks of all splits, in the order of their numbers."""
    loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
    masks = torch.cat([loader.labels for loader in loaders if loader])
    return sorted(masks.tolist())


def expected(*names: str) -> list[list[list[int]]]:
    return sorted(mask_of(name).tolist() for name in names)


# Names


def write_marked(root: Path, images: str, masks: str, suffix: str) -> None:
    for name in NAMES:
        write_image(root / images / f"{name}.jpg", SIZE)
        path = root / masks / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask_of(name).numpy()).save(path)


@pytest.mark.parametrize(
    ("images", "masks"),
    [("images", "masks"), ("pairs", "pairs"), (".", "."), (".", "masks"), ("images", ".")],
)
@pytest.mark.parametrize(
    ("suffix", "ending"),
    [("_mask", ".png"), ("_mask", ".gif"), ("-labels", ".PNG"), (".seg", ".tif"), ("m", ".bmp")],
)
def test_a_suffix_tells_masks_from_images(
    tmp_path: Path, images: str, masks: str, suffix: str, ending: str
) -> None:
    write_marked(tmp_path, images, masks, suffix + ending)
    data = make(tmp_path, images=images, masks=masks, mask_suffix=suffix)
    assert all_masks(data) == expected(*NAMES)
    (tmp_path / "train.txt").write_text("02\n03.jpg\n")
    (tmp_path / "test.txt").write_text("00\n")
    lists = {"train_list": "train.txt", "test_list": "test.txt"}
    data = make(tmp_path, images=images, masks=masks, mask_suffix=suffix, **lists)
    assert all_masks(data) == expected("00", "02", "03")


def test_files_without_the_suffix_are_no_masks(tmp_path: Path) -> None:
    write_marked(tmp_path, "images", "masks", "_mask.png")
    write_image(tmp_path / "masks" / "00_overlay.png")
    write_image(tmp_path / "masks" / "00.png")
    assert all_masks(make(tmp_path, mask_suffix="_mask")) == expected(*NAMES)


@pytest.mark.parametrize(
    ("suffix", "name", "message"),
    [
        ("_seg", None, r"No name of an image in '.*/masks' ends in '_seg'; correct mask_suffix"),
        ("_mask", "images/02.jpg", r"02_mask.png' has no partner '02' in '.*images' \(one of 1\)"),
        ("_mask", "masks/02_mask.png", r"02.jpg' has no partner '02_mask' in '.*masks'"),
    ],
)
def test_a_missing_partner_is_named_with_the_suffix(
    tmp_path: Path, suffix: str, name: str | None, message: str
) -> None:
    write_marked(tmp_path, "images", "masks", "_mask.png")
    if name is not None:
        (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        make(tmp_path, mask_suffix=suffix)


@pytest.mark.parametrize("suffix", ["_mask.png", ".PNG", "_mask.gif"])
def test_a_suffix_has_no_ending(suffix: str) -> None:
    with pytest.raises(ValueError, match="mask_suffix stands before the ending, such as '_mask'"):
        ImageMaskFolder(CLASSES, mask_suffix=suffix)


# GIF


def write_gifs(root: Path, values: list[int], palette: list[int] | None = None) -> None:
    """Masks in which class c has the number `values[c]`, or the colour of that number."""
    for name in NAMES:
        write_image(root / "images" / f"{name}.png", SIZE)
        path = root / "masks" / f"{name}.gif"
        path.parent.mkdir(exist_ok=True)
        numbers = torch.tensor(values, dtype=torch.uint8)[mask_of(name).long()]
        image = Image.fromarray(numbers.numpy())
        if palette is not None:
            image.putpalette(palette)
        image.save(path)


@pytest.mark.filterwarnings("ignore:No training mask")
@pytest.mark.parametrize(
    ("values", "classes"),
    [([0, 1, 2], 3), ([1, 2, 0], 3), ([0, 2, 4], 5), ([0, 1, 255], 3), ([3, 0, 255], 4)],
)
def test_the_grey_levels_of_a_gif_are_its_classes(
    tmp_path: Path, values: list[int], classes: int
) -> None:
    """A GIF file numbers its colours anew, so that 0, 2, 4 may be stored as 0, 1, 2."""
    write_gifs(tmp_path, values)
    numbers = torch.tensor(values)
    wanted = sorted(numbers[mask_of(name).long()].tolist() for name in NAMES)
    names = [str(number) for number in range(classes)]
    assert all_masks(make(tmp_path, class_names=names)) == wanted


def test_the_colours_of_a_gif_need_a_palette(tmp_path: Path) -> None:
    colors = [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    write_gifs(tmp_path, [0, 7, 15], np.repeat(colors, [1, 7, 248], axis=0).flatten().tolist())
    assert all_masks(make(tmp_path, palette=colors)) == expected(*NAMES)
    with pytest.raises(RuntimeError, match=r"\.gif' has colours .* name the colours"):
        make(tmp_path)


def test_transparent_colours_of_a_mask_are_those_in_the_file(tmp_path: Path) -> None:
    colors = [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    for name in NAMES:
        write_image(tmp_path / "images" / f"{name}.png", SIZE)
        path = tmp_path / "masks" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        classes = mask_of(name).numpy()
        opacity = 100 * (classes > 0).astype(np.uint8)[..., None]
        seen = np.concatenate([np.array(colors, np.uint8)[classes], opacity], 2)
        Image.fromarray(seen).save(path)
    assert all_masks(make(tmp_path, palette=colors)) == expected(*NAMES)


def test_black_and_white_gifs_are_read_as_other_black_and_white_masks(tmp_path: Path) -> None:
    write_gifs(tmp_path, [0, 255, 255])
    with pytest.warns(UserWarning, match="white masks need a palette"):
        make(tmp_path, class_names=["off", "on"])
    black_and_white = [(0, 0, 0), (255, 255, 255)]
    data = make(tmp_path, class_names=["off", "on"], palette=black_and_white)
    wanted = sorted((mask_of(name) > 0).long().tolist() for name in NAMES)
    assert all_masks(data) == wanted


# Turned images


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("turn_mask", [False, True])
def test_image_and_mask_match_however_they_were_held(
    tmp_path: Path, orientation: int, turn_mask: bool
) -> None:
    for name in NAMES:
        write_pair(tmp_path, name)
        for kind in ("images", "masks") if turn_mask else ("images",):
            path = tmp_path / kind / f"{name}.png"
            save(stored(np.array(Image.open(path)), orientation), path, orientation)
    data = make(tmp_path)
    for loader in (data.train_dataloader(), data.test_dataloader()):
        assert torch.equal(loader.labels, loader.images[:, 0] // 86)
    assert all_masks(data) == expected(*NAMES)


def test_a_mask_that_was_not_turned_is_refused_with_a_hint(tmp_path: Path) -> None:
    for name in NAMES:
        write_pair(tmp_path, name)
        path = tmp_path / "images" / f"{name}.png"
        save(np.array(Image.open(path)), path, orientation=6)
    with pytest.raises(RuntimeError, match="same size, also once each is turned as its own EXIF"):
        make(tmp_path)


# Numbers


@pytest.mark.parametrize("dtype", ["uint16", ">u2", "int32"])
def test_the_numbers_of_masks_are_not_scaled(tmp_path: Path, dtype: str) -> None:
    for name in NAMES:
        write_pair(tmp_path, name)
        (tmp_path / "masks" / f"{name}.png").unlink()
        Image.fromarray(mask_of(name).numpy().astype(dtype)).save(tmp_path / f"masks/{name}.tif")
    assert all_masks(make(tmp_path)) == expected(*NAMES)


def test_masks_of_floating_point_numbers_are_refused(tmp_path: Path) -> None:
    for name in NAMES:
        write_pair(tmp_path, name)
    (tmp_path / "masks/02.png").unlink()
    Image.fromarray(mask_of("02").float().numpy()).save(tmp_path / "masks/02.tif")
    with pytest.raises(RuntimeError, match=r"02.tif' holds floating-point numbers, .* whole numb"):
        make(tmp_path)


# Part Labels, whose lists name the files


def test_part_labels_reads_marked_lists_and_names_in_either_form(tmp_path: Path) -> None:
    write_release(tmp_path)
    wanted = make_faces(tmp_path).val_dataloader().labels
    old, new = "Ed", unicodedata.normalize("NFD", "Édouard")
    folder = (tmp_path / "lfw_funneled" / old).rename(tmp_path / "lfw_funneled" / new)
    (folder / "Ed_0003.jpg").rename(folder / f"{new}_0003.jpg")
    masks = tmp_path / "parts_lfw_funneled_gt_images"
    (masks / "Ed_0003.ppm").rename(masks / f"{new}_0003.ppm")
    (tmp_path / "parts_validation.txt").write_text("Bo 2\r\nÉdouard 3\r\n", encoding="utf-8-sig")
    assert torch.equal(make_faces(tmp_path).val_dataloader().labels, wanted)


@pytest.mark.parametrize(
    "name", ["lfw_funneled/Ed/Ed_0003.jpg", "parts_lfw_funneled_gt_images/Ed_0003.ppm"]
)
def test_part_labels_names_a_pipe(tmp_path: Path, name: str) -> None:
    write_release(tmp_path)
    (tmp_path / name).unlink()
    make_pipe(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=f"{name}' is no regular file, although a list"):
        make_faces(tmp_path)
