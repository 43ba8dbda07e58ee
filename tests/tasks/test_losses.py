"""The losses of the tasks, against formulas in float64 and against torch."""

import sys
from functools import partial
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from tests.trainers import quiet_trainer
from wiring_lightning.data import Digits
from wiring_lightning.tasks import ClassificationTask, SegmentationTask
from wiring_lightning.tasks._losses import LabelLosses
from wiring_lightning.tasks._metrics import ExampleMean

WEIGHTS = [0.5, 1.0, 3.0, 0.0]


def batch(*shape: int, ignored: int | None = None) -> tuple[Tensor, Tensor]:
    logits = 3 * torch.randn(5, 4, *shape)
    labels = torch.randint(4, (5, *shape))
    if ignored is not None:
        labels[torch.rand(labels.shape) < 0.3] = ignored
        labels[0] = ignored
    return logits.requires_grad_(), labels


def by_hand(logits: Tensor, labels: Tensor, weights: list[float], gamma: float, ignored: int | None
            ) -> Tensor:  # fmt: skip
    """One label at a time."""
    flat = logits.detach().double().movedim(1, -1).reshape(-1, 4)
    losses = []
    for row, label in zip(flat, labels.flatten().tolist(), strict=True):
        if label == ignored:
            losses.append(0.0)
            continue
        p = float(row.exp()[label] / row.exp().sum())
        losses.append(-weights[label] * (1 - p) ** gamma * float(torch.tensor(p).double().log()))
    return torch.tensor(losses).double().view(labels.shape)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("ignored", [None, 255, -100, 2])
@pytest.mark.parametrize("gamma", [None, 0.0, 0.5, 2.0])
def test_every_label_has_the_loss_of_the_formula(
    shape: tuple[int, ...], ignored: int | None, gamma: float | None
) -> None:
    logits, labels = batch(*shape, ignored=ignored)
    name = "cross_entropy" if gamma is None else "focal"
    for weights in (None, WEIGHTS):
        losses = LabelLosses(name, 4, weights, gamma, ignored)(logits, labels)
        expected = by_hand(logits, labels, weights or [1.0] * 4, gamma or 0.0, ignored)
        torch.testing.assert_close(losses.double(), expected, atol=1e-4, rtol=1e-4)


def test_the_focal_loss_has_the_right_gradient() -> None:
    logits, labels = batch(2)
    losses = LabelLosses("focal", 4, WEIGHTS, 1.5)
    assert torch.autograd.gradcheck(
        lambda given: losses(given, labels), logits.detach().double().requires_grad_()
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_label_that_is_certainly_right_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    LabelLosses("focal", 2, focal_gamma=gamma)(logits, torch.tensor([0])).sum().backward()
    assert torch.equal(logits.grad, torch.zeros(1, 2))


def test_smoothing_with_weights_is_that_of_torch() -> None:
    logits, labels = batch(ignored=-100)
    expected = nn.CrossEntropyLoss(torch.tensor(WEIGHTS), label_smoothing=0.1, reduction="none")
    losses = LabelLosses("cross_entropy", 4, WEIGHTS)(logits, labels, 0.1)
    torch.testing.assert_close(losses, expected(logits, labels))


class Flat(nn.Module):
    """Gives the same logits for every image, or every pixel."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, images: Tensor) -> Tensor:
        return self.bias.expand(len(images), 4)


@pytest.mark.parametrize("heads", [(), (3,)])
def test_examples_without_a_label_are_left_out_of_loss_and_accuracy(heads: tuple[int, ...]) -> None:
    task = ClassificationTask(Flat(), ignore_index=-1, class_weights=WEIGHTS)
    logits, labels = batch(*heads, ignored=-1)
    each = by_hand(logits, labels, WEIGHTS, 0.0, -1).view(5, -1)
    known = (labels != -1).view(5, -1)
    expected = each.sum(1) / known.sum(1).clamp_min(1)
    losses = task.losses(logits, labels, "val")
    torch.testing.assert_close(losses.double(), expected, atol=1e-5, rtol=1e-5)
    counted = task.counted(labels)
    assert counted.tolist() == known.any(1).tolist()
    task.val_loss.update(losses, counted)
    mean = expected[known.any(1)].mean()
    torch.testing.assert_close(task.val_loss.compute().double(), mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(task._mean(losses, counted).double(), mean, atol=1e-5, rtol=1e-5)
    task.val_metrics.update(logits.detach(), labels)
    right = (logits.argmax(1).view(5, -1) == labels.view(5, -1))[known].double().mean()
    assert float(task.val_metrics.compute()["acc"]) == pytest.approx(float(right))


def dice_by_hand(logits: Tensor, labels: Tensor, ignored: int | None) -> Tensor:
    losses = []
    for image, mask in zip(logits.detach().double().softmax(1), labels, strict=True):
        known = torch.ones_like(mask).bool() if ignored is None else mask != ignored
        loss = 0.0
        for number, share in enumerate(image):
            truth = (mask == number)[known].double()
            if truth.any():
                p = share[known]
                loss += 1 - float(2 * (p * truth).sum() / (p.sum() + truth.sum()))
        losses.append(loss / len(image))
    return torch.tensor(losses).double()


@pytest.mark.parametrize("ignored", [None, 255, 2])
@pytest.mark.parametrize("loss", ["dice", "dice_cross_entropy"])
def test_every_image_has_its_own_dice_loss(loss: Any, ignored: int | None) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    logits, labels = batch(6, 5, ignored=ignored)
    task = SegmentationTask(nn.Conv2d(3, 4, 1), loss=loss, ignore_index=ignored)
    expected = dice_by_hand(logits, labels, ignored)
    if loss == "dice_cross_entropy":
        pixels = by_hand(logits, labels, [1.0] * 4, 0.0, ignored).sum((1, 2))
        known = 30 if ignored is None else (labels != ignored).sum((1, 2)).clamp_min(1)
        expected = expected + pixels / known
    losses = task.losses(logits, labels, "train")
    torch.testing.assert_close(losses.double(), expected, atol=1e-4, rtol=1e-4)
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_without_the_library_the_dice_loss_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch.losses", None)
    with pytest.raises(MisconfigurationException, match=r"wiring_lightning\[segmentation\]"):
        SegmentationTask(nn.Conv2d(3, 4, 1), loss="dice")


SEGMENTATION, CLASSIFICATION = (SegmentationTask, nn.Conv2d(3, 4, 1)), (ClassificationTask, Flat())


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        (CLASSIFICATION, {"class_weights": [1.0, 2.0]}, "class_weights has 2 numbers, but there"),
        (
            CLASSIFICATION,
            {"class_weights": [1.0, 2.0, -1.0, 1.0]},
            "must be from 0 up",
        ),
        (SEGMENTATION, {"class_weights": [1.0, 2.0, 1.0, float("nan")]}, "class_weights must be"),
        (CLASSIFICATION, {"class_weights": [0.0] * 4}, "class_weights are all 0"),
        (SEGMENTATION, {"class_weights": [0, 0, 0, 0], "loss": "focal"}, "weights are all 0"),
        (CLASSIFICATION, {"focal_gamma": 1.0}, "focal_gamma has no effect with loss=cross_entropy"),
        (SEGMENTATION, {"loss": "dice", "focal_gamma": 1.0}, "no effect with loss=dice"),
        (CLASSIFICATION, {"loss": "focal", "focal_gamma": -1.0}, "focal_gamma must be from 0 up"),
        (CLASSIFICATION, {"loss": "focal", "label_smoothing": 0.1}, "focal loss has none"),
        (SEGMENTATION, {"loss": "dice", "class_weights": WEIGHTS}, "take loss=dice_cross_entropy"),
        (CLASSIFICATION, {"loss": "dice"}, "loss must be one of cross_entropy, focal, got 'dice'"),
        (SEGMENTATION, {"loss": "focl"}, "loss must be one of cross_entropy, focal, dice"),
    ],
)
def test_options_that_do_not_fit_are_refused(task: Any, options: Any, said: str) -> None:
    make, network = task
    with pytest.raises(MisconfigurationException, match=said):
        make(network, **options)


def test_class_weights_are_no_part_of_a_checkpoint() -> None:
    state = ClassificationTask(Flat(), class_weights=WEIGHTS).state_dict()
    ClassificationTask(Flat()).load_state_dict(state)


def test_a_fit_without_labels_for_some_examples_learns_from_the_others() -> None:
    class Half(Digits):
        """Nobody knows the labels of five digits."""

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            images, labels = super().on_after_batch_transfer(batch, dataloader_idx)
            return images, torch.where(labels < 5, labels, -1)

    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    task = ClassificationTask(network, ignore_index=-1, loss="focal")
    trainer = quiet_trainer(max_epochs=2, limit_val_batches=1.0)
    trainer.fit(task, Half(batch_size=64, augment=False))
    assert trainer.callback_metrics["val/acc"] > 0.9
    images, _ = next(iter(trainer.datamodule.val_dataloader()))
    assert functional.one_hot(task(images).argmax(1), 10)[:, 5:].sum() == 0


def test_an_epoch_without_any_label_has_no_loss_and_no_accuracy() -> None:
    class Unknown(Digits):
        """Nobody knows the label of any digit."""

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            images, labels = super().on_after_batch_transfer(batch, dataloader_idx)
            return images, torch.full_like(labels, -1)

    task = ClassificationTask(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), ignore_index=-1)
    before = [one.clone() for one in task.parameters()]
    data = Unknown(batch_size=64)
    trainer = quiet_trainer(limit_train_batches=2, limit_val_batches=1, limit_test_batches=1)
    task.optimizer = partial(SGD, lr=0.1)
    trainer.fit(task, data)
    trained = dict(trainer.callback_metrics)
    (tested,) = trainer.test(task, data, verbose=False)
    logged = {**trained, **tested}
    assert {name: float(logged[f"{name}/loss"]) for name in ("train", "val", "test")} == {
        "train": 0.0, "val": 0.0, "test": 0.0}  # fmt: skip
    assert {float(logged[f"{name}/acc"]) for name in ("train", "val", "test")} == {0.0}
    assert all(map(torch.equal, task.parameters(), before))  # a loss of zero teaches nothing


def test_the_mean_of_the_examples_that_count() -> None:
    mean = ExampleMean()
    mean.update(torch.tensor([3.0, 5.0]), torch.tensor([False, False]))
    assert float(mean.compute()) == 0.0
    mean.update(torch.tensor([2.0, 7.0]), torch.tensor([True, False]))
    assert float(mean.compute()) == 2.0
