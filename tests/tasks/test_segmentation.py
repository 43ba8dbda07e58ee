from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.colors import to_rgb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader

from tests.trainers import quiet_trainer
from wiring_lightning.nn import Gate
from wiring_lightning.plots import draw_masks
from wiring_lightning.tasks import SegmentationTask

CLASSES = 3
IGNORED = 255
pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches")


class TinyFcn(nn.Sequential):
    """Two convolutions that keep the size."""

    def __init__(self, num_classes=CLASSES):
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, num_classes, 3, padding=1)
        )


class Echo(nn.Module):
    """Takes the channels of an image for logits, so that a test chooses the predictions."""

    num_classes = CLASSES

    def forward(self, images):
        return images


class Masks(LightningDataModule):
    """Batches from lists, for training, validation and test alike."""

    num_classes = CLASSES
    class_names = ("sky", "road", "tree")

    def __init__(self, *batches):
        super().__init__()
        self.batches = list(batches)

    def train_dataloader(self):
        return DataLoader(self.batches, batch_size=None)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def random_batch(size, seed, classes=CLASSES, shape=(6, 5), ignored=True):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, CLASSES, *shape, generator=generator)
    labels = torch.randint(classes, (size, *shape), generator=generator)
    if ignored:
        labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORED
    return logits, labels


def colour_batch(size, seed):
    """Noisy pictures of three colours in rectangles; the colour is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(size, 12, 12).long()
    labels[:, 2:7, 1:6], labels[:, 5:11, 7:11] = 1, 2
    labels = torch.stack([mask.roll((i, 2 * i), (0, 1)) for i, mask in enumerate(labels)])
    images = nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2) * 2.0 - 1
    return images + 0.3 * torch.randn(images.shape, generator=generator), labels


def attach(task):
    """As much of a trainer as one step asks for."""
    task.trainer = SimpleNamespace(global_step=1, log_every_n_steps=50)
    task.log = lambda *args, **kwargs: None
    return task


def counted_by_hand(batches, ignored=IGNORED, leave_out=()):
    """The scores from one pixel after another."""
    both, either = [0] * CLASSES, [0] * CLASSES
    right = total = 0
    for logits, labels in batches:
        predicted = logits.argmax(1).flatten().tolist()
        for truth, guess in zip(labels.flatten().tolist(), predicted, strict=True):
            if truth == ignored:
                continue
            total += 1
            right += truth == guess
            for number in {truth, guess}:
                either[number] += 1
                both[number] += truth == guess
    ious = {
        f"iou/{Masks.class_names[number]}": both[number] / either[number]
        for number in range(CLASSES)
        if either[number] and number not in leave_out
    }
    return {"pixel_acc": right / total, "miou": sum(ious.values()) / len(ious), **ious}


def assert_scores(logged, stage, expected):
    scores = {name.removeprefix(f"{stage}/"): float(value) for name, value in logged.items()}
    del scores["loss"]
    assert scores == pytest.approx(expected, abs=1e-6)


def validate(task, *batches):
    (logged,) = quiet_trainer(limit_val_batches=1.0).validate(task, Masks(*batches), verbose=False)
    return logged


def test_scores_are_those_of_a_count_over_all_pixels():
    batches = random_batch(4, 0), random_batch(3, 1)
    assert_scores(validate(SegmentationTask(Echo()), *batches), "val", counted_by_hand(batches))
    (logged,) = quiet_trainer().test(SegmentationTask(Echo()), Masks(*batches), verbose=False)
    assert_scores(logged, "test", counted_by_hand(batches))


def test_scores_of_a_picture_that_fits_on_a_hand():
    labels = torch.tensor([[[0, 0, 1], [1, 1, IGNORED]]])
    guesses = torch.tensor([[[0, 1, 1], [1, 0, 2]]])
    logits = nn.functional.one_hot(guesses, CLASSES).permute(0, 3, 1, 2).float()
    logged = validate(SegmentationTask(Echo()), (logits, labels))
    # sky: 1 pixel in both, 3 in either; road: 2 and 4; nobody names a tree where it counts.
    expected = {
        "pixel_acc": 3 / 5,
        "iou/sky": 1 / 3,
        "iou/road": 2 / 4,
        "miou": (1 / 3 + 1 / 2) / 2,
    }
    assert_scores(logged, "val", expected)


def test_a_class_that_is_predicted_only_counts_as_zero():
    logits, labels = random_batch(4, 0, classes=2)
    logged = validate(SegmentationTask(Echo()), (logits, labels))
    assert logged["val/iou/tree"] == 0
    assert_scores(logged, "val", counted_by_hand([(logits, labels)]))


def test_scores_start_anew_each_epoch(tmp_path):
    batches = [random_batch(2, 0, ignored=False), random_batch(2, 1, ignored=False)]
    task = SegmentationTask(Echo())
    for batch in batches:
        assert_scores(validate(task, batch), "val", counted_by_hand([batch]))


def test_a_class_may_be_ignored():
    batch = random_batch(4, 2, ignored=False)
    expected = counted_by_hand([batch], ignored=0, leave_out=[0])
    logged = validate(SegmentationTask(Echo(), ignore_index=0), batch)
    assert "val/iou/sky" not in logged
    assert_scores(logged, "val", expected)


def test_without_ignore_index_every_pixel_counts():
    batch = random_batch(4, 3, ignored=False)
    logged = validate(SegmentationTask(Echo(), ignore_index=None), batch)
    assert_scores(logged, "val", counted_by_hand([batch]))
    labels = torch.full_like(batch[1], IGNORED)
    with pytest.raises(MisconfigurationException, match=r"number 255, .* ignore_index is None"):
        validate(SegmentationTask(Echo(), ignore_index=None), (batch[0], labels))


def test_the_loss_of_an_example_is_the_mean_over_its_pixels_with_a_class():
    logits, labels = random_batch(5, 4)
    labels[3] = IGNORED
    task = attach(SegmentationTask(Echo()))
    step = task.training_step((logits.requires_grad_(), labels), 0)
    expected = []
    for example, mask in zip(logits.detach().double(), labels, strict=True):
        probabilities = example.exp() / example.exp().sum(0)
        terms = [
            -probabilities[mask[row, column], row, column].log()
            for row in range(6)
            for column in range(5)
            if mask[row, column] != IGNORED
        ]
        expected.append(sum(terms) / len(terms) if terms else 0.0)
    losses = torch.tensor(expected)
    torch.testing.assert_close(step["losses"], losses.float())
    torch.testing.assert_close(step["loss"], losses.mean().float())
    assert not step["losses"].requires_grad
    step["loss"].backward()
    assert (logits.grad[3] == 0).all()
    assert (logits.grad.abs().amax(1) > 0).eq(labels != IGNORED).all()


def test_training_logs_the_share_of_right_pixels(tmp_path):
    batches = random_batch(4, 0), random_batch(2, 1)
    task = SegmentationTask(TinyFcn(), optimizer=partial(SGD, lr=0.0))
    trainer = quiet_trainer()
    trainer.fit(task, Masks(*batches))
    right = total = 0
    for images, labels in batches:
        predicted = task(images).argmax(1)
        right += int(((predicted == labels) & (labels != IGNORED)).sum())
        total += int((labels != IGNORED).sum())
    assert float(trainer.callback_metrics["train/pixel_acc"]) == pytest.approx(right / total)


def test_learns_to_tell_colours_apart():
    task = SegmentationTask(TinyFcn(), optimizer=partial(Adam, lr=0.02))
    before = validate(task, colour_batch(8, 9))["val/miou"]
    data = Masks(*(colour_batch(8, seed) for seed in range(5)))
    trainer = quiet_trainer(max_epochs=8, logger=False)
    trainer.fit(task, data)
    after = validate(task, colour_batch(8, 9))
    assert before < 0.5
    assert after["val/miou"] > 0.95
    assert min(after[f"val/iou/{name}"] for name in Masks.class_names) > 0.9
    (predicted,) = trainer.predict(task, Masks(colour_batch(8, 9)))
    assert (predicted == colour_batch(8, 9)[1]).float().mean() > 0.95


def pictures_in(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return events.Images("val/masks") if "val/masks" in events.Tags()["images"] else []


def test_draws_masks_every_few_epochs(tmp_path):
    data = Masks(colour_batch(6, 0), colour_batch(6, 1))
    options = {"max_epochs": 5, "limit_val_batches": 1.0, "num_sanity_val_steps": 1}
    for every, steps in ((2, [2, 6, 10]), (0, [])):
        logger = TensorBoardLogger(tmp_path, name=f"every{every}", version=0)
        task = SegmentationTask(TinyFcn(), picture_every_n_epochs=every, num_pictures=2)
        quiet_trainer(logger=[CSVLogger(tmp_path), logger], **options).fit(task, data)
        assert [picture.step for picture in pictures_in(logger.log_dir)] == steps


def test_a_picture_shows_image_truth_and_prediction():
    images, labels = colour_batch(3, 0)
    labels[0, 0, :4] = IGNORED
    figure = draw_masks(images, labels, labels.flip(2), Masks.class_names, IGNORED)
    grid = np.array(figure.axes).reshape(3, 3)
    assert [axis.get_title() for axis in grid[0]] == ["image", "truth", "prediction"]
    (box,) = figure.legends
    entries = zip(box.get_texts(), box.get_patches(), strict=True)
    legend = {text.get_text(): patch.get_facecolor()[:3] for text, patch in entries}
    assert list(legend) == list(Masks.class_names)
    for row in range(3):
        shown, truth, prediction = (axis.images[0].get_array() for axis in grid[row])
        assert (shown.min(), shown.max()) == (0, 1)
        brightest = torch.as_tensor(np.asarray(shown)).argmax(2)
        assert (brightest == labels[row])[labels[row] != IGNORED].float().mean() > 0.95
        for picture, mask in ((truth, labels[row]), (prediction, labels[row].flip(1))):
            for pixel, number in zip(
                np.asarray(picture).reshape(-1, 3), mask.flatten().tolist(), strict=True
            ):
                color = "#DADDE1" if number == IGNORED else legend[Masks.class_names[number]]
                assert pixel == pytest.approx(to_rgb(color), abs=1e-6)


def test_many_classes_have_colours_of_their_own():
    labels = torch.arange(40).view(1, 5, 8)
    figure = draw_masks(torch.rand(1, 1, 5, 8), labels, labels, [str(n) for n in range(40)])
    pixels = np.asarray(figure.axes[1].images[0].get_array()).reshape(-1, 3)
    assert len({tuple(pixel) for pixel in pixels.round(2).tolist()}) == 40


@pytest.mark.parametrize(
    ("images", "masks"),
    [((2, 4, 5, 5), (2, 5, 4)), ((2, 3, 5, 5), (1, 5, 5)), ((2, 3, 5, 5), (2, 5))],
)
def test_a_picture_needs_two_masks_of_each_image(images, masks):
    for truth, prediction in ((masks, (2, 5, 5)), ((2, 5, 5), masks)):
        with pytest.raises(ValueError, match=r"need two masks of one shape \[2, height, width\]"):
            draw_masks(torch.rand(images), torch.zeros(truth), torch.zeros(prediction), "abc")


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_images_of_any_number_of_channels_are_drawn(channels):
    images, masks = torch.rand(2, channels, 6, 4), torch.zeros(2, 3, 2).long()
    drawn = images[:, :3] if channels >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    figure = draw_masks(images, masks, masks, Masks.class_names)
    for image, axis in zip(drawn, figure.axes[::3], strict=True):
        scaled = (image - image.min()) / (image.max() - image.min())
        shown = torch.as_tensor(np.asarray(axis.images[0].get_array()))
        torch.testing.assert_close(shown, scaled.permute(1, 2, 0), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("channels", "pooled"), [(2, 1), (4, 1), (3, 2)])
def test_training_does_not_stop_for_a_picture(channels, pooled, tmp_path):
    backbone = nn.Sequential(nn.AvgPool2d(pooled), nn.Conv2d(channels, CLASSES, 1))
    batch = torch.rand(2, channels, 6, 4), torch.zeros(2, 6 // pooled, 4 // pooled).long()
    logger = TensorBoardLogger(tmp_path, version=0)
    task = SegmentationTask(backbone, picture_every_n_epochs=1)
    trainer = quiet_trainer(logger=logger, limit_val_batches=1.0)
    trainer.fit(task, Masks(batch))
    assert len(pictures_in(logger.log_dir)) == 1


@pytest.mark.parametrize("number", [-1, CLASSES, 254])
def test_labels_out_of_range_are_refused(number):
    logits, labels = random_batch(2, 0)
    labels[1, 2, 3] = number
    with pytest.raises(MisconfigurationException, match=f"number {number}, .* classes 0 to 2"):
        validate(SegmentationTask(Echo()), (logits, labels))
    with pytest.raises(MisconfigurationException, match=f"number {number}, "):
        attach(SegmentationTask(Echo())).training_step((logits, labels), 0)


@pytest.mark.parametrize(
    ("backbone", "labels"),
    [
        (nn.Conv2d(3, CLASSES, 3), (2, 6, 5)),  # loses the edge
        (nn.Sequential(TinyFcn(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (2, 6, 5)),
        (TinyFcn(), (2,)),
        (TinyFcn(), (2, 1, 6, 5)),
    ],
)
def test_logits_and_labels_of_other_shapes_are_refused(backbone, labels):
    batch = torch.zeros(2, 3, 6, 5), torch.zeros(labels).long()
    with pytest.raises(MisconfigurationException, match=r"needs \[batch, 3, height, width\]"):
        validate(SegmentationTask(backbone), batch)


def test_the_data_and_the_backbone_must_agree_on_the_classes():
    with pytest.raises(MisconfigurationException, match="3 classes, but the backbone ends in 4"):
        validate(SegmentationTask(TinyFcn(4)), random_batch(2, 0))

    class Unsure(Masks):
        class_names = ("sky", "road")

    with pytest.raises(MisconfigurationException, match=r"names 2 classes, but .* ends in 3"):
        quiet_trainer(limit_val_batches=1.0).validate(SegmentationTask(TinyFcn()), Unsure())
    with pytest.raises(MisconfigurationException, match="nor a convolution layer"):
        SegmentationTask(nn.Flatten())


def test_classes_without_names_are_numbered():
    loader = DataLoader([random_batch(2, 0)], batch_size=None)
    trainer = quiet_trainer(limit_val_batches=1.0)
    (logged,) = trainer.validate(SegmentationTask(TinyFcn()), loader, verbose=False)
    assert {"val/iou/0", "val/iou/1", "val/iou/2"} <= logged.keys()


@pytest.mark.parametrize("options", [{"picture_every_n_epochs": -1}, {"num_pictures": 0}])
def test_refuses_bad_arguments(options):
    with pytest.raises(MisconfigurationException, match=next(iter(options))):
        SegmentationTask(TinyFcn(), **options)


def test_a_learned_wiring_needs_its_callback():
    task = SegmentationTask(nn.Sequential(TinyFcn(), Gate(2, 2, 1)))
    task.num_classes = CLASSES
    with pytest.raises(MisconfigurationException, match="no callback learns it"):
        quiet_trainer().fit(task, Masks(random_batch(2, 0)))


@pytest.mark.parametrize("kind", ["random", "covered", "frozen"])
def test_a_wiring_that_cannot_change_needs_none_whatever_was_switched_off_and_on(kind):
    gate = Gate(2, 2, 1, mode="learned" if kind == "frozen" else kind)
    gate.freeze()
    task = SegmentationTask(nn.Sequential(TinyFcn(), gate))
    task.trainer = quiet_trainer()
    for on in (False, True):
        task.requires_grad_(on)
        task.on_fit_start()


def test_a_diverging_run_stops():
    images, labels = random_batch(2, 0)
    images[0, 0, 0, 0] = torch.inf
    with pytest.raises(FloatingPointError, match="training loss became infinite"):
        quiet_trainer(log_every_n_steps=1).fit(SegmentationTask(TinyFcn()), Masks((images, labels)))
