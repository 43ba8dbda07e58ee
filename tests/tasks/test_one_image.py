"""A batch of one image while a network with batch norm trains."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.cli.commands import BASE, wiring, write
from tests.trainers import quiet_trainer
from wiring_lightning.backbones import MobileNetV1, ResNet, SparseNet
from wiring_lightning.data import CropFlip, ImageDataModule
from wiring_lightning.tasks import ClassificationTask, SegmentationTask


class FivePixels(ImageDataModule):
    """Five training images; with batches of two or four, the last one has one image."""

    num_classes = 2
    image_shape = (3, 4, 4)
    crop_flip = CropFlip(padding=1)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(int(train))
        images = torch.randint(256, (5, *self.image_shape), generator=generator)
        return images.to(torch.uint8), torch.arange(5) % 2


def small_network() -> nn.Module:
    norm = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3))
    return nn.Sequential(norm, nn.Linear(3, 2))


def compiled_network() -> nn.Module:
    network = small_network()
    network.compile(backend="eager")
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MobileNetV1": lambda: MobileNetV1(0.25, num_classes=2),
    "ResNet": lambda: ResNet(14, wiring="previous", num_classes=2),
    "SparseNet": lambda: SparseNet(10, 4, num_classes=2),
    "a network of the user": small_network,
    "a compiled one": compiled_network,
}


def fit(network: nn.Module, batch_size: int, **options: bool) -> None:
    data = FivePixels(batch_size, val_size=0, **options)
    quiet_trainer().fit(ClassificationTask(network), data)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch_size", [2, 4])
def test_a_last_batch_of_one_image_says_drop_last(name: str, batch_size: int) -> None:
    with pytest.raises(ValueError, match="A training batch holds one image") as caught:
        fit(NETWORKS[name](), batch_size)
    assert "drop_last=True of the data, --data.drop_last=true" in str(caught.value)
    assert "\n" not in str(caught.value)
    fit(NETWORKS[name](), batch_size, drop_last=True)


def test_batches_of_one_image_say_batch_size() -> None:
    with pytest.raises(ValueError, match="or choose another batch_size"):
        fit(small_network(), 1, drop_last=True)


def test_segmentation_says_the_same() -> None:
    class Everywhere(nn.Module):
        num_classes = 2

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)
            )

        def forward(self, images: Tensor) -> Tensor:
            return self.layers(images).expand(-1, -1, *images.shape[2:])

    with pytest.raises(ValueError, match=r"--data\.drop_last=true"):
        SegmentationTask(Everywhere())(torch.zeros(1, 3, 4, 4))


def test_other_errors_of_a_network_stay_what_they_are() -> None:
    class Broken(nn.Module):
        num_classes = 2

        def forward(self, images: Tensor) -> Tensor:
            raise ValueError("Expected something else")

    with pytest.raises(ValueError, match=r"^Expected something else$"):
        ClassificationTask(Broken())(torch.zeros(1, 3, 4, 4))


def test_evaluation_takes_one_image() -> None:
    assert ClassificationTask(small_network()).eval()(torch.zeros(1, 3, 4, 4)).shape == (1, 2)


def test_the_command_line_says_it_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restores what the command leaves behind
    backbone = {
        "class_path": "MobileNetV1",
        "init_args": {"width": 0.25, "in_channels": 1, "num_classes": 10},
    }
    model = {**BASE["model"], "init_args": {"backbone": backbone}}
    trainer = {**BASE["trainer"], "callbacks": [], "limit_train_batches": 1.0}
    config = write({**BASE, "model": model, "trainer": trainer}, tmp_path / "mobile.yaml")
    # 1,196 of the 1,197 training images fill 13 batches.
    run = wiring("fit", "--config", config, "--data.batch_size=92")
    assert run.code != 0
    assert "Traceback" not in run.err
    assert "--data.drop_last=true" in run.err.splitlines()[-1]
    run = wiring("fit", "--config", config, "--data.batch_size=92", "--data.drop_last=true")
    assert run.code == 0
