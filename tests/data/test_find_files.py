"""Folders and lists as people have them: links, accents, and what other systems leave behind."""

import os
import random
import re
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
import torch
from torchvision.datasets.folder import make_dataset

from tests.data.image_folders import write_classes, write_image
from tests.data.test_image_masks import CLASSES, make, mask_of, write_pair
from wiring_lightning.data import ImageFolder, ImageNet, MiniImageNet
from wiring_lightning.data._find_files import IMAGE_ENDINGS, find_images, read_list, subfolders

LEFT_BEHIND = (".hidden", ".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir", "lightning_logs")
ACCENTS = ("é", "Übung", "naïve café", "한국", "Ångström")


def names_in(folder: Path) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in find_images(folder).paths]


def imagenet(root: Path, **options: Any) -> ImageNet:
    data = ImageNet(str(root), batch_size=2, num_workers=0, image_size=8, resize=8, **options)
    data.setup("fit")
    return data


@pytest.mark.parametrize("seed", range(5))
def test_images_come_in_the_order_of_torchvision(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    letters = "abAB01-_ "
    for _ in range(60):
        parts = ["".join(chance.choices(letters, k=2)).strip() or "c" for _ in range(3)]
        name = "/".join(parts[: chance.randint(1, 3)])
        path = tmp_path / "class" / f"{name}{chance.choice(['.png', '.JPG', '.txt', ''])}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            continue
    theirs = make_dataset(tmp_path, {"class": 0}, (".png", ".jpg"), allow_empty=True)
    assert find_images(tmp_path / "class").paths == [path for path, _ in theirs]
    assert len(theirs) > 10


# Pictures of all kinds


def pictures(root: Path, stage: str = "fit", **options: Any) -> ImageFolder:
    data = ImageFolder(str(root), image_size=8, num_workers=0, **options)
    data.setup(stage)
    return data


KINDS = ("jpg", "jpe", "png", "webp", "tga", "pnm", "bmp", "avif", "jp2")


@pytest.mark.parametrize("kind", [one for one in KINDS if f".{one}" in IMAGE_ENDINGS])
def test_pictures_of_every_kind_that_can_be_read_are_used(tmp_path: Path, kind: str) -> None:
    for name in ("ant", "bee"):
        write_classes(tmp_path, {name: 3}, (9, 9))
        for number in range(3):
            write_image(tmp_path / name / f"x{number}.{kind.upper()}", (9, 9))
    with warnings.catch_warnings(action="error"):
        data = pictures(tmp_path)
    assert sum(len(paths) for paths, _ in data.read_splits()) == 12
    assert sum(len(images) for images, _ in data.train_dataloader()) == 8
    predicted = pictures(tmp_path / "none", "predict", predict_root=str(tmp_path / "ant"))
    assert len(predicted.predict_names) == 6


UNREAD = r"^'.*/{}' holds {} picture\(s\) of a kind that cannot be read, such as '{}', and they are"


def test_pictures_of_a_kind_that_cannot_be_read_are_told_once(tmp_path: Path) -> None:
    own = write_classes(tmp_path / "own", {"ant": 3, "bee": 3}, (9, 9))
    for path in ("ant/1.heic", "ant/deep/2.HEIF", "bee/3.svg", "bee/4.CR2", "bee/notes.txt"):
        (own / path).parent.mkdir(exist_ok=True)
        (own / path).write_bytes(b"x")
    for where, folder, said in (
        (own, "own", (4, "1.heic")),
        (tmp_path / "none", "bee", (2, "3.svg")),
    ):
        stage, options = ("fit", {}) if where == own else ("predict", {"predict_root": own / "bee"})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pictures(where, stage, **{name: str(path) for name, path in options.items()})
        (one,) = caught
        assert re.search(UNREAD.format(folder, *said), str(one.message))
    (own / "5.heic").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"1 image\(s\) that are in no class folder, .*'5.heic'"):
        pictures(own)
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "6.heic").write_bytes(b"x")
    with (
        pytest.warns(UserWarning, match=UNREAD.format("phone", 1, "6.heic")),
        pytest.raises(FileNotFoundError, match="holds no image"),
    ):
        pictures(own, "predict", predict_root=str(tmp_path / "phone"))


@pytest.mark.parametrize("place", ["images", "masks"])
def test_images_and_masks_of_a_kind_that_cannot_be_read_are_told(
    tmp_path: Path, place: str
) -> None:
    for number in range(9):
        write_pair(tmp_path, f"{number}")
    (tmp_path / place / "x.heic").write_bytes(b"x")
    with pytest.warns(UserWarning, match=UNREAD.format(place, 1, "x.heic")):
        make(tmp_path)


# What is no data


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_systems_leave_behind_is_no_class_and_no_image(tmp_path: Path, name: str) -> None:
    for split in ("train", "val"):
        write_classes(tmp_path / split, {"ant": 2, "bee": 2}, (9, 9))
        write_image(tmp_path / split / name / "x.png")
        write_image(tmp_path / split / "ant" / name / "x.png")
        write_image(tmp_path / split / "ant" / "._ant00.png")
    data = imagenet(tmp_path)
    assert data.num_classes == 2
    assert str(data).startswith("ImageNet: 4 training and 4 validation images")
    mini = MiniImageNet(str(tmp_path), train_per_class=2, test_per_class=2, batch_size=2)
    mini.setup("fit")
    assert mini.num_classes == 2


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_systems_leave_behind_needs_no_mask(tmp_path: Path, name: str) -> None:
    for number in range(5):
        write_pair(tmp_path, f"{number:02}")
    write_image(tmp_path / "images" / name / "00.png")
    write_image(tmp_path / "masks" / name / "77.png")
    assert sum(map(len, make(tmp_path).find_pairs())) == 5


def test_only_hidden_folders_in_train_are_no_split(tmp_path: Path) -> None:
    write_classes(tmp_path, {"bus": 9, "train": 9})
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    assert MiniImageNet(str(tmp_path)).num_classes == 2


# Links


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    write_classes(tmp_path / "disk", {"ant": 3, "bee": 2, "more": 2}, (9, 9))
    root = tmp_path / "root"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        (root / split / "ant").symlink_to(tmp_path / "disk" / "ant")
        (root / split / "bee").mkdir()
        (root / split / "bee" / "deeper").symlink_to(tmp_path / "disk" / "bee")
        (root / split / "bee" / "one.png").symlink_to(tmp_path / "disk" / "more" / "more00.png")
    assert str(imagenet(root)).startswith("ImageNet: 6 training and 6 validation images")
    write_pair(tmp_path / "elsewhere", "00")
    for number in range(1, 5):
        write_pair(root, f"{number:02}")
    for kind in ("images", "masks"):
        (root / kind / "more").symlink_to(tmp_path / "elsewhere" / kind)
    assert sum(map(len, make(root).find_pairs())) == 5


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("ant/loop", "ant"),
        ("ant/deep/loop", "ant"),
        ("ant/loop", "."),
        ("loop", "."),
        ("ant/loop", ".."),
        ("loop", ".."),
        ("ant/self", "ant/self"),
    ],
)
def test_links_that_lead_back_end(tmp_path: Path, link: str, target: str) -> None:
    root = write_classes(tmp_path / "outer" / "root", {"ant": 2, "bee": 2}, (9, 9))
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to(root / target)
    assert list(subfolders(root)) == ["ant", "bee"]
    assert names_in(root) == ["ant/ant00.png", "ant/ant01.png", "bee/bee00.png", "bee/bee01.png"]


def test_two_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    write_classes(tmp_path, {"ant": 1, "bee": 1}, (9, 9))
    (tmp_path / "ant" / "other").symlink_to(tmp_path / "bee")
    (tmp_path / "bee" / "other").symlink_to(tmp_path / "ant")
    assert names_in(tmp_path / "ant") == ["ant00.png", "other/bee00.png"]
    assert names_in(tmp_path / "bee") == ["bee00.png", "other/ant00.png"]


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "root", {"ant": 1, "bee": 1}, (9, 9))
    (root / "ant" / "notes.txt").symlink_to(tmp_path / "gone.txt")
    (root / "README.md").symlink_to(tmp_path / "gone.md")
    (root / ".lock").symlink_to("user@machine:1234")
    assert list(subfolders(root)) == ["ant", "bee"]
    assert names_in(root / "ant") == ["ant00.png"]
    for name in ("x.png", "x.HEIC", "itself.jpg"):
        link = root / "ant" / name
        link.symlink_to(link if name == "itself.jpg" else tmp_path / "gone.png")
        with pytest.raises(FileNotFoundError, match=f"The link '.*{name}' leads nowhere; mend it"):
            pictures(root)
        link.unlink()
    (root / "cat").symlink_to(tmp_path / "cat")
    with pytest.raises(FileNotFoundError, match=r"The link '.*root/cat' leads nowhere; mend it"):
        subfolders(root)


# Accents


@pytest.mark.parametrize("name", ACCENTS)
@pytest.mark.parametrize(("ours", "theirs"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_both_unicode_forms_of_a_class_are_one(
    tmp_path: Path, name: str, ours: str, theirs: str
) -> None:
    write_classes(tmp_path / "train", {normalize(ours, name): 2, "zoo": 2}, (9, 9))
    write_classes(tmp_path / "val", {normalize(theirs, name): 1, "zoo": 1}, (9, 9))
    data = imagenet(tmp_path)
    train, val = (
        loader.labels.tolist() for loader in (data.train_dataloader(), data.val_dataloader())
    )
    assert train == [label for label in val for _ in range(2)]


@pytest.mark.parametrize("name", ACCENTS)
@pytest.mark.parametrize("forms", ["CCD", "CDC", "DCC", "DDC", "DCD"])
def test_both_unicode_forms_of_an_image_its_mask_and_a_list_are_one(
    tmp_path: Path, name: str, forms: str
) -> None:
    image, mask, listed = (normalize(f"NF{form}", f"{name}/{name}") for form in forms)
    for number in range(2):
        write_pair(tmp_path, f"{number:02}")
    write_image(tmp_path / "images" / f"{image}.png", (12, 20))
    (tmp_path / "masks" / mask).parent.mkdir()
    (tmp_path / "masks" / "01.png").rename(tmp_path / "masks" / f"{mask}.png")
    (tmp_path / "train.txt").write_text("00\n")
    (tmp_path / "test.txt").write_text(f"{listed}.png\n", encoding="utf-8")
    data = make(tmp_path, train_list="train.txt", test_list="test.txt")
    assert torch.equal(data.test_dataloader().labels[0], mask_of("01"))


def test_folders_and_lists_may_be_named_in_the_other_form(tmp_path: Path) -> None:
    for number in range(3):
        write_pair(tmp_path, f"{number:02}")
    for old, new in (("images", "Ü/Bilder é"), ("masks", "Ü/Masken é")):
        path = tmp_path / normalize("NFD", new)
        path.parent.mkdir(exist_ok=True)
        (tmp_path / old).rename(path)
    for name, content in (("Prüfung.txt", "00"), ("Übung.txt", "01")):
        (tmp_path / normalize("NFD", name)).write_text(content)
    data = make(
        tmp_path,
        images="Ü/Bilder é",
        masks="Ü/Masken é",
        train_list="Übung.txt",
        test_list="Prüfung.txt",
    )
    assert torch.equal(data.test_dataloader().labels[0], mask_of("00"))


@pytest.mark.skipif(sys.platform == "darwin", reason="its folders hold one form of a name only")
def test_a_name_in_both_forms_is_refused(tmp_path: Path) -> None:
    for number in range(3):
        write_pair(tmp_path, f"{number:02}")
    for form in ("NFC", "NFD"):
        write_image(tmp_path / "images" / f"{normalize(form, 'é')}.png")
        (tmp_path / "classes" / normalize(form, "é")).mkdir(parents=True)
    with pytest.raises(RuntimeError, match="in the Unicode form of their names; remove one"):
        make(tmp_path)
    with pytest.raises(RuntimeError, match="have the same name in two Unicode forms"):
        subfolders(tmp_path / "classes")


# Lists


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("ending", ["txt", "csv"])
def test_lists_of_any_editor_are_read(tmp_path: Path, encoding: str, end: str, ending: str) -> None:
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    path = tmp_path / f"list.{ending}"
    path.write_bytes(f"{mark}Müller 1{end}{end}b.png {end}".encode(encoding))
    assert read_list(path) == ["Müller 1", "", "b.png"]


@pytest.mark.parametrize("content", ["Müller".encode("latin-1"), b"\xff\xfea", b"\x89PNG\r\n"])
def test_a_list_that_is_no_text_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(
        RuntimeError, match=r"list.txt' cannot be read as text; save it in .* UTF-8"
    ):
        read_list(tmp_path / "list.txt")


# No files


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


SPECIAL = [os.mkfifo, make_socket, make_link]


@pytest.mark.parametrize("special", SPECIAL)
def test_pipes_sockets_and_devices_are_no_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, special: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    write_classes(Path("train"), {"ant": 1, "bee": 1}, (9, 9))
    special(Path("train/ant/x.png"))
    special(Path("train/cat"))
    assert names_in(Path("train")) == ["ant/ant00.png", "bee/bee00.png"]
    assert list(subfolders(Path("train"))) == ["ant", "bee"]


@pytest.mark.parametrize("special", [*SPECIAL, Path.mkdir])
def test_a_list_that_is_no_regular_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, special: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    special(Path("list.txt"))
    with pytest.raises(FileNotFoundError, match=r"'list.txt' is no regular file; correct its name"):
        read_list(Path("list.txt"))


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_pipe_that_a_list_names_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, special: Callable[[Path], None], kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write_pair(Path(), f"{number:02}")
    Path(kind, "02.png").unlink()
    special(Path(kind, "02.png"))
    Path("train.txt").write_text("00\n02\n")
    Path("test.txt").write_text("01")
    with pytest.raises(FileNotFoundError, match=r"'train.txt' names '02', .* no regular file; add"):
        make(Path(), class_names=CLASSES, train_list="train.txt", test_list="test.txt")
