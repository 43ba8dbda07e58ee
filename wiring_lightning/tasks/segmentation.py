"""Semantic segmentation with any backbone."""

from collections.abc import Sequence
from typing import get_args

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix
from typing_extensions import override

from wiring_lightning.callbacks.log_to import send_picture, takes_pictures
from wiring_lightning.tasks._compiling import Compile
from wiring_lightning.tasks._losses import LabelLosses, PixelLossName, dice_losses
from wiring_lightning.tasks._metrics import LabelAccuracy
from wiring_lightning.tasks._schedules import Interval, Schedule
from wiring_lightning.tasks._supervised import Batch, Stage, SupervisedTask, default_optimizer


class SegmentationTask(SupervisedTask):
    """Train a backbone to classify each pixel with cross-entropy, the focal or the Dice loss.

    The backbone maps images `[batch, channels, height, width]` to logits `[batch, classes, height,
    width]`; labels are masks `[batch, height, width]`. The loss of an example is the mean over its
    pixels that have a class, and the loss of a batch is the mean over its examples.

    Logs `train/loss` and `train/pixel_acc`. For `val` and `test` it logs the loss, `pixel_acc` (the
    share of pixels that are right), `iou/<class>` (pixels of the class in both masks, divided by
    those in at least one) and `miou`, the mean over the classes. Classes that are in no mask and no
    prediction of an epoch are left out.

    Loggers that take pictures (TensorBoard, W&B, MLflow) also get `val/masks`: images of the first
    validation batch (of more than three channels the first three), their true masks and the
    predicted ones.

    Args:
        backbone: the network, from images to logits for each pixel.
        optimizer: optimizer of the weights. The callback that learns a wiring removes its scores
            from this optimizer.
        lr_scheduler: learning rate schedule, one step per `lr_interval`. Do not combine it with a
            `PhaseSchedule` that sets learning rates.
        ignore_index: label of pixels without a class, which are left out; `None` if there are no
            such pixels. It can also be the number of a class.
        picture_every_n_epochs: how often to draw masks; 0 for never.
        num_pictures: maximum number of examples in a picture.
        compile: whether to compile the backbone with `torch.compile`; or a mapping of its
            arguments, such as `{"mode": "reduce-overhead"}`; or the name of a mode.
        auxiliary_weight: weight of the loss of each further output that a backbone has in training,
            such as that of torchvision's FCN (its scripts take 0.5); 0 leaves them out.
        loss: cross-entropy; the focal loss, which counts pixels less that are already right; the
            Dice loss of each example (needs the extra `segmentation`); or its sum with the
            cross-entropy.
        class_weights: a weight for each class of the cross-entropy or the focal loss. The loss of
            an example is the mean over its pixels; it is not divided by the weights.
        focal_gamma: exponent of the focal loss; 2 if not given.
        lr_interval: whether the schedule makes a step after each epoch or after each step of the
            optimizer.
        lr_warmup: for so many of these steps the learning rate first rises linearly.
        lr_monitor: the logged number that a `ReduceLROnPlateau` looks at; `val/loss` if not given.

    Raises:
        MisconfigurationException: if a number is out of range, the backbone's number of classes
            differs from the data's, a learned wiring is trained without the callback that learns
            it, logits and labels differ in shape, or a label is no class.

    Example:
        >>> task = SegmentationTask(nn.Conv2d(3, 2, kernel_size=3, padding=1))
        >>> task(torch.randn(4, 3, 16, 16)).shape
        torch.Size([4, 2, 16, 16])
    """

    def __init__(
        self,
        backbone: nn.Module,
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        ignore_index: int | None = 255,
        picture_every_n_epochs: int = 10,
        num_pictures: int = 4,
        compile: Compile = False,
        auxiliary_weight: float = 0.3,
        loss: PixelLossName = "cross_entropy",
        class_weights: list[float] | None = None,
        focal_gamma: float | None = None,
        lr_interval: Interval = "epoch",
        lr_warmup: int = 0,
        lr_monitor: str | None = None,
    ) -> None:
        schedule = Schedule(lr_scheduler, lr_interval, lr_warmup, lr_monitor)
        super().__init__(backbone, optimizer, schedule, compile, nn.Conv2d, auxiliary_weight)
        if loss == "dice" and class_weights is not None:
            raise MisconfigurationException(
                "class_weights are those of the cross-entropy, which loss=dice does not have: "
                "leave them out, or take loss=dice_cross_entropy."
            )
        self.loss = loss
        self.criterion = LabelLosses(
            loss,
            self.num_classes,
            class_weights,
            focal_gamma,
            ignore_index,
            get_args(PixelLossName),
        )
        self._dice = dice_losses(ignore_index) if "dice" in loss else None
        if picture_every_n_epochs < 0 or num_pictures < 1:
            raise MisconfigurationException(
                "picture_every_n_epochs must be at least 0 and num_pictures at least 1, got "
                f"{picture_every_n_epochs} and {num_pictures}."
            )
        self.ignore_index = ignore_index
        self.picture_every_n_epochs = picture_every_n_epochs
        self.num_pictures = num_pictures
        self.class_names: Sequence[str] = [str(number) for number in range(self.num_classes)]
        self.train_accuracy = LabelAccuracy(ignore_index)
        self.val_confusion, self.test_confusion = (
            MulticlassConfusionMatrix(
                self.num_classes, ignore_index=ignore_index, validate_args=False
            )
            for _ in range(2)
        )
        self._checked: set[Stage] = set()  # stages of which a batch was checked on a GPU
        self._draws = False  # whether the next validation batch is drawn

    @property
    @override
    def own_metrics(self) -> list[Metric | MetricCollection]:
        own = (self.train_accuracy, self.val_confusion, self.test_confusion)
        return [*super().own_metrics, *own]

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        names = getattr(getattr(self.trainer, "datamodule", None), "class_names", self.class_names)
        if len(names) != self.num_classes:
            raise MisconfigurationException(
                f"The data names {len(names)} classes, but the backbone ends in "
                f"{self.num_classes}: set num_classes={len(names)} of the backbone."
            )
        self.class_names = names

    @override
    def losses(self, logits: Tensor, labels: Tensor, stage: Stage) -> Tensor:
        """`[batch]` the loss of each example, the mean over its pixels; 0 if none has a class."""
        self._check(logits, labels, stage)
        dice = 0.0 if self._dice is None else self._dice(logits, labels)
        if self.loss == "dice":
            assert isinstance(dice, Tensor)
            return dice
        pixels = (labels != self.criterion.ignored).sum((1, 2)).clamp_min(1)
        losses: Tensor = self.criterion(logits, labels).sum((1, 2)) / pixels
        return losses + dice

    @override
    def measure(self, batch: Batch, logits: Tensor, stage: Stage) -> None:
        """Update the metrics, and draw masks if it is time."""
        images, labels = batch
        prediction = logits.argmax(1)
        if stage == "train":
            self.train_accuracy.update(prediction, labels)
            self.log_metrics({"pixel_acc": self.train_accuracy}, stage, len(labels))
            return
        (self.val_confusion if stage == "val" else self.test_confusion).update(prediction, labels)
        if stage == "val" and self._draws:
            self._draws = False
            self._draw(images, labels, prediction)

    @override
    def on_validation_epoch_start(self) -> None:
        every = self.picture_every_n_epochs
        self._draws = (
            every > 0
            and self.current_epoch % every == 0
            and not self.trainer.sanity_checking
            and self.trainer.is_global_zero
        )

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_scores("val", self.val_confusion)

    @override
    def on_test_epoch_end(self) -> None:
        self._log_scores("test", self.test_confusion)

    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """`[batch, height, width]` the most probable class of each pixel."""
        return self(batch[0]).argmax(1)

    def _log_scores(self, stage: Stage, confusion: MulticlassConfusionMatrix) -> None:
        # `compute` sums the counts of all ranks, so all ranks log the same values.
        scores = _scores(confusion.compute(), self.class_names, self.ignore_index)
        confusion.reset()
        for name, value in scores.items():
            self.log(f"{stage}/{name}", value, prog_bar="/" not in name, sync_dist=True)

    def _draw(self, images: Tensor, labels: Tensor, prediction: Tensor) -> None:
        loggers = [one for one in self.trainer.loggers if takes_pictures(one)]
        if not loggers:
            return
        from wiring_lightning.plots import draw_masks  # imports matplotlib, which is slow

        images, labels, prediction = (
            part[: self.num_pictures].cpu() for part in (images, labels, prediction)
        )
        figure = draw_masks(images, labels, prediction, self.class_names, self.ignore_index)
        for logger in loggers:
            send_picture(logger, "val/masks", figure, self.trainer.global_step)

    def _check(self, logits: Tensor, labels: Tensor, stage: Stage) -> None:
        """Refuse masks of another size than the logits, and labels that are no class."""
        batch, *sizes = labels.shape
        if logits.shape != (batch, self.num_classes, *sizes) or len(sizes) != 2:
            raise MisconfigurationException(
                f"The backbone gives logits of shape {list(logits.shape)} for labels of shape "
                f"{list(labels.shape)}; segmentation needs [batch, {self.num_classes}, height, "
                "width] for [batch, height, width]."
            )
        # The check synchronizes a GPU, so there only the first batch is checked.
        if labels.device.type != "cpu" and stage in self._checked:
            return
        self._checked.add(stage)
        wrong = (labels < 0) | (labels >= self.num_classes)
        if self.ignore_index is not None:
            wrong &= labels != self.ignore_index
        if wrong.any():
            raise MisconfigurationException(
                f"A mask holds the number {int(labels[wrong][0])}, but the backbone has classes "
                f"0 to {self.num_classes - 1}, and ignore_index is {self.ignore_index}: correct "
                "the masks, num_classes of the backbone, or ignore_index."
            )


def _scores(
    confusion: Tensor, class_names: Sequence[str], ignore_index: int | None
) -> dict[str, Tensor]:
    """Accuracy, mean IoU, and IoU of each class that occurs.

    Args:
        confusion: `[classes, classes]` number of pixels by true class (row) and predicted class.
        class_names: name of each class.
        ignore_index: number of a class to leave out.

    Example:
        >>> scores = _scores(torch.tensor([[6, 2, 0], [0, 4, 0], [0, 0, 0]]), "abc", None)
        >>> {name: round(float(value), 3) for name, value in scores.items()}
        {'pixel_acc': 0.833, 'miou': 0.708, 'iou/a': 0.75, 'iou/b': 0.667}
    """
    right = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - right
    ious = {
        f"iou/{name}": right[index] / union[index]
        for index, name in enumerate(class_names)
        if union[index] > 0 and index != ignore_index
    }
    if not ious:
        return {}
    accuracy = right.sum() / confusion.sum()
    return {"pixel_acc": accuracy, "miou": torch.stack(list(ious.values())).mean(), **ious}
