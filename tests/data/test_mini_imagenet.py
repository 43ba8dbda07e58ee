import os

import pytest
import torch
from PIL import Image

from tests.cli.commands import BASE, wiring, write
from tests.data.batches import assert_same_batches, fake_trainer, interleaved
from tests.data.image_folders import pixels_of, write_classes, write_image
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.data import MiniImageNet
from wiring_lightning.tasks import ClassificationTask

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """Three classes of ten images, 84x84."""
    return write_classes(tmp_path_factory.mktemp("flat"), dict.fromkeys(CLASSES, 10))


def make(root, **options):
    options = {"train_per_class": 6, "test_per_class": 3, "batch_size": 4, **options}
    data = MiniImageNet(root=str(root), **options)
    data.setup("fit")
    return data


def stored(*names):
    return torch.stack([pixels_of(f"{name}.png", (84, 84)) for name in names])


def in_turns(first, end):
    return [f"{name}{number:02}" for number in range(first, end) for name in CLASSES]


def batches_of(loader, epoch=0):
    loader.set_epoch(epoch)
    return list(loader)


def test_the_first_files_are_for_training_and_the_next_for_testing(flat):
    data = make(flat, val_size=5)
    train, val, test = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert torch.equal(train.images, stored(*in_turns(0, 6)[:13]))
    assert torch.equal(val.images, stored(*in_turns(0, 6)[13:]))
    assert torch.equal(test.images, stored(*in_turns(6, 9)))
    assert test.labels.tolist() == 3 * [0, 1, 2]
    assert data.num_classes == 3
    assert str(data) == (
        "MiniImageNet: 13 training, 5 validation and 9 test images of shape (3, 64, 64)"
    )


@pytest.mark.parametrize("name", ["test", "val", "Validation"])
def test_training_and_test_images_may_lie_in_folders_of_their_own(tmp_path, name):
    write_classes(tmp_path / "train", dict.fromkeys(CLASSES, 7))
    write_classes(tmp_path / name, dict.fromkeys(CLASSES, 4), start=20)
    data = make(tmp_path)
    assert torch.equal(data.train_dataloader().images, stored(*in_turns(0, 6)))
    assert torch.equal(data.test_dataloader().images, stored(*in_turns(20, 23)))
    assert data.num_classes == 3
    assert data.val_dataloader() == []


def test_a_class_may_be_called_train(tmp_path):
    write_classes(tmp_path, {"bus": 9, "train": 9})
    assert make(tmp_path).num_classes == 2


@pytest.mark.parametrize(("val_size", "counts"), [(6, [2, 2, 2]), (9, [3, 3, 3]), (4, [1, 1, 2])])
def test_validation_holds_the_classes_in_equal_shares(flat, val_size, counts):
    labels = make(flat, val_size=val_size).val_dataloader().labels
    assert torch.bincount(labels, minlength=3).tolist() == counts


def test_evaluation_takes_the_centre(flat):
    data = make(flat, val_size=6, batch_size=12)
    mean = stored(*in_turns(0, 4)).double().mean(0) / 255
    for loader, names in (
        (data.val_dataloader(), in_turns(4, 6)),
        (data.test_dataloader(), in_turns(6, 9)),
    ):
        ((images, _),) = loader
        assert images.shape[1:] == data.image_shape
        expected = (stored(*names).double() / 255 - mean)[:, :, 10:74, 10:74]
        torch.testing.assert_close(images, expected.float())


def test_without_augmentation_training_takes_the_centre_too(flat):
    data = make(flat, augment=False, batch_size=18)
    ((images, _),) = data.train_dataloader()
    whole = data.train_dataloader().normalizer(stored(*in_turns(0, 6)))[:, :, 10:74, 10:74]
    order = images.flatten(1)[:, 0].argsort()
    assert torch.equal(images[order], whole[whole.flatten(1)[:, 0].argsort()])


def test_training_takes_windows_anywhere_and_mirrors_some(flat):
    data = make(flat, batch_size=18)
    loader = data.train_dataloader()
    whole = loader.normalizer(stored(*in_turns(0, 6)))
    places, mirrored = set(), set()
    for epoch in range(3):
        ((images, labels),) = batches_of(loader, epoch)
        assert images.shape == (18, *data.image_shape)
        for image, label in zip(images, labels.tolist(), strict=True):
            found = [
                (row, column, flip)
                for flip, window in ((False, image), (True, image.flip(2)))
                for source in whole[label::3]
                for row, column in (source[0] == window[0, 0, 0]).nonzero().tolist()
                if torch.equal(source[:, row : row + 64, column : column + 64], window)
            ]
            ((row, column, flip),) = found
            places.add((row, column))
            mirrored.add(flip)
    assert len(places) > 40  # of 441, in 54 draws
    assert mirrored == {False, True}


def test_the_seed_decides_order_and_windows_but_not_the_splits(flat):
    one, same, other = (make(flat, seed=seed) for seed in (1, 1, 2))
    first = batches_of(one.train_dataloader(), 1)
    assert_same_batches(first, batches_of(same.train_dataloader(), 1))
    for data, epoch in ((other, 1), (one, 2)):
        assert not torch.equal(first[0][0], batches_of(data.train_dataloader(), epoch)[0][0])
    assert torch.equal(one.test_dataloader().images, other.test_dataloader().images)


def test_two_processes_are_one_with_twice_the_batch(flat):
    def batches(rank, world_size):
        data = make(flat, batch_size=6 // world_size)
        data.trainer = fake_trainer(rank, world_size, epoch=3)
        return batches_of(data.train_dataloader(), 3)

    assert_same_batches(batches(0, 1), interleaved(batches(0, 2), batches(1, 2)))


def test_images_of_any_kind_become_84_pixels_wide_and_coloured(tmp_path):
    write_classes(tmp_path, dict.fromkeys(CLASSES, 8))
    folder = tmp_path / "ant"
    wide = torch.zeros(100, 200, dtype=torch.uint8)
    wide[:, 100:] = 200
    Image.fromarray(wide.numpy()).save(folder / "a.png")
    Image.new("RGB", (64, 64), (10, 200, 30)).save(folder / "a1.JPEG")
    images = make(tmp_path, train_per_class=2).train_dataloader().images
    assert images.shape == (6, 3, 84, 84)
    assert (images[0, :, :, :40] == 0).all()
    assert (images[0, :, :, 44:] == 200).all()
    assert (images[3].float() - torch.tensor([10, 200, 30.0]).view(3, 1, 1)).abs().max() <= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_per_class": 0}, "train_per_class must be at least 1, got 0"),
        ({"test_per_class": -1}, "test_per_class must be at least 1, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"val_size": 18}, "val_size must be smaller than the 18 training images, got 18"),
    ],
)
def test_refuses_bad_arguments(flat, options, message):
    with pytest.raises(ValueError, match=message):
        make(flat, **options)


def refused(error, root, **options):
    """Set up a folder that is refused in one sentence, and return the sentence."""
    with pytest.raises(error) as caught:
        make(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
    said = refused(FileNotFoundError, tmp_path / "nowhere")
    assert f"MiniImageNet is not in '{tmp_path / 'nowhere'}'" in said
    assert "--data.root" in said


def test_the_command_line_knows_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restores what the command leaves behind
    config = write({**BASE, "data": {"class_path": "MiniImageNet"}}, tmp_path / "mini.yaml")
    root = tmp_path / "nowhere"
    run = wiring("fit", "--config", config, "--data.root", str(root), "--data.train_per_class=3")
    assert run.code == 2
    assert run.err.splitlines()[-1].startswith(f"wiring: error: MiniImageNet is not in '{root}'")


def test_a_folder_without_class_folders_is_refused(tmp_path):
    write_image(tmp_path / "loose.png")
    assert "holds no class folders" in refused(FileNotFoundError, tmp_path)
    write_classes(tmp_path / "images", dict.fromkeys(CLASSES, 10))  # root should name this folder
    assert "holds only the folder 'images'" in refused(FileNotFoundError, tmp_path)


@pytest.mark.parametrize(
    ("there", "missing"), [("train", "'test' or 'val'"), ("test", "'train'"), ("val", "'train'")]
)
def test_one_split_without_the_other_is_refused(tmp_path, there, missing):
    write_classes(tmp_path / there, dict.fromkeys(CLASSES, 10))
    said = refused(FileNotFoundError, tmp_path)
    assert f"class folders in '{there}', but none in {missing}" in said


@pytest.mark.parametrize(
    ("where", "found", "needed"), [("", 8, 9), ("train", 5, 6), ("test", 2, 3)]
)
def test_a_class_with_too_few_images_is_named(tmp_path, where, found, needed):
    if where:
        for name in ("train", "test"):
            write_classes(tmp_path / name, dict.fromkeys(CLASSES, 6))
    folder = write_classes(tmp_path / where, dict.fromkeys(CLASSES, needed))
    for path in sorted((folder / "bee").iterdir())[found:]:
        path.unlink()
    said = refused(RuntimeError, tmp_path)
    assert f"'{folder / 'bee'}' holds {found} image(s), but {needed} are needed" in said
    assert "lower train_per_class or test_per_class" in said


def test_different_classes_in_the_splits_are_refused(tmp_path):
    write_classes(tmp_path / "train", dict.fromkeys(CLASSES, 6))
    write_classes(tmp_path / "test", dict.fromkeys(("ant", "bee", "dog"), 3))
    said = refused(RuntimeError, tmp_path)
    assert "must hold the same classes, but 2 are in one of them only, such as 'cat'" in said


def test_a_damaged_image_is_named(tmp_path):
    write_classes(tmp_path, dict.fromkeys(CLASSES, 9))
    for content in (b"", b"no image", (tmp_path / "bee/bee00.png").read_bytes()[:-300]):
        (tmp_path / "bee/bee04.png").write_bytes(content)
        said = refused(RuntimeError, tmp_path)
        assert f"'{tmp_path / 'bee/bee04.png'}' cannot be read" in said
        assert "replace it with an intact copy" in said


def test_trains_and_tests(flat):
    data = MiniImageNet(str(flat), batch_size=6, train_per_class=6, test_per_class=4)
    task = ClassificationTask(ResNeXt(11, 1, 2, num_classes=3, image_size=64, wiring="full"))
    start = {name: value.clone() for name, value in task.state_dict().items()}
    trainer = quiet_trainer()
    trainer.fit(task, data)
    assert trainer.global_step == 3
    assert not same_state(start, task.state_dict())
    (metrics,) = trainer.test(task, data, verbose=False)
    assert 0 <= metrics["test/acc"] <= 1


@pytest.mark.skipif(
    "WIRING_TINY_IMAGENET_ROOT" not in os.environ,
    reason="set WIRING_TINY_IMAGENET_ROOT to a folder with `train` and `val`, one folder per class",
)
def test_real_photographs():
    root = os.environ["WIRING_TINY_IMAGENET_ROOT"]
    data = MiniImageNet(root, train_per_class=100, test_per_class=50)
    data.val_size = 10 * data.num_classes
    data.setup("fit")
    train, val, test = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    for loader, per_class in ((train, 90), (val, 10), (test, 50)):
        assert torch.bincount(loader.labels).tolist() == [per_class] * data.num_classes
    images = torch.cat([images for images, _ in val])
    assert images.shape[1:] == data.image_shape
    assert images.mean().abs() < 0.05
    assert 0.2 < float(images.std()) < 0.35
