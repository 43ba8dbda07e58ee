"""Image classification with any backbone."""

from collections.abc import Iterable
from typing import Any, cast

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from wiring_lightning._checks import check_number
from wiring_lightning.tasks._compiling import Compile
from wiring_lightning.tasks._losses import LabelLosses, LabelLossName
from wiring_lightning.tasks._schedules import Interval, Schedule
from wiring_lightning.tasks._supervised import (
    Batch,
    Stage,
    SupervisedTask,
    default_optimizer,
    mean_over_labels,
)

# `_NormBase` is the base class of batch norms and instance norms.
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class ClassificationTask(SupervisedTask):
    """Train a backbone to classify images with cross-entropy, or the focal loss.

    Logs `train/loss`, `train/acc`, `val/loss`, `val/acc`, `test/loss`, `test/acc` (top 1) and, with
    more than five classes, `val/acc_top5` and `test/acc_top5`. An example may have several labels,
    `[batch, heads]`, for logits `[batch, classes, heads]`; loss and accuracy are then their mean.

    Args:
        backbone: the network, from images to logits.
        optimizer: optimizer of the weights. The callback that learns a wiring removes its scores
            from this optimizer.
        lr_scheduler: learning rate schedule, one step per `lr_interval`. Do not combine it with a
            `PhaseSchedule` that sets learning rates.
        label_smoothing: share of the target spread evenly over all classes, from 0 up and below 1.
        compile: whether to compile the backbone with `torch.compile`; or a mapping of its
            arguments, such as `{"mode": "reduce-overhead"}`; or the name of a mode.
        decay_norms: whether weight decay applies to scales and shifts of norms: those of torch and
            of their subclasses, not those of classes of timm's own such as its `RmsNorm`.
        auxiliary_weight: weight of the loss of each further output that a backbone has in training,
            such as the two of GoogLeNet (0.3 in its paper; torchvision's scripts take 0.4 for
            Inception); 0 leaves them out.
        loss: cross-entropy, or the focal loss, which counts examples less that are already right.
        class_weights: a weight of the loss for each class. The loss of a batch is the mean over
            its examples; it is not divided by the weights.
        focal_gamma: exponent of the focal loss; 2 if not given.
        ignore_index: label of examples that are left out, such as -1.
        lr_interval: whether the schedule makes a step after each epoch or after each step of the
            optimizer.
        lr_warmup: for so many of these steps the learning rate first rises linearly.
        lr_monitor: the logged number that a `ReduceLROnPlateau` looks at; `val/loss` if not given.

    Raises:
        MisconfigurationException: if the backbone's number of classes or size of images differs
            from the data's, a number is out of range, or a learned wiring is trained without the
            callback that learns it.

    Example:
        >>> import torch
        >>> from wiring_lightning.backbones import ResNeXt
        >>> task = ClassificationTask(ResNeXt(depth=11, fan_in=2, num_classes=10))
        >>> task(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        backbone: nn.Module,
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        label_smoothing: float = 0.0,
        compile: Compile = False,
        decay_norms: bool = True,
        auxiliary_weight: float = 0.3,
        loss: LabelLossName = "cross_entropy",
        class_weights: list[float] | None = None,
        focal_gamma: float | None = None,
        ignore_index: int | None = None,
        lr_interval: Interval = "epoch",
        lr_warmup: int = 0,
        lr_monitor: str | None = None,
    ) -> None:
        schedule = Schedule(lr_scheduler, lr_interval, lr_warmup, lr_monitor)
        super().__init__(backbone, optimizer, schedule, compile, nn.Linear, auxiliary_weight)
        check_number("label_smoothing", label_smoothing, below=1, error=MisconfigurationException)
        if label_smoothing and loss == "focal":
            raise MisconfigurationException(
                "label_smoothing is of the cross-entropy; the focal loss has none: leave it out."
            )
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.criterion = LabelLosses(
            loss, self.num_classes, class_weights, focal_gamma, ignore_index
        )
        self.decay_norms = decay_norms
        top5 = self.num_classes > 5
        self.train_metrics = _accuracy(self.num_classes, False, ignore_index)
        self.val_metrics = _accuracy(self.num_classes, top5, ignore_index)
        self.test_metrics = _accuracy(self.num_classes, top5, ignore_index)

    @property
    @override
    def own_metrics(self) -> list[Metric | MetricCollection]:
        own = (self.train_metrics, self.val_metrics, self.test_metrics)
        return [*super().own_metrics, *own]

    @override
    def parameter_groups(self) -> Iterable[nn.Parameter] | list[dict[str, Any]]:
        if self.decay_norms:
            return super().parameter_groups()
        norms = {
            id(parameter): parameter  # once, also if several norms share it
            for module in self.modules()
            if isinstance(module, _NORMS)
            for parameter in module.parameters(recurse=False)
        }
        rest = [parameter for parameter in self.parameters() if id(parameter) not in norms]
        without_decay = {"params": [*norms.values()], "weight_decay": 0.0}
        groups: list[dict[str, Any]] = [{"params": rest}, without_decay]
        return groups

    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class probabilities `[batch, classes]`, in the shape of the logits."""
        return self(batch[0]).softmax(1)

    @override
    def losses(self, logits: Tensor, labels: Tensor, stage: Stage) -> Tensor:
        """`[batch]` the loss of each example, smoothed in training only; 0 without a label."""
        smoothing = self.label_smoothing if stage == "train" else 0.0
        losses = self.criterion(logits, labels, smoothing)
        if self.ignore_index is None or losses.dim() == 1:
            return mean_over_labels(losses)
        return losses.flatten(1).sum(1) / self._known(labels).sum(1).clamp_min(1)

    @override
    def counted(self, labels: Tensor) -> Tensor | None:
        return None if self.ignore_index is None else self._known(labels).any(1)

    def _known(self, labels: Tensor) -> Tensor:
        """`[batch, labels]` which labels of each example are not `ignore_index`."""
        return (labels != self.ignore_index).unsqueeze(-1).flatten(1)

    @override
    def measure(self, batch: Batch, logits: Tensor, stage: Stage) -> None:
        """Update the accuracy, and log it at the end of the epoch."""
        _, labels = batch
        metrics = cast(MetricCollection, getattr(self, f"{stage}_metrics"))
        if len(labels):  # torchmetrics cannot take a batch without examples
            metrics.update(logits, labels)
        self.log_metrics(dict(metrics.items()), stage, len(labels))


def _accuracy(num_classes: int, top5: bool, ignored: int | None) -> MetricCollection:
    metrics: dict[str, Metric | MetricCollection] = {
        name: MulticlassAccuracy(num_classes, average="micro", top_k=top, ignore_index=ignored)
        for name, top in {"acc": 1, **({"acc_top5": 5} if top5 else {})}.items()
    }
    return MetricCollection(metrics)
