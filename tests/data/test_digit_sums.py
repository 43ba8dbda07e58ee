"""Sums of digits: labels, splits, and resuming."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import Tensor

from tests.data.recorder import Recorder, assert_continues
from tests.trainers import quiet_trainer
from wiring_lightning.data import BatchLoader, CropFlip, DigitSums


@pytest.fixture(scope="module")
def digit_of() -> dict[bytes, int]:
    """The digit in each image of scikit-learn's; no two images are the same."""
    digits = load_digits()
    levels = (torch.as_tensor(digits.images) * 255 / 16).round().to(torch.uint8)
    rows = levels.flatten(1).tolist()
    known = {bytes(row): int(t) for row, t in zip(rows, digits.target, strict=True)}
    assert len(known) == 1797
    return known


def loaders(**options) -> list[BatchLoader]:
    data = DigitSums(**{"size": 300, **options})
    data.setup("fit")
    return [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]


def drawn(images: Tensor) -> list[list[bytes]]:
    """The single images of every example."""
    return [[bytes(one.flatten().tolist()) for one in example] for example in images]


def test_a_label_is_the_sum_of_its_digits(digit_of):
    planted = DigitSums().planted.tolist()
    assert [len(set(row)) for row in planted] == [2] * 8
    for loader in loaders():
        for example, sums in zip(drawn(loader.images), loader.labels.tolist(), strict=True):
            digits = [digit_of[image] for image in example]
            assert sums == [digits[first] + digits[second] for first, second in planted]


def test_no_image_is_in_two_splits(digit_of):
    parts = [{image for row in drawn(loader.images) for image in row} for loader in loaders()]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert set().union(*parts) <= digit_of.keys()
    assert [len(part) for part in parts[1:]] == [200, 400]  # all of them are used


def test_sizes_and_shapes_follow_the_arguments():
    data = DigitSums(size=50, digits=5, sums=3, addends=4, batch_size=16)
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (16, *data.image_shape) == (16, 5, 8, 8)
    assert labels.shape == (16, 3)
    assert data.planted.shape == (3, 4)
    assert data.num_classes == 4 * 9 + 1
    sizes = [len(loader.labels) for loader in loaders(size=50)]
    assert sizes == [50, 2000, 2000]


def test_the_seed_changes_the_order_and_not_the_examples():
    first, second = loaders(), loaders(seed=5)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert not torch.equal(next(iter(first[0]))[1], next(iter(second[0]))[1])


def test_the_wiring_has_a_seed_of_its_own():
    assert torch.equal(DigitSums(seed=1).planted, DigitSums().planted)
    assert not torch.equal(DigitSums(wiring_seed=1).planted, DigitSums().planted)


def test_augmentation_shifts_images_and_leaves_the_labels():
    plain, augmented = (loaders(augment=augment)[0] for augment in (False, True))
    (images, labels), (shifted, same) = next(iter(plain)), next(iter(augmented))
    assert torch.equal(labels, same)
    assert not torch.equal(images, shifted)


def test_resumes_to_the_exact_batch(tmp_path):
    def fit(step: int | None = None) -> Recorder:
        saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
        trainer = quiet_trainer(
            max_epochs=2,
            enable_checkpointing=step is None,
            callbacks=[saver] if step is None else [],
            default_root_dir=tmp_path,
        )
        model, data = Recorder(8 * 64), DigitSums(batch_size=4, size=18, augment=True)
        path = None if step is None else tmp_path / f"step={step}.ckpt"
        trainer.fit(model, datamodule=data, ckpt_path=path)
        return model

    full = fit()
    assert len(full.seen) == 10
    for step in (1, 5, 7):
        assert_continues(full, fit(step), step)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"sums": 1.5}, "sums must be a whole number, got 1.5"),
        ({"addends": 9}, "addends must be at most the number of digits, which is 8 here, got 9"),
    ],
)
def test_wrong_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DigitSums(**options)


def test_a_loader_takes_several_labels_and_crops_no_label():
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 1, 4, 4).contiguous()
    labels = torch.arange(12).view(6, 2)
    crop = CropFlip(padding=1, flip=False)
    loader = BatchLoader(images, labels, 4, normalizer=Tensor.float, crop_flip=crop)
    assert torch.equal(torch.cat([batch for _, batch in loader]), labels)
    with pytest.raises(ValueError, match=r"\[6\], or \[6, T\] for T labels per image"):
        BatchLoader(images, labels.view(6, 2, 1), 4, normalizer=Tensor.float)
