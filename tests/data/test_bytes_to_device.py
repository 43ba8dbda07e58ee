"""Image files travel as bytes and are normalised where the batch is needed."""

import pytest
import torch
from lightning.pytorch import LightningModule
from torchvision.transforms.functional import normalize

from tests.data.image_folders import write_classes
from tests.trainers import quiet_trainer
from wiring_lightning.data import ImageNet, Normalizer
from wiring_lightning.tasks import ClassificationTask

COUNTS = {"ant": 3, "bee": 4}
RUNS = ("fit", "validate", "test", "predict")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("bytes")
    for name in ("train", "val"):
        write_classes(root / name, COUNTS, (9, 9))
    return ImageNet(str(root), batch_size=4, num_workers=0, image_size=8, resize=8)


class Keeper(LightningModule):
    """Keeps the images that its steps get."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 8 * 8, 2)
        self.seen = []

    def training_step(self, batch, batch_idx):
        images, labels = batch
        self.seen.append(images)
        return torch.nn.functional.cross_entropy(self.layer(images.flatten(1)), labels)

    validation_step = test_step = predict_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Doubler(Keeper):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        images, labels = batch
        return 2 * images, labels


def seen(run, data, model, **options):
    trainer = quiet_trainer(**options)
    getattr(trainer, run)(model, datamodule=data)
    return torch.cat(model.seen)


def expected(run, data):
    """What torchvision makes of the loader's bytes."""
    data.setup(run)
    data.trainer = None
    loader = data.train_dataloader() if run == "fit" else data.val_dataloader()
    images = torch.cat([images for images, _ in loader])
    assert images.dtype == torch.uint8
    return normalize(images.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("run", RUNS)
def test_every_run_gets_the_same_floats_as_from_torchvision(data, run):
    # `limit_val_batches` is 0 in a quiet trainer: the seen images of a fit are those of training.
    limits = {} if run == "fit" else {"limit_val_batches": 1.0}
    assert torch.equal(seen(run, data, Keeper(), **limits), expected(run, data))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    ("precision", "dtype"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16)]
)
def test_they_have_the_precision_of_the_weights(data, run, precision, dtype):
    images = seen(run, data, Keeper(), precision=precision, limit_val_batches=1)
    assert images.dtype == dtype
    assert torch.equal(images[:4], expected(run, data)[:4].to(dtype))


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer` in both")
def test_the_modules_own_hook_gets_the_normalised_batch(data):
    assert torch.equal(seen("test", data, Doubler()), 2 * expected("test", data))


@pytest.mark.parametrize(
    "batch",
    [
        (torch.rand(2, 3, 8, 8), torch.arange(2)),
        torch.rand(2, 3, 8, 8),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        {"images": torch.rand(2, 3, 8, 8)},
    ],
)
def test_what_is_no_batch_of_bytes_stays_as_it_is(data, batch):
    assert data.on_after_batch_transfer(batch, 0) is batch


def test_channels_last_stays(data):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8).to(memory_format=torch.channels_last)
    normalised, _ = data.on_after_batch_transfer((images, torch.arange(2)), 0)
    assert normalised.is_contiguous(memory_format=torch.channels_last)


def test_a_task_says_who_normalises(data):
    data.setup("test")
    backbone = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 8), torch.nn.Flatten(), torch.nn.Linear(2, 2)
    )
    with pytest.raises(ValueError, match="The images are bytes") as caught:
        quiet_trainer().test(ClassificationTask(backbone), data.test_dataloader())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["pixel_mean", "channel_mean_std", "symmetric"])
def test_statistics_are_copied_to_a_device_once(kind):
    images = torch.randint(256, (5, 3, 4, 4)).to(torch.uint8)
    normalizer = Normalizer.fit(images, kind)
    there = torch.device("meta")
    with torch.inference_mode():  # as in the first validation
        assert normalizer(images.to(there)).is_meta
    copy = normalizer.to(there)
    assert normalizer.to(there) is copy
    assert not copy.mean.is_inference()  # which training could not use
    assert copy.mean.is_meta
    assert copy.std is None or copy.std.is_meta
    assert normalizer.to(torch.device("cpu")) is normalizer
