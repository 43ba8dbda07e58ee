import torch

from wiring_lightning.data import Digits
from wiring_lightning.data.digits import stratified_order


def splits(**options):
    data = Digits(**options)
    data.setup("fit")
    return data.train_dataloader(), data.val_dataloader(), data.test_dataloader()


def test_sizes_and_shape():
    train, val, test = splits()
    assert [len(loader.images) for loader in (train, val, test)] == [1197, 200, 400]
    images, labels = next(iter(train))
    assert images.shape == (128, *Digits.image_shape)
    assert labels.shape == (128,)


def test_splits_hold_the_digits_in_equal_shares():
    loaders = splits()
    total = sum(torch.bincount(loader.labels, minlength=10) for loader in loaders)
    assert int(total.sum()) == 1797
    for loader in loaders:
        counts = torch.bincount(loader.labels, minlength=10)
        expected = total * len(loader.labels) / 1797
        assert (counts - expected).abs().max() <= 2


def test_splits_partition_the_data_set_and_never_change():
    from sklearn.datasets import load_digits

    images = torch.cat([loader.images for loader in splits()])
    expected = torch.as_tensor(load_digits().images) * 255 / 16
    rows = sorted(images.flatten(1).tolist())
    assert rows == sorted(expected.round().to(torch.uint8).flatten(1).tolist())
    again = torch.cat([loader.images for loader in splits(seed=5)])
    assert torch.equal(images, again)


def test_the_test_images_do_not_depend_on_the_validation_size():
    assert torch.equal(splits()[2].images, splits(val_size=5)[2].images)


def test_never_mirrors():
    _, flips = Digits.crop_flip.draw(100, torch.Generator())
    assert not flips.any()


def test_stratified_order_is_a_permutation_with_even_runs():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    order = stratified_order(labels, seed=1)
    assert sorted(order.tolist()) == list(range(100))
    for start in range(0, 81, 7):
        counts = torch.bincount(labels[order[start : start + 20]], minlength=3)
        assert (counts - torch.tensor([12, 6, 2])).abs().max() <= 1
    assert not torch.equal(order, stratified_order(labels, seed=2))
