"""A network that is evaluated from a checkpoint gets images as it was trained on them."""

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch import Tensor, nn

from tests.data.conftest import TinyImages
from tests.data.image_folders import write_classes
from tests.trainers import quiet_trainer
from wiring_lightning.data import ImageFolder, MiniImageNet

KINDS = ["pixel_mean", "channel_mean_std", "symmetric"]
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


class Sees(LightningModule):
    """Predicts the images that it gets, and keeps those that it is trained and tested on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.trained: list[Tensor] = []
        self.tested: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.trained.append(batch[0])
        return self.layer(torch.ones(1)).sum()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.tested.append(batch[0])

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        images: Tensor = batch[0]
        return images

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(data: Any, path: Path) -> Path:
    """Train on data, and leave a checkpoint."""
    trainer = quiet_trainer()
    trainer.fit(Sees(), data)
    trainer.save_checkpoint(path)
    return path


def predict(data: Any, path: Path | None) -> Tensor:
    found: Any = quiet_trainer().predict(Sees(), data, ckpt_path=path)
    return torch.cat(found)


def images_tested(data: TinyImages) -> Tensor:
    data.setup("test")
    return torch.cat([images for images, _ in data.test_dataloader()])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The test images of the tiny data set as files."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, image in enumerate(TinyImages().read(train=False)[0]):
        Image.fromarray(image[0].numpy()).save(folder / f"{number}.png")
    return folder


def own(folder: Path, **options: Any) -> ImageFolder:
    options = {"image_size": 4, "resize": 4, "grey": True, "num_workers": 0, **options}
    return ImageFolder(str(folder), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_normalised_as_the_data_that_a_network_was_trained_on(
    tmp_path: Path, photos: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = train(TinyImages(8, 5, normalization=kind), tmp_path / "tiny.ckpt")
    expected = images_tested(TinyImages(8, 5, normalization=kind))
    for data in (own(photos), own(tmp_path / "nowhere", predict_root=str(photos))):
        with caplog.at_level(logging.INFO):
            assert torch.equal(predict(data, path), expected)
        said = f"ImageFolder: images are normalised as by TinyImages in the training of {path}"
        assert caplog.text.count(said) == 1
        caplog.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_other_options_of_one_data_module_make_no_difference(tmp_path: Path, kind: str) -> None:
    path = train(TinyImages(8, 5, normalization=kind), tmp_path / "tiny.ckpt")
    expected = images_tested(TinyImages(8, 5, normalization=kind))
    for other in KINDS:  # another part of the images has another mean, too
        data = TinyImages(8, 2, normalization=other)
        assert torch.equal(predict(data, path), expected)
        model = Sees()
        quiet_trainer().test(model, data, ckpt_path=path, verbose=False)
        assert torch.equal(torch.cat(model.tested), expected)


def test_a_fit_has_the_statistics_of_its_own_data(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "own", {"ant": 6, "bee": 6}, (4, 4))
    path = train(TinyImages(8, 5), tmp_path / "tiny.ckpt")
    data = own(root, batch_size=12, augment=False)
    taken = predict(data, path)
    assert not torch.allclose(taken, predict(own(root), None))
    model = Sees()
    quiet_trainer(max_epochs=2).fit(model, data, ckpt_path=path)
    (images,) = model.trained
    levels = (images * 0.226 + 0.449) * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)


def test_a_checkpoint_of_the_same_normalisation_is_not_mentioned(
    tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_classes(tmp_path / "own", {"ant": 6, "bee": 6}, (4, 4))
    path = train(own(root), tmp_path / "own.ckpt")
    with caplog.at_level(logging.INFO), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        predict(own(root, predict_root=str(photos)), path)
        predict(TinyImages(8, 5), train(TinyImages(8, 5), tmp_path / "tiny.ckpt"))
    assert "normalise" not in caplog.text + "".join(map(str, said))


def test_a_mean_image_that_is_too_small_is_told(tmp_path: Path, photos: Path) -> None:
    path = train(TinyImages(8, 5), tmp_path / "tiny.ckpt")
    larger = own(photos, image_size=6, resize=6)
    with pytest.warns(UserWarning, match=r"with TinyImages and a mean of shape \[1, 4, 4\], which"):
        seen = predict(larger, path)
    torch.testing.assert_close(seen, predict(own(photos, image_size=6, resize=6), None))


def test_the_centre_of_a_larger_mean_image_is_used(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "own", {"ant": 6, "bee": 6})
    mini = MiniImageNet(str(root), 4, train_per_class=3, test_per_class=3)
    path = train(mini, tmp_path / "mini.ckpt")
    taken = own(tmp_path / "nowhere", image_size=64, resize=84, grey=False)
    taken.predict_root = str(root)
    seen = predict(taken, path)  # ant00, ant01, ..., where those of Mini-ImageNet are in turns
    expected = torch.cat([images for images, _ in mini.test_dataloader()])
    assert torch.equal(seen[[3, 9, 4, 10, 5, 11]], expected)


@pytest.mark.parametrize("save", [True, False])
def test_a_checkpoint_that_does_not_tell_its_normalisation(
    tmp_path: Path, photos: Path, save: bool
) -> None:
    content = torch.load(train(TinyImages(8, 5), tmp_path / "tiny.ckpt"), weights_only=True)
    del content["TinyImages"]["normalization"]
    if not save:
        del content["TinyImages"]  # as of a data module that is none of this package
    torch.save(content, tmp_path / "older.ckpt")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        predict(own(photos), tmp_path / "older.ckpt")
    told = [one for one in said if "trained with TinyImages, and the checkpoint does" in str(one)]
    assert len(told) == save
