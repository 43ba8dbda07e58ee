import os

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch.nn.functional import interpolate

from tests.cli.commands import BASE, wiring, write
from tests.data.batches import assert_same_batches, fake_trainer, interleaved
from tests.data.image_folders import pixels_of, write_classes
from tests.data.recorder import Recorder, assert_continues
from tests.trainers import quiet_trainer
from wiring_lightning.data import ImageNet

TRAIN, VAL = {"ant": 5, "bee": 4, "cat": 6}, {"ant": 2, "bee": 3, "cat": 2}
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
STEPS = 4  # 15 training images in batches of 4, the last one of 3 images


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """15 training and 7 validation images of 24x36 pixels."""
    folder = tmp_path_factory.mktemp("imagenet")
    write_classes(folder / "train", TRAIN, (24, 36))
    write_classes(folder / "val", VAL, (24, 36))
    return folder


def make(root, **options):
    options = {"batch_size": 4, "num_workers": 0, "image_size": 8, "resize": 12, **options}
    data = ImageNet(root=str(root), **options)
    data.setup("fit")
    return data


def train_batches(data, epoch=0):
    loader = data.train_dataloader()
    loader.set_epoch(epoch)
    return list(loader)


def test_lists_both_folders(root):
    data = make(root)
    assert (data.num_classes, data.image_shape) == (3, (3, 8, 8))
    assert str(data) == "ImageNet: 15 training and 7 validation images of shape (3, 8, 8)"
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    for loader, counts in zip(loaders, (TRAIN, VAL, VAL), strict=True):
        labels = torch.cat([labels for _, labels in loader])
        assert labels.bincount().tolist() == list(counts.values())
        assert len(loader) == -(-sum(counts.values()) // 4)


def test_a_last_batch_that_is_not_full_may_be_left_out(root):
    data = make(root, drop_last=True)
    assert [len(labels) for _, labels in data.train_dataloader()] == [4, 4, 4]
    assert [len(labels) for _, labels in data.val_dataloader()] == [4, 3]


def test_evaluation_shows_the_resized_centre_in_the_order_of_the_files(root):
    data = make(root)
    names = [f"{name}{number:02}.png" for name, count in VAL.items() for number in range(count)]
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        images = torch.cat([images for images, _ in loader])
        # 24x36 becomes 12x18; the 8x8 in the middle begin at row 2 and column 5.
        floats = torch.stack([pixels_of(name, (24, 36)) for name in names]).float()
        small = interpolate(floats, (12, 18), mode="bilinear", antialias=True)[:, :, 2:10, 5:13]
        assert images.dtype == torch.uint8
        assert (images.float() - small).abs().max() <= 2  # Pillow rounds after each axis
        torch.testing.assert_close(data.normalizer(images), (images / 255 - MEAN) / STD)


def test_training_shows_a_part_of_the_image_and_mirrors_some(tmp_path):
    """Red counts columns and green rows, so that the pixels tell where they are from."""
    ramp = torch.arange(0, 256, 2, dtype=torch.uint8)
    pixels = torch.stack(
        [ramp.expand(128, 128), ramp[:, None].expand(128, 128), torch.zeros(128, 128).byte()], dim=2
    )
    for name in ("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(pixels.numpy()).save(tmp_path / name)
    data = make(tmp_path, image_size=16, resize=16)
    images = [batch[0] for epoch in range(60) for batch in train_batches(data, epoch)]
    mirrored, areas, places = 0, [], set()
    for image in torch.cat(images).float():
        columns, rows = image[0].mean(0), image[1].mean(1)
        assert (image[0] - columns).abs().max() <= 1
        assert (image[1] - rows[:, None]).abs().max() <= 1
        steps = columns.diff()
        assert (steps >= 0).all() or (steps <= 0).all()
        assert (rows.diff() >= 0).all()
        mirrored += int(steps.sum() < 0)
        # 16 pixels are 15 steps apart.
        width, height = (float((v[-1] - v[0]).abs()) / 2 * 16 / 15 for v in (columns, rows))
        areas.append(width * height / 128**2)
        assert 0.65 < width / height < 1.55
        places.add(tuple(image[:2, 0, 0].tolist()))
    assert 40 < mirrored < 80
    assert 0.07 < min(areas) < 0.2
    assert 0.8 < max(areas) < 1.05
    assert len(places) > 90


def test_seed_and_epoch_decide_what_is_seen_and_workers_do_not(root):
    first = train_batches(make(root, seed=1), epoch=2)
    assert_same_batches(first, train_batches(make(root, seed=1, num_workers=2), epoch=2))
    for seed, epoch in ((1, 3), (2, 2)):
        assert not torch.equal(first[0][0], train_batches(make(root, seed=seed), epoch)[0][0])


def test_reading_leaves_the_global_random_numbers_alone(root):
    state = torch.get_rng_state()
    train_batches(make(root))
    assert torch.equal(torch.get_rng_state(), state)


def test_two_processes_are_one_with_twice_the_batch(root):
    def batches(rank, world_size):
        data = make(root, batch_size=6 // world_size)
        data.trainer = fake_trainer(rank, world_size, epoch=3)
        return train_batches(data, 3)

    together = interleaved(batches(0, 2), batches(1, 2))
    assert_same_batches(batches(0, 1)[:2], together[:2])  # the third is one image short


def test_two_processes_evaluate_each_image_once(root):
    seen = []
    for rank in range(2):
        data = make(root)
        data.trainer = fake_trainer(rank, 2, epoch=0)
        seen += [image for images, _ in data.val_dataloader() for image in images]
    (whole,) = make(root, batch_size=7).val_dataloader()
    assert len(seen) == 7
    assert all(any(torch.equal(image, other) for other in seen) for image in whole[0])


@pytest.mark.parametrize(("world_size", "expected"), [(1, 15), (4, 3), (7, 1)])
def test_shares_the_cores_among_the_processes(root, monkeypatch, world_size, expected):
    monkeypatch.setattr("lightning.fabric.utilities.data._num_cpus_available", lambda: 16)
    data = make(root, num_workers=None)
    data.trainer = fake_trainer(0, world_size, epoch=0)
    assert data.val_dataloader().num_workers == expected


def fit(root, model, checkpoint=None, ckpt_path=None, **options):
    saves = {"callbacks": [checkpoint], "enable_checkpointing": True} if checkpoint else {}
    trainer = quiet_trainer(max_epochs=2, limit_val_batches=1, **saves)
    trainer.fit(model, datamodule=make(root, **options), ckpt_path=ckpt_path)
    return model


def recorder(**options):
    return Recorder(3 * 8 * 8, estimate_steps=True, **options)


def test_a_resumed_run_continues_with_the_next_batch(root, tmp_path):
    every_step = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    full = fit(root, recorder(), every_step, num_workers=1)  # which prepares batches in advance
    assert [seen[:2] for seen in full.seen] == [(e, b) for e in range(2) for b in range(STEPS)]
    for step, num_workers in ((1, 0), (1, 2), (STEPS, 0), (STEPS + 2, 1)):
        path = tmp_path / f"step={step}.ckpt"
        resumed = fit(root, recorder(), ckpt_path=path, num_workers=num_workers)
        assert_continues(full, resumed, step)


def test_the_batch_of_a_failed_step_comes_again(root, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, "broken", every_n_epochs=9, save_on_exception=True)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(root, recorder(fail_at=(1, 2)), checkpoint)
    resumed = fit(root, recorder(), ckpt_path=tmp_path / "broken.ckpt")
    assert_continues(fit(root, recorder()), resumed, STEPS + 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"resize": 7}, "resize must be at least image_size = 8, got 7"),
    ],
)
def test_refuses_bad_arguments(root, options, message):
    with pytest.raises(ValueError, match=message):
        make(root, **options)


def test_a_loader_needs_setup(root):
    with pytest.raises(RuntimeError, match=r"Call ImageNet\.setup\(\) before"):
        ImageNet(str(root)).train_dataloader()


@pytest.mark.parametrize(
    ("error", "train", "val", "expected"),
    [
        (FileNotFoundError, None, None, "is not in '{root}/train', there is no such folder"),
        (FileNotFoundError, {}, VAL, "'{root}/train', which holds no class folders"),
        (FileNotFoundError, TRAIN, None, "is not in '{root}/val', there is no such folder"),
        (RuntimeError, {"ant": 1, "bee": 0}, VAL, "'{root}/train/bee' holds 0 image(s), but 1"),
        (RuntimeError, TRAIN, {"ant": 1, "dog": 1}, "3 are in one of them only, such as 'bee'"),
    ],
)
def test_a_wrong_layout_is_refused_in_one_sentence(tmp_path, error, train, val, expected):
    for name, counts in (("train", train), ("val", val)):
        if counts is not None:
            (tmp_path / name).mkdir()
            write_classes(tmp_path / name, counts, (9, 9))
    with pytest.raises(error) as caught:
        make(tmp_path)
    said = str(caught.value)
    assert expected.format(root=tmp_path) in said
    assert said.startswith("ImageNet")
    assert "\n" not in said


def test_the_command_line_knows_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restores what the command leaves behind
    config = write({**BASE, "data": {"class_path": "ImageNet"}}, tmp_path / "imagenet.yaml")
    run = wiring("fit", "--config", config, "--data.root", str(tmp_path), "--data.num_workers=0")
    assert run.code == 2
    said = run.err.splitlines()[-1]
    assert said.startswith(f"wiring: error: ImageNet is not in '{tmp_path}/train'")
    assert "the folder that holds 'train' and 'val'" in said


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_is_named(tmp_path, num_workers):
    for name in ("train", "val"):
        write_classes(tmp_path / name, TRAIN, (9, 9))
    path = tmp_path / "val/bee/bee02.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(RuntimeError, match="cannot be read") as caught:
        list(make(tmp_path, num_workers=num_workers).val_dataloader())
    # A worker's error would arrive with the worker's traceback in its text.
    assert str(caught.value) == (
        f"The image file '{path}' cannot be read (it is damaged or no image); replace it with an "
        "intact copy."
    )


@pytest.mark.skipif(
    "WIRING_TINY_IMAGENET_ROOT" not in os.environ,
    reason="set WIRING_TINY_IMAGENET_ROOT to a folder with `train` and `val`, one folder per class",
)
def test_real_photographs():
    data = make(os.environ["WIRING_TINY_IMAGENET_ROOT"], batch_size=64, image_size=56, resize=64)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        images, labels = next(iter(loader))
        assert images.shape == (64, *data.image_shape)
        assert int(labels.max()) < data.num_classes
        images = data.normalizer(images)
        assert images.mean().abs() < 0.5
        assert 0.8 < float(images.std()) < 1.4
