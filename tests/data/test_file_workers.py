"""The processes that read image files: they live through a fit, and end with it."""

import copy
from itertools import islice, pairwise
from multiprocessing import active_children

import pytest
import torch
from lightning.pytorch import Callback, LightningModule

from tests.data.batches import assert_same_batches, fake_trainer
from tests.data.image_folders import write_classes, write_image
from tests.data.recorder import Recorder
from tests.trainers import quiet_trainer
from wiring_lightning.data import ImageNet

COUNTS = {"ant": 8, "bee": 8}  # 4 batches of 4


def make(root, num_workers, **options):
    options = {"batch_size": 4, "image_size": 8, "resize": 8, **options}
    data = ImageNet(str(root), num_workers=num_workers, **options)
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name in ("train", "val"):
        write_classes(folder / name, COUNTS, (9, 9))
    return folder


def workers():
    return {child.pid for child in active_children()}


@pytest.fixture(autouse=True)
def no_other_processes():
    assert workers() == set()
    yield
    assert workers() == set()


class Net(LightningModule):
    def validation_step(self, batch, batch_idx):
        pass

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return batch[1]


class WorkersOfSteps(Callback):
    """Notes which processes there are in each training step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, *args):
        self.seen.append(workers())


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"limit_val_batches": 0}, 12),
        ({"limit_train_batches": 2}, 6),  # every epoch is left before its end
        ({"max_epochs": -1, "max_steps": 6}, 6),
        ({"val_check_interval": 2}, 12),
        ({"num_sanity_val_steps": 1}, 12),
    ],
)
def test_live_through_all_epochs_of_a_fit(root, limits, steps):
    note = WorkersOfSteps()
    options = {"max_epochs": 3, "limit_val_batches": 1, "callbacks": [note], **limits}
    data, trainer = make(root, num_workers=1), quiet_trainer(**options)
    trainer.fit(Recorder(3 * 8 * 8), datamodule=data)
    # The trainer and the data module, which hold the loaders, are still there.
    assert workers() == set()
    assert len(note.seen) == steps
    # None ends, and the only one that comes later is that of validation.
    assert all(before <= after for before, after in pairwise(note.seen))
    assert len(note.seen[-1]) == (1 if limits.get("limit_val_batches") == 0 else 2)


def test_end_with_every_kind_of_run(root):
    data, trainer, model = make(root, num_workers=1), quiet_trainer(limit_val_batches=1.0), Net()
    assert len(trainer.predict(model, datamodule=data)) == 4
    assert workers() == set()
    for run in (trainer.validate, trainer.test):
        run(model, datamodule=data, verbose=False)
        assert workers() == set()


def test_end_with_an_error(root):
    data, trainer = make(root, num_workers=2), quiet_trainer(max_epochs=2)
    with pytest.raises(RuntimeError, match="power cut"):
        trainer.fit(Recorder(3 * 8 * 8, fail_at=(1, 2)), datamodule=data)
    assert workers() == set()


def test_an_epoch_that_is_left_early_does_not_show_in_the_next(root):
    def epoch(loader, number, count=None):
        loader.set_epoch(number)
        return list(islice(loader, count))

    loader = make(root, num_workers=2).train_dataloader()
    expected = [epoch(make(root, num_workers=0).train_dataloader(), e) for e in range(3)]
    assert_same_batches(epoch(loader, 0, 1), expected[0][:1])
    assert loader.state_dict()["batches"] == 1  # although more are prepared
    first = workers()
    assert len(first) == 2
    assert_same_batches(epoch(loader, 1), expected[1])
    assert_same_batches(epoch(loader, 2, 3), expected[2][:3])
    assert_same_batches(epoch(loader, 0), expected[0])
    assert workers() == first


def test_end_with_their_loader(root):
    data = make(root, num_workers=1)
    loader = data.val_dataloader()
    next(iter(loader))
    (worker,) = workers()
    other = data.val_dataloader()
    assert len(list(other)) == 4
    assert len(workers()) == 2
    del other
    assert workers() == {worker}
    loader.close()
    assert workers() == set()
    assert len(list(loader)) == 4
    assert len(workers()) == 1
    del loader


def test_an_iteration_that_is_under_way_survives_the_end_of_another_run(root):
    data = make(root, num_workers=1)
    loader = data.val_dataloader()
    expected = list(loader)
    batches = iter(loader)
    seen = [next(batches)]
    data.teardown("validate")
    seen += batches
    assert_same_batches(seen, expected)
    del batches
    assert workers() == set()


def test_two_iterations_at_a_time_do_not_mix(root):
    loader = make(root, num_workers=1).train_dataloader()
    expected = list(loader)
    pairs = list(zip(loader, loader, strict=True))
    for side in zip(*pairs, strict=True):
        assert_same_batches(side, expected)
    assert len(workers()) == 1  # one of the two is kept
    del loader


def test_a_copy_has_workers_of_its_own(root):
    loader = make(root, num_workers=1).train_dataloader()
    expected = list(loader)
    other = copy.deepcopy(loader)
    assert_same_batches(other, expected)
    assert len(workers()) == 2
    del loader, other


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_ends_them_and_a_repaired_one_is_read(tmp_path, num_workers):
    for name in ("train", "val"):
        write_classes(tmp_path / name, COUNTS, (9, 9))
    path = tmp_path / "val/ant/ant05.png"
    path.write_bytes(b"no image")
    loader = make(tmp_path, num_workers).val_dataloader()
    with pytest.raises(RuntimeError, match="cannot be read") as caught:
        list(loader)
    assert f"'{path}'" in str(caught.value)
    assert workers() == set()
    write_image(path, (9, 9))
    assert len(list(loader)) == 4
    loader.close()  # the caught error still refers to the loader


def test_none_are_needed(root):
    loader = make(root, num_workers=0).train_dataloader()
    loader.set_epoch(1)
    first = list(loader)
    assert_same_batches(first, loader)
    assert workers() == set()


@pytest.mark.parametrize(
    ("accelerator", "root_device", "pinned"),
    [
        ("cuda", "cuda:0", True),
        ("xpu", "xpu:1", True),
        ("mps", "mps", False),  # torch cannot pin memory for it
        ("cuda", "cpu", False),
        (None, "cpu", False),
        (None, "xla", False),
    ],
)
def test_batches_are_pinned_where_the_device_can_copy_them(
    root, monkeypatch, accelerator, root_device, pinned
):
    there = None if accelerator is None else torch.device(accelerator)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: there)
    data = make(root, num_workers=0)
    data.trainer = fake_trainer(0, 1, epoch=0)
    data.trainer.strategy.root_device = torch.device(root_device)
    assert data.train_dataloader().pin_memory is pinned
