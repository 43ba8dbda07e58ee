from types import SimpleNamespace

import pytest
import torch

from wiring_lightning.data import CropFlip, Mirror, Normalizer


def gather(loader):
    batches = list(loader)
    return torch.cat([images for images, _ in batches]), torch.cat([y for _, y in batches])


def test_validation_is_the_end_of_the_training_set(tiny):
    data = tiny(batch_size=4, val_size=5)
    data.setup("fit")
    assert sorted(gather(data.train_dataloader())[1].tolist()) == list(range(17))
    assert gather(data.val_dataloader())[1].tolist() == list(range(17, 22))
    assert gather(data.test_dataloader())[1].tolist() == list(range(7))
    assert gather(data.predict_dataloader())[1].tolist() == list(range(7))


@pytest.mark.parametrize("kind", ["pixel_mean", "channel_mean_std"])
def test_statistics_come_from_the_training_split_only(tiny, kind):
    data = tiny(val_size=5, normalization=kind)
    data.setup("fit")
    images, _ = data.read(train=True)
    normalizer = Normalizer.fit(images[:17], kind)
    assert torch.equal(gather(data.val_dataloader())[0], normalizer(images[17:]))
    assert torch.equal(gather(data.val_dataloader())[0], data.normalizer(images[17:]))
    assert not torch.equal(normalizer.mean, Normalizer.fit(images, kind).mean)


def test_no_validation_split(tiny):
    data = tiny(val_size=0)
    data.setup("fit")
    assert data.val_dataloader() == []
    assert len(gather(data.train_dataloader())[1]) == 22


def test_augments_in_training_only_and_on_request(tiny):
    data = tiny(val_size=5)
    data.setup("fit")
    assert data.train_dataloader().crop_flip == data.crop_flip
    assert data.val_dataloader().crop_flip is None
    data.augment = False
    assert data.train_dataloader().crop_flip is None


def test_the_same_order_with_and_without_augmentation(tiny):
    orders = []
    for augment in (True, False):
        data = tiny(val_size=5, augment=augment)
        data.setup("fit")
        orders.append(gather(data.train_dataloader())[1].tolist())
    assert orders[0] == orders[1]


def test_reads_once(tiny, monkeypatch):
    data = tiny(val_size=5)
    data.setup("fit")
    monkeypatch.setattr(data, "read", lambda train: pytest.fail("read again"))
    data.setup("test")


def test_takes_rank_and_world_size_from_the_trainer(tiny):
    shards = []
    for rank in range(2):
        data = tiny(batch_size=4, val_size=5)
        data.setup("test")
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, strategy=strategy)
        shards.append([y.tolist() for _, y in data.test_dataloader()])
    assert shards == [[[0, 2, 4, 6]], [[1, 3, 5]]]


@pytest.mark.parametrize(
    "crop_flip", [CropFlip(padding=1), CropFlip(padding=0, margin=1), Mirror()]
)
def test_moves_to_the_trainers_device_and_never_waits_for_it(tiny, monkeypatch, crop_flip):
    """Tensors of the device "meta" have no values, so whatever reads one there fails."""
    with pytest.raises(RuntimeError):
        torch.zeros(1, device="meta").item()
    monkeypatch.setattr(tiny, "crop_flip", crop_flip)
    data = tiny(batch_size=4, val_size=5)
    data.setup("fit")
    expected = list(data.train_dataloader())
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy, current_epoch=0)
    first, second = data.train_dataloader(), data.train_dataloader()
    assert first.images.is_meta
    assert first.images is second.images
    for batch, on_cpu in zip(first, expected, strict=True):
        assert all(values.is_meta for values in batch)
        assert [values.shape for values in batch] == [values.shape for values in on_cpu]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_moves_to_the_trainers_gpu_once(tiny):
    data = tiny(batch_size=4, val_size=5)
    data.setup("fit")
    expected = list(data.train_dataloader())
    strategy = SimpleNamespace(root_device=torch.device("cuda", 0))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy, current_epoch=0)
    first, second = data.train_dataloader(), data.train_dataloader()
    assert first.images.is_cuda
    assert first.images is second.images
    for (images, labels), (cpu_images, cpu_labels) in zip(first, expected, strict=True):
        torch.testing.assert_close(images.cpu(), cpu_images)
        assert torch.equal(labels.cpu(), cpu_labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"val_size": -1}, "val_size must be at least 0, got -1"),
        ({"val_size": 22}, "val_size must be smaller than the 22 training images, got 22"),
        ({"val_size": 2, "normalization": "none"}, "got 'none'"),
    ],
)
def test_refuses_bad_arguments(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options).setup("fit")


def test_a_loader_needs_setup(tiny):
    with pytest.raises(RuntimeError, match=r"Call TinyImages\.setup\(\) before"):
        tiny().train_dataloader()


def test_says_what_it_holds(tiny):
    data = tiny(val_size=5)
    assert str(data) == "TinyImages (not set up)"
    data.setup("fit")
    assert str(data) == (
        "TinyImages: 17 training, 5 validation and 7 test images of shape (1, 4, 4)"
    )


def test_state_continues_without_a_trainer(tiny):
    data = tiny(batch_size=4, val_size=5)
    data.setup("fit")
    assert data.state_dict().keys() == {"normalization"}
    iterator = iter(data.train_dataloader())
    next(iterator)
    rest = [y.tolist() for _, y in iterator]
    other = tiny(batch_size=4, val_size=5)
    other.setup("fit")
    other.load_state_dict({**data.state_dict(), "batches": 1})
    assert [y.tolist() for _, y in other.train_dataloader()] == rest
    assert len(list(other.train_dataloader())) == 5
