"""A network that learns its wiring beside twins with a random wiring and with the right one."""

from typing import Any, Literal, cast

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from typing_extensions import override

from wiring_lightning.tasks._compiling import Compile
from wiring_lightning.tasks._metrics import NO_LABEL, LabelAccuracy, MostFrequent
from wiring_lightning.tasks._pixel_losses import pixel_losses
from wiring_lightning.tasks._schedules import Schedule
from wiring_lightning.tasks._supervised import (
    Batch,
    Stage,
    SupervisedTask,
    default_optimizer,
    mean_over_labels,
)
from wiring_lightning.wiring import Planted

_TWINS: tuple[Literal["random", "planted"], ...] = ("random", "planted")


class WiringComparison(SupervisedTask):
    """Train three networks side by side: of the backbone's wiring, a random and the right one.

    For data whose right wiring is known, such as `data.DigitSums`. The twins begin with the
    backbone's weights and see the same batches. No weight is shared and the losses are summed, so
    every network learns as it would alone (unless gradients are clipped by their norm).

    Logs `train/loss`, `train/acc`, `val/loss`, `val/acc`, `test/loss` and `test/acc` of the
    backbone; for validation and test also `acc_random` and `acc_planted`, and for the test
    `acc_constant`: the accuracy of the one best answer that is always the same. With several labels
    per example, loss and accuracy are their mean.

    Args:
        backbone: the network, from images to logits `[batch, classes]`, or
            `[batch, classes, heads]` for labels `[batch, heads]`. It must know its right wiring,
            as `backbones.GatedHeads` does.
        optimizer: optimizer of all weights. The callback that learns a wiring removes its scores
            from this optimizer.
        lr_scheduler: learning rate schedule, one step per epoch.
        compile: whether to compile the backbone with `torch.compile`; or a mapping of its
            arguments; or the name of a mode. The twins are not compiled.

    Raises:
        MisconfigurationException: if the backbone does not know its right wiring, or another one
            than the data; or for what `ClassificationTask` refuses, too.

    Example:
        >>> from wiring_lightning.backbones import GatedHeads
        >>> task = WiringComparison(GatedHeads())
        >>> sorted(task.twins)
        ['planted', 'random']
    """

    def __init__(
        self,
        backbone: nn.Module,
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        compile: Compile = False,
    ) -> None:
        if not isinstance(backbone, Planted):
            raise MisconfigurationException(
                f"WiringComparison needs a backbone that knows its right wiring, such as "
                f"GatedHeads; {type(backbone).__name__} has no `planted_wiring` and `rewired`: use "
                "ClassificationTask."
            )
        super().__init__(backbone, optimizer, Schedule(lr_scheduler), compile, last_layer=nn.Linear)
        self.twins = nn.ModuleDict({name: backbone.rewired(name) for name in _TWINS})
        names = ("acc", *(f"acc_{name}" for name in _TWINS))
        self.train_metrics = nn.ModuleDict({"acc": LabelAccuracy(None)})
        self.val_metrics = nn.ModuleDict({name: LabelAccuracy(None) for name in names})
        self.test_metrics = nn.ModuleDict({name: LabelAccuracy(None) for name in names})
        self.test_metrics["acc_constant"] = MostFrequent(self.num_classes)

    @property
    @override
    def own_metrics(self) -> list[Metric | MetricCollection]:
        stages = (self.train_metrics, self.val_metrics, self.test_metrics)
        own = (cast(Metric, metric) for metrics in stages for metric in metrics.values())
        return [*super().own_metrics, *own]

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        known = getattr(getattr(self.trainer, "datamodule", None), "planted", None)
        own = getattr(self.backbone, "planted", None)
        if known is not None and own is not None and not torch.equal(known, own):
            raise MisconfigurationException(
                "The data were made with another wiring than the backbone takes for the right one: "
                "give both the same wiring_seed, as many digits as in_channels, as many sums as "
                "heads, and addends = fan_in."
            )

    @override
    def losses(self, logits: Tensor, labels: Tensor, stage: Stage) -> Tensor:
        """`[batch]` the cross-entropy of each example, the mean over its labels."""
        return mean_over_labels(pixel_losses(logits, labels, NO_LABEL))

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The loss to minimise, summed over the networks, and `[batch]` those of the backbone."""
        step = super().training_step(batch, batch_idx)
        images, labels = batch
        for twin in self.twins.values():
            step["loss"] = step["loss"] + self.losses(twin(images), labels, "train").mean()
        return step

    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class probabilities of the backbone, in the shape of its logits."""
        return self(batch[0]).softmax(1)

    @override
    def measure(self, batch: Batch, logits: Tensor, stage: Stage) -> None:
        """Update the accuracies, and log them at the end of the epoch."""
        images, labels = batch
        metrics: Any = getattr(self, f"{stage}_metrics")
        metrics["acc"].update(logits.argmax(1), labels)
        if stage != "train":
            for name, twin in self.twins.items():
                metrics[f"acc_{name}"].update(twin(images).argmax(1), labels)
        if stage == "test":
            metrics["acc_constant"].update(labels)
        self.log_metrics(metrics, stage, len(labels))
