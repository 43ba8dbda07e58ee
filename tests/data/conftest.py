import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import datasets

from wiring_lightning.data import CropFlip, ImageDataModule


class TinyImages(ImageDataModule):
    """22 training and 7 test images whose labels are their positions."""

    num_classes = 22
    image_shape = (1, 4, 4)
    crop_flip = CropFlip(padding=1)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        size = 22 if train else 7
        generator = torch.Generator().manual_seed(int(train))
        images = torch.randint(256, (size, *self.image_shape), generator=generator)
        return images.to(torch.uint8), torch.arange(size)


@pytest.fixture
def tiny() -> type[TinyImages]:
    return TinyImages


def _write_pickle(path: Path, content: dict[str, Any]) -> tuple[str, str]:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path.name, hashlib.md5(path.read_bytes()).hexdigest()


def _batch(start: int, size: int, key: str) -> dict[str, Any]:
    """Images that are filled with their index, in the layout of the python version."""
    index = torch.arange(start, start + size)
    data = index[:, None].expand(size, 3 * 32 * 32).to(torch.uint8).numpy()
    return {"data": data.copy(), key: (index % 10).tolist()}


@pytest.fixture
def fake_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10 with 60 training images of the grey levels 0 .. 59 and 10 test images."""
    folder = tmp_path / "cifar-10-batches-py"
    train = [
        _write_pickle(folder / f"data_batch_{i + 1}", _batch(12 * i, 12, "labels"))
        for i in range(5)
    ]
    test = [_write_pickle(folder / "test_batch", _batch(100, 10, "labels"))]
    name, md5 = _write_pickle(folder / "batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", test)
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5}
    )
    return tmp_path


@pytest.fixture
def fake_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-100 with 60 training and 10 test images."""
    folder = tmp_path / "cifar-100-python"
    train = [_write_pickle(folder / "train", _batch(0, 60, "fine_labels"))]
    test = [_write_pickle(folder / "test", _batch(100, 10, "fine_labels"))]
    name, md5 = _write_pickle(folder / "meta", {"fine_label_names": ["a"]})
    monkeypatch.setattr(datasets.CIFAR100, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR100, "test_list", test)
    monkeypatch.setattr(
        datasets.CIFAR100, "meta", {"filename": name, "key": "fine_label_names", "md5": md5}
    )
    return tmp_path


@pytest.fixture
def fake_fashion_mnist(tmp_path: Path) -> Path:
    """Fashion-MNIST with 30 training and 10 test images, all white."""
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, size in (("train", 30), ("t10k", 10)):
        images = struct.pack(">4I", 0x803, size, 28, 28) + b"\xff" * (size * 28 * 28)
        labels = struct.pack(">2I", 0x801, size) + bytes(i % 10 for i in range(size))
        (folder / f"{name}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    return tmp_path


@pytest.fixture
def crop_flip_loop() -> Callable[[Tensor, Tensor, Tensor, int], Tensor]:
    """The plain twin of ``random_crop_flip``: one image and one pixel at a time."""

    def loop(images: Tensor, offsets: Tensor, flips: Tensor, padding: int) -> Tensor:
        result = torch.zeros_like(images)
        _, _, height, width = images.shape
        for b in range(len(images)):
            for y in range(height):
                for x in range(width):
                    row = y + int(offsets[b, 0]) - padding
                    column = (width - 1 - x if flips[b] else x) + int(offsets[b, 1]) - padding
                    if 0 <= row < height and 0 <= column < width:
                        result[b, :, y, x] = images[b, :, row, column]
        return result

    return loop
