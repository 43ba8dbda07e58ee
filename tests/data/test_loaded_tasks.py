"""A task that was loaded sees images as in its training, also if no trainer is given the file."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import wiring_lightning as wl
from tests.data.conftest import TinyImages
from tests.data.image_folders import write_classes
from tests.trainers import quiet_trainer
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.data import ImageFolder
from wiring_lightning.tasks import ClassificationTask

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


class Coloured(TinyImages):
    image_shape = (3, 8, 8)


def network(classes: int) -> nn.Module:
    return ResNeXt(11, 1, 2, num_classes=classes, image_size=8, wiring="full")


LOADERS: dict[str, Callable[[Path], ClassificationTask]] = {
    "wl.load": wl.load,
    "load_from_checkpoint": ClassificationTask.load_from_checkpoint,
    "with a backbone": lambda path: ClassificationTask.load_from_checkpoint(
        path, backbone=network(22)
    ),
    "with a backbone and more weights": lambda path: ClassificationTask.load_from_checkpoint(
        path, backbone=network(22), weights_only=False
    ),
}


def trained(data: Any, path: Path, classes: int = 22) -> Path:
    torch.manual_seed(0)
    trainer = quiet_trainer()
    trainer.fit(ClassificationTask(network(classes)), data)
    trainer.save_checkpoint(path)
    return path


def logits(task: ClassificationTask, data: Any, path: Path | None = None) -> Tensor:
    found: Any = quiet_trainer().predict(task, data, ckpt_path=path)
    return torch.cat(found)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The test images of the data set as files."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, image in enumerate(Coloured().read(train=False)[0]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    return folder


def own(folder: Path, **options: Any) -> ImageFolder:
    return ImageFolder(str(folder), **{"image_size": 8, "resize": 8, "num_workers": 0, **options})


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loaded_task_sees_images_as_in_its_training(
    kind: str, tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = trained(Coloured(8, 5), tmp_path / "task.ckpt")
    task = LOADERS[kind](path)
    expected = logits(LOADERS[kind](path), Coloured(8, 5), path)
    with caplog.at_level(logging.INFO):
        assert torch.equal(logits(task, own(photos)), expected)
    said = f"images are normalised as by Coloured in the training of {path}"
    assert caplog.text.count(said) == 1
    assert torch.equal(logits(task, Coloured(8, 2)), expected)  # whose mean image is another one


def test_a_task_that_was_trained_further_sees_the_statistics_of_its_new_data(
    tmp_path: Path, photos: Path
) -> None:
    task = wl.load(trained(Coloured(8, 5), tmp_path / "task.ckpt"))
    data = Coloured(8, 2, normalization="symmetric")
    assert torch.equal(logits(task, data), logits(task, Coloured(8, 5)))
    quiet_trainer().fit(task, data)
    symmetric = logits(task, own(photos), path=None)
    assert torch.equal(logits(task, data), logits(task, Coloured(8, 5, normalization="symmetric")))
    assert not torch.allclose(symmetric, logits(task, data))  # a folder has its own again


def test_data_have_their_own_statistics_for_a_network_from_nowhere(tmp_path: Path) -> None:
    path = trained(Coloured(8, 5), tmp_path / "task.ckpt")
    data, trained_on = Coloured(8, 2), Coloured(8, 5)
    data.setup("test")
    trained_on.setup("test")
    means = data.normalizer.mean, trained_on.normalizer.mean

    def mean_of(task: ClassificationTask, file: Path | None = None) -> Tensor:
        logits(task, data, file)
        return data.normalizer.mean

    fresh, filled = (ClassificationTask(network(22)) for _ in range(2))
    assert torch.equal(mean_of(fresh), means[0])
    assert torch.equal(mean_of(filled, path), means[1])
    assert torch.equal(mean_of(filled), means[1])  # it still has the weights of the file
    assert torch.equal(mean_of(fresh), means[0])
    assert torch.equal(mean_of(wl.load(path)), means[1])
    assert torch.equal(mean_of(fresh), means[0])


def test_a_loaded_task_is_measured_on_its_own_split(tmp_path: Path) -> None:
    """The pictures that were added later are in no part of it."""
    root = write_classes(tmp_path / "own", {"ant": 10, "bee": 10}, (8, 8))
    path = trained(own(root), tmp_path / "own.ckpt", classes=2)
    before = own(root)
    before.setup("test")
    write_classes(root, {"ant": 30, "bee": 30}, (8, 8), start=50)
    later = own(root)
    with pytest.warns(UserWarning, match="The split of the checkpoint is kept"):
        logits(wl.load(path), later)
    assert later.predict_names == before.predict_names
    renamed = write_classes(tmp_path / "other", {"cat": 10, "dog": 10}, (8, 8))
    with pytest.raises(RuntimeError, match="The classes of the checkpoint are"):
        logits(wl.load(path), own(renamed))
