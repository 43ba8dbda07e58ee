"""Pictures of one's own in folders: layouts, splits that are kept, and what is refused."""

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.data.batches import fake_trainer
from tests.data.image_folders import COUNTS, make, names, pixels_of, write_classes, write_image
from tests.trainers import quiet_trainer
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.callbacks import PredictionWriter
from wiring_lightning.data import ImageNet, MiniImageNet
from wiring_lightning.tasks import ClassificationTask

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """21 images of 12x18 pixels in three classes."""
    return write_classes(tmp_path / "own", COUNTS, (12, 18))


def test_one_folder_is_split_by_class(root: Path) -> None:
    data = make(root)
    assert data.class_names == list(COUNTS)
    assert (
        str(data) == "ImageFolder: 15 training, 3 validation and 3 test images of shape (3, 8, 8)"
    )
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    for loader, counts in zip(loaders, ([8, 3, 4], [1, 1, 1], [1, 1, 1]), strict=True):
        assert torch.cat([labels for _, labels in loader]).bincount().tolist() == counts
    found = names(data)
    assert sorted(sum(found, [])) == sorted(  # noqa: RUF017
        f"{name}/{name}{number:02}.png" for name, count in COUNTS.items() for number in range(count)
    )
    for paths, (_, labels) in zip(found, data._ready(), strict=True):
        assert [path.split("/")[0] for path in paths] == [list(COUNTS)[i] for i in labels]


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        (("train", "val", "test"), [21, 6, 6]),
        (("train", "valid", "test"), [21, 6, 6]),
        (("train", "validation"), [21, 6]),  # which is for testing, too
        (("train", "test"), [18, 3, 6]),
        (("train",), [15, 3, 3]),
        (("Train", "Val", "TEST"), [21, 6, 6]),
        (("Training", "testing"), [18, 3, 6]),
    ],
)
def test_folders_may_tell_the_splits(
    tmp_path: Path, folders: tuple[str, ...], sizes: list[int]
) -> None:
    for name in folders:
        counts = COUNTS if name.lower().startswith("train") else dict.fromkeys(COUNTS, 2)
        write_classes(tmp_path / name, counts, (9, 9))
    data = make(tmp_path)
    assert [len(paths) for paths in names(data)] == sizes
    drawn = [path for paths in names(data)[1:] for path in paths if path.startswith(folders[0])]
    assert len(drawn) == 21 - sizes[0]
    assert ("split" in data.state_dict()) == bool(drawn)


@pytest.mark.parametrize("place", ["", "train", "test"])
def test_pictures_beside_class_folders_are_counted(tmp_path: Path, place: str) -> None:
    for name in ("train", "test") if place else ("",):
        write_classes(tmp_path / name, dict.fromkeys(COUNTS, 3), (9, 9))
    with warnings.catch_warnings(action="error"):
        make(tmp_path)
    for name in ("1.jpg", "2.jfif"):
        write_image(tmp_path / place / "x.png", (9, 9))
        (tmp_path / place / "x.png").rename(tmp_path / place / name)
    with pytest.warns(UserWarning, match=r"2 image\(s\) that are in no class folder, .*'1.jpg'"):
        make(tmp_path)


def test_the_split_has_a_seed_of_its_own(root: Path) -> None:
    assert names(make(root)) == names(make(root, seed=7))
    assert names(make(root)) != names(make(root, split_seed=7))


@pytest.mark.parametrize("size", [(5, 31), (40, 8), (7, 7)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_pictures_of_any_size_and_kind_are_read(
    tmp_path: Path, size: tuple[int, int], mode: str
) -> None:
    write_classes(tmp_path, dict.fromkeys(COUNTS, 3), (9, 9))
    Image.new(mode, size, 1).save(tmp_path / "ant" / "ant01.png")
    for grey in (False, True):
        data = make(tmp_path, grey=grey, image_size=6, resize=None)
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            for images, _ in loader:
                assert images.shape[1:] == data.image_shape == (1 if grey else 3, 6, 6)
                assert data.normalizer(images).shape == images.shape


def test_grey_is_the_luminance_of_the_colours(root: Path) -> None:
    data = make(root, grey=True, image_size=12, resize=12)
    (images, _), *_ = data.test_dataloader()
    name = Path(names(data)[2][0]).name
    red, green, blue = pixels_of(name, (12, 18)).double()
    expected = (0.299 * red + 0.587 * green + 0.114 * blue)[:, 3:15]
    assert (images[0, 0] - expected).abs().max() <= 0.51
    expected = (images / 255 - 0.449) / 0.226
    torch.testing.assert_close(data.normalizer(images), expected)


def test_without_augmentation_training_sees_what_evaluation_does(root: Path) -> None:
    data = make(root, augment=False, val_share=0.0)
    view = data.transform(train=False)
    expected = [view(Image.open(root / name)) for name in names(data)[0]]
    seen = [image for images, _ in data.train_dataloader() for image in images]
    key = torch.Tensor.tolist
    assert sorted(map(key, seen)) == sorted(map(key, expected))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"counts": {**COUNTS, "dog": 5}},
            "of the checkpoint are ant, bee, cat, those of the data",
        ),
        ({"counts": {"ant": 5, "bee": 5}}, "those of the data have no 'cat'"),
        ({"class_names": ["cat", "ant", "bee"]}, "those of the data have another order"),
    ],
)
def test_other_classes_than_those_of_the_checkpoint_are_refused(
    root: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    state = make(root).state_dict()
    other = write_classes(tmp_path / "other", options.pop("counts", COUNTS), (9, 9))
    with pytest.raises(RuntimeError, match=said):
        make(other, **options).load_state_dict(state)


def task() -> ClassificationTask:
    return ClassificationTask(ResNeXt(11, 2, 2, num_classes=3, image_size=8, wiring="full"))


def test_predictions_have_the_names_of_the_classes_without_the_training_pictures(
    root: Path, tmp_path: Path
) -> None:
    model = task()
    trainer = quiet_trainer(limit_train_batches=1)
    trainer.fit(model, datamodule=make(root))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    shutil.rmtree(root)
    for name in ("b/2.png", "a/9.jpg", "10.PNG", "a/b/1.png", "a/10.png"):
        write_image(tmp_path / "photos" / name, (20, 9))
    (tmp_path / "photos/notes.txt").write_text("no picture")
    data = make(root, "predict", predict_root=str(tmp_path / "photos"))
    assert (data.class_names, data.num_classes, data.predict_labels) == (None, None, None)
    assert str(data) == "ImageFolder: 5 images of shape (3, 8, 8) to predict"
    writer = PredictionWriter(str(tmp_path / "table.csv"))
    quiet_trainer(callbacks=[writer]).predict(task(), data, ckpt_path=tmp_path / "run.ckpt")
    assert data.class_names == list(COUNTS)
    head, *rows = (tmp_path / "table.csv").read_text().splitlines()
    assert head == "file,class,probability,p_ant,p_bee,p_cat"
    found = [row.split(",")[0] for row in rows]
    assert found == ["10.PNG", "a/10.png", "a/9.jpg", "a/b/1.png", "b/2.png"]
    view = data.transform(train=False)
    images = torch.stack([view(Image.open(tmp_path / "photos" / name)) for name in found])
    with torch.no_grad():
        expected = model.eval()(data.normalizer(images)).softmax(1)
    read = torch.tensor([[float(value) for value in row.split(",")[3:]] for row in rows])
    torch.testing.assert_close(read, expected)
    assert [row.split(",")[1] for row in rows] == [list(COUNTS)[i] for i in expected.argmax(1)]


def test_each_prediction_has_the_pictures_that_are_asked_for(root: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_image(first / "1.png", (20, 9))
    write_image(second / "2.png", (20, 9))
    data, trainer = make(root, predict_root=str(first)), quiet_trainer()
    tested = [Path(name).name for name in names(data)[2]]
    for asked, expected in (
        (str(first), ["1.png"]),
        (str(second), ["2.png"]),
        (str(second / "2.png"), ["2.png"]),
        (None, tested),
        (str(first), ["1.png"]),
    ):
        data.predict_root = asked
        assert len(torch.cat(trainer.predict(task(), data))) == len(expected)
        assert [Path(name).name for name in data.predict_names] == expected
        assert (data.predict_labels is None) == (asked is not None)


def test_pictures_without_class_folders_are_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "photos" / "one" / "1.png", (9, 9))
    write_image(tmp_path / "photos" / "2.png", (9, 9))
    for options in ({"root": tmp_path / "photos"}, {"root": tmp_path, "predict_root": "photos"}):
        if "predict_root" in options:
            options["predict_root"] = str(tmp_path / "photos")
        assert make(stage="predict", **options).predict_names == ["2.png", "one/1.png"]
    monkeypatch.chdir(tmp_path / "photos")
    assert make(Path(), "predict", predict_root=".").predict_names == ["2.png", "one/1.png"]
    one = make(tmp_path, "predict", predict_root=str(tmp_path / "photos" / "2.png"))
    assert one.predict_names == ["2.png"]


def test_labelled_pictures_are_predicted_with_their_labels(root: Path, tmp_path: Path) -> None:
    data = make(root, "predict")
    assert data.predict_names == names(make(root))[2]
    assert data.predict_labels == ["ant", "bee", "cat"]
    write_classes(tmp_path / "val", COUNTS, (9, 9))
    root.rename(tmp_path / "train")
    net = ImageNet(str(tmp_path), num_workers=0, image_size=8, resize=9)
    net.setup("predict")
    assert net.predict_names[:2] == ["val/ant/ant00.png", "val/ant/ant01.png"]
    assert net.predict_labels == [name for name, count in COUNTS.items() for _ in range(count)]
    mini = MiniImageNet(str(tmp_path), train_per_class=5, test_per_class=2)
    assert mini.predict_names == [f"val/{c}/{c}{i:02}.png" for i in range(2) for c in COUNTS]
    assert mini.predict_labels == 2 * list(COUNTS)


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 2), (2, 3), (3, 1), (5, 64)])
def test_each_picture_is_predicted_by_one_rank(
    root: Path, world_size: int, batch_size: int
) -> None:
    data = make(root, "predict", predict_root=str(root), batch_size=batch_size)
    whole = torch.cat([images for images, _ in data.predict_dataloader()])
    assert len(whole) == len(data.predict_names) == 21
    for rank in range(world_size):
        data.trainer = fake_trainer(rank, world_size, 0)
        images, labels = map(torch.cat, zip(*data.predict_dataloader(), strict=True))
        assert torch.equal(images, whole[rank::world_size])
        assert labels.eq(-1).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"val_share": 1.0}, "val_share"),
        ({"test_share": -0.1}, "test_share"),
        ({"val_share": 0.5, "test_share": 0.5}, "leave nothing for training"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"resize": 7}, "resize must be at least image_size = 8, got 7"),
        ({"min_area": 0.0}, "min_area"),
        ({"min_area": 1.5}, "min_area must be at most 1"),
        ({"class_names": ["a", "a"]}, "class_names must hold two different names"),
        ({"class_names": ["a"]}, "class_names must hold two different names"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
    ],
)
def test_refuses_bad_arguments(root: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(root, **options)


@pytest.mark.parametrize(
    ("counts", "options", "said"),
    [
        (None, {}, "there is no such folder: point root (--data.root)"),
        ({}, {}, "which holds no class folders"),
        ({"ant": 9}, {}, "which holds only the folder 'ant'"),
        ({"ant": 9, "bee": 0}, {}, "'{root}/bee' holds 0 image(s), but 1"),
        ({"ant": 9, "bee": 2}, {}, "The class 'bee' has 2 picture(s), too few"),
        ({"test/ant": 9}, {}, "holds class folders in 'test', but none in 'train'"),
        ({"train/a": 1, "train/b": 1, "val/a": 1, "val/c": 1}, {}, "2 are in one of them only"),
        ({"val/a": 1, "valid/a": 1}, {}, "both hold the classes of one split"),
        ({"val/a": 1, "Val/a": 1}, {}, "both hold the classes of one split"),
        ({"car/a": 1, "train/a": 1, "train/b": 1}, {}, "but '{root}/car' beside it holds images"),
        ({"train/a": 2, "test/a": 2, "test/b": 2, "c": 1}, {}, "which would not be used: move or"),
        ({"train/a": 9, "train/b": 9, "test": 2}, {}, "but '{root}/test' beside it holds images"),
        (COUNTS, {"val_share": 0.0, "test_share": 0.0}, "no pictures to measure with"),
        (COUNTS, {"class_names": ["ant", "bee"]}, "of the class 'cat', which class_names"),
        ({}, {"stage": "predict"}, "'{root}' holds no image"),
        (COUNTS, {"stage": "predict", "predict_root": "/no/where"}, "no folder '/no/where'"),
    ],
)
def test_wrong_folders_are_refused_in_one_sentence(
    tmp_path: Path, counts: dict[str, int] | None, options: dict[str, Any], said: str
) -> None:
    folder = tmp_path / "pictures"
    if counts is not None:
        folder.mkdir()
        write_classes(folder, counts, (9, 9))
    with pytest.raises((RuntimeError, FileNotFoundError)) as caught:
        make(folder, **options)
    assert said.format(root=folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_an_unreadable_picture_is_named(root: Path, content: bytes) -> None:
    (root / "ant" / "ant03.png").write_bytes(content)
    data = make(root, "predict", predict_root=str(root))
    with pytest.raises(RuntimeError) as caught:
        list(data.predict_dataloader())
    assert str(caught.value) == (
        f"The image file '{root}/ant/ant03.png' cannot be read (it is damaged or no image); "
        "replace it with an intact copy."
    )


@pytest.mark.skipif(
    "WIRING_TINY_IMAGENET_ROOT" not in os.environ,
    reason="set WIRING_TINY_IMAGENET_ROOT to a folder with `train` and `val`, one folder per class",
)
def test_real_photographs() -> None:
    root = Path(os.environ["WIRING_TINY_IMAGENET_ROOT"]) / "train"
    data = make(root, batch_size=64, image_size=56, resize=64)
    sizes = [labels.bincount() for _, labels in data._ready()]
    assert all(torch.equal(size, size[:1].expand_as(size)) for size in sizes)
    images, _ = next(iter(data.train_dataloader()))
    assert data.normalizer(images).mean().abs() < 0.5
