"""How folders and files may be named: from a home, and in either Unicode form."""

from pathlib import Path
from unicodedata import normalize

import pytest

from tests.data.image_folders import write_classes, write_image
from tests.data.test_image_masks import CLASSES, write_pair
from tests.trainers import quiet_trainer
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.callbacks import PredictionWriter
from wiring_lightning.data import CIFAR10, ImageFolder, ImageMaskFolder, MiniImageNet, PartLabels
from wiring_lightning.data._find_files import given
from wiring_lightning.tasks import ClassificationTask

FORMS = ["~/Übung", "~/" + normalize("NFD", "Übung"), "Übung", normalize("NFD", "Übung")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that is the working folder, too, and where nothing else may be made."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_folders_of_pictures_are_found(home: Path, path: str, on_disk: str) -> None:
    root = home / normalize(on_disk, "Übung")
    write_classes(root / "classes", {"ant": 4, "bee": 4}, (9, 9))
    write_image(root / "photos" / "é" / "1.png", (9, 9))
    rows = [
        f"{name}/{name}{number:02}.png,{name}\n" for name in ("ant", "bee") for number in range(4)
    ]
    (root / "table.csv").write_text("path,label\n" + "".join(rows))
    for table in (None, f"{path}/table.csv"):
        data = ImageFolder(f"{path}/classes", 2, 8, table=table, num_workers=0)
        data.setup("fit")
        assert len(list(data.train_dataloader())) == 2
        data.predict_root = f"{path}/photos"
        data.setup("predict")
        assert data.predict_names == ["é/1.png"]
        assert len(list(data.predict_dataloader())) == 1
        data.predict_root = f"{path}/photos/{normalize('NFD', 'é')}/1.png"
        data.setup("predict")
        assert data.predict_names == ["1.png"]


@pytest.mark.parametrize("path", FORMS)
def test_folders_in_memory_are_found(home: Path, path: str) -> None:
    root = home / "Übung"
    for number in range(3):
        write_pair(root, f"{number:02}")
    data = ImageMaskFolder(CLASSES, path, image_size=8)
    assert [len(pairs) for pairs in data.find_pairs()] == [1, 1, 1]
    (root / "lfw_funneled").mkdir()
    with pytest.raises(FileNotFoundError, match="no folder 'parts_lfw_funneled_gt_images'"):
        PartLabels(path).find_pairs()
    write_classes(root / "classes", {"ant": 2, "bee": 2}, (9, 9))
    mini = MiniImageNet(f"{path}/classes", train_per_class=1, test_per_class=1)
    assert mini.class_names == ["ant", "bee"]
    assert mini.predict_names == ["ant/ant01.png", "bee/bee01.png"]
    assert len(mini.read(train=False)[0]) == 2


def test_downloaded_data_are_found_from_a_home(
    fake_cifar10: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(fake_cifar10.parent))
    data = CIFAR10(f"~/{fake_cifar10.name}", val_size=10)
    data.setup("fit")
    assert len(data.test_dataloader().labels) == 10


def test_names_that_only_look_like_a_home_stay() -> None:
    assert given("~nobody at all/a.png") == Path("~nobody at all/a.png")
    assert given("a~/~") == Path("a~/~")


@pytest.mark.parametrize("name", ["table.csv", "table.pt"])
def test_predictions_are_written_from_a_home(home: Path, name: str) -> None:
    write_image(home / "photos" / "1.png", (9, 9))
    data = ImageFolder(image_size=8, num_workers=0, predict_root="~/photos")
    task = ClassificationTask(ResNeXt(11, 2, 2, num_classes=3, image_size=8, wiring="full"))
    quiet_trainer(callbacks=[PredictionWriter(f"~/{name}")]).predict(task, data)
    assert sorted(path.name for path in home.iterdir()) == ["photos", name]
