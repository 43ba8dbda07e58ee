import os
import shutil
from http.client import IncompleteRead
from urllib.error import URLError

import pytest
import torch
from torchvision import datasets

from wiring_lightning.data import CIFAR10, CIFAR100, FashionMNIST


def labels_of(loader):
    return torch.cat([labels for _, labels in loader])


def test_cifar10_reads_the_python_files(fake_cifar10):
    data = CIFAR10(root=str(fake_cifar10), batch_size=8, val_size=6, augment=False)
    data.prepare_data()
    data.setup("fit")
    train, val, test = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert train.images.shape == (54, *data.image_shape)
    # Each image is filled with its position in the files.
    assert train.images.flatten(1).unique(dim=1).flatten().tolist() == list(range(54))
    assert val.images[:, 0, 0, 0].tolist() == list(range(54, 60))
    assert labels_of(val).tolist() == [4, 5, 6, 7, 8, 9]
    assert labels_of(test).tolist() == list(range(10))
    images, labels = next(iter(train))
    assert images.shape == (8, 3, 32, 32)
    assert labels.dtype == torch.int64
    mean = torch.arange(54).float().mean() / 255
    expected = (next(iter(val))[0] + mean) * 255
    torch.testing.assert_close(expected[:, 1, 2, 3], torch.arange(54.0, 60.0))


def test_rows_columns_and_channels_keep_their_places(fake_cifar10, monkeypatch):
    reference = datasets.CIFAR10(fake_cifar10).data
    reference[0, 1, 2] = (10, 20, 30)
    monkeypatch.setattr(datasets.CIFAR10, "__init__", lambda self, root, train: None)
    monkeypatch.setattr(datasets.CIFAR10, "data", reference, raising=False)
    monkeypatch.setattr(datasets.CIFAR10, "targets", [0] * 60, raising=False)
    images, _ = CIFAR10(root=str(fake_cifar10)).read(train=True)
    assert images[0, :, 1, 2].tolist() == [10, 20, 30]


def test_cifar100_reads_the_fine_labels(fake_cifar100):
    data = CIFAR100(root=str(fake_cifar100), val_size=10)
    data.setup("fit")
    assert labels_of(data.val_dataloader()).tolist() == list(range(10))
    assert data.num_classes == 100


def test_fashion_mnist_gets_a_black_frame(fake_fashion_mnist):
    data = FashionMNIST(root=str(fake_fashion_mnist), val_size=10)
    data.setup("fit")
    images = data.train_dataloader().images
    assert images.shape == (20, *data.image_shape)
    assert (images[:, :, 2:-2, 2:-2] == 255).all()
    assert images.sum() == 20 * 28 * 28 * 255
    assert labels_of(data.test_dataloader()).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        (CIFAR10, "cifar-10-batches-py"),
        (CIFAR100, "cifar-100-python"),
        (FashionMNIST, "FashionMNIST/raw"),
    ],
)
def test_a_missing_folder_is_named_with_the_way_out(tmp_path, kind, folder):
    data = kind(root=str(tmp_path))
    data.prepare_data()
    with pytest.raises(FileNotFoundError) as caught:
        data.setup("fit")
    message = str(caught.value)
    for part in (kind.__name__, str(tmp_path / folder), "--data.download=true", "--data.root"):
        assert part in message
    assert "\n" not in message


def test_a_damaged_file_is_named(fake_cifar10):
    path = fake_cifar10 / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(RuntimeError, match=r"CIFAR10 cannot be read.*: data_batch_3; delete"):
        CIFAR10(root=str(fake_cifar10)).setup("fit")


def test_a_missing_file_is_named(fake_cifar10):
    (fake_cifar10 / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(RuntimeError, match="damaged or missing: test_batch; delete"):
        CIFAR10(root=str(fake_cifar10)).setup("fit")


def test_a_file_that_is_no_pickle_is_reported(fake_cifar10, monkeypatch):
    (fake_cifar10 / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"no pickle")
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    with pytest.raises(RuntimeError, match="damaged or missing: data_batch_1"):
        CIFAR10(root=str(fake_cifar10)).setup("fit")


def test_a_truncated_idx_file_is_reported(fake_fashion_mnist):
    path = fake_fashion_mnist / "FashionMNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RuntimeError, match=r"FashionMNIST cannot be read.*unreadable"):
        FashionMNIST(root=str(fake_fashion_mnist)).setup("fit")


def test_fewer_labels_than_images_are_reported(fake_fashion_mnist):
    folder = fake_fashion_mnist / "FashionMNIST/raw"
    shutil.copy(folder / "t10k-labels-idx1-ubyte", folder / "train-labels-idx1-ubyte")
    with pytest.raises(RuntimeError, match="30 images but 10 labels"):
        FashionMNIST(root=str(fake_fashion_mnist)).setup("fit")


def test_downloads_only_on_request(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        datasets.CIFAR10, "__init__", lambda self, *args, **kwargs: calls.append(kwargs)
    )
    CIFAR10(root=str(tmp_path)).prepare_data()
    assert calls == []
    CIFAR10(root=str(tmp_path), download=True).prepare_data()
    assert calls == [{"download": True}]


FAILURES = [
    (URLError("no network"), "<urlopen error no network>"),
    (RuntimeError("Error downloading a.gz:\nTried there, got:\nno network\n"), "no network"),
    (RuntimeError("File not found or corrupted."), "File not found or corrupted."),
    (IncompleteRead(b""), "IncompleteRead"),
]


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100, FashionMNIST])
@pytest.mark.parametrize(("error", "reason"), FAILURES)
def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch, kind, error, reason):
    def fail(self):
        raise error

    monkeypatch.setattr(getattr(datasets, kind.__name__), "download", fail)
    with pytest.raises(RuntimeError) as caught:
        kind(root=str(tmp_path), download=True).prepare_data()
    said = str(caught.value)
    assert said.startswith(f"{kind.__name__} could not be downloaded to '{tmp_path}' (")
    assert reason in said
    assert said.endswith("there by hand.")
    assert "\n" not in said


@pytest.mark.skipif(
    "WIRING_CIFAR10_ROOT" not in os.environ,
    reason="set WIRING_CIFAR10_ROOT to the folder that holds cifar-10-batches-py",
)
def test_the_real_cifar10():
    data = CIFAR10(root=os.environ["WIRING_CIFAR10_ROOT"])
    data.setup("fit")
    train, val, test = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    counts = [torch.bincount(loader.labels, minlength=10) for loader in (train, val, test)]
    assert [int(count.sum()) for count in counts] == [45_000, 5_000, 10_000]
    assert (counts[0] + counts[1]).tolist() == [5_000] * 10
    assert counts[2].tolist() == [1_000] * 10
    assert counts[1].min() > 450
    # The first training image is a frog, the first test image a cat.
    assert (int(train.labels[0]), int(test.labels[0])) == (6, 3)
    images = torch.cat([images for images, _ in val])
    assert images.mean().abs() < 0.01
    assert 0.2 < float(images.std()) < 0.3
