"""Image classification with any backbone."""

from typing import Any, NoReturn

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from wiring_lightning.callbacks.wiring_callback import WiringCallback
from wiring_lightning.nn import find_learnable


def _default_optimizer(parameters: Any) -> SGD:
    return SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4)


class ClassificationTask(LightningModule):
    """Train a backbone to classify images with cross-entropy.

    Logs `train/loss`, `train/acc`, `val/loss`, `val/acc`, `test/loss`, `test/acc` (top 1) and, with
    more than five classes, `val/acc_top5` and `test/acc_top5`.

    Args:
        backbone: the network; takes images, gives logits.
        optimizer: optimizer of the weights. The scores of a wiring are none of its business: the
            callback that learns them takes them out of it.
        lr_scheduler: learning rate schedule, one step per epoch. Not together with a
            `PhaseSchedule` that sets rates.
        label_smoothing: share of the target spread evenly over all classes.
        compile: compile the backbone with `torch.compile`.

    Raises:
        MisconfigurationException: if the backbone's number of classes differs from the data's, or a
            learned wiring is trained without the callback that learns it.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> task = ClassificationTask(ResNeXt(depth=11, fan_in=2, num_classes=10))
        >>> task(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        backbone: nn.Module,
        optimizer: OptimizerCallable = _default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        label_smoothing: float = 0.0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.label_smoothing = label_smoothing
        if compile:
            # In place: the names in the state_dict stay those of the plain network.
            self.backbone.compile()
        self.num_classes = _output_features(backbone)
        top5 = self.num_classes > 5
        self.train_metrics = _accuracy(self.num_classes, top5=False)
        self.val_metrics = _accuracy(self.num_classes, top5=top5)
        self.test_metrics = _accuracy(self.num_classes, top5=top5)
        self._last_loss: Tensor | None = None

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> logits `[batch, classes]`."""
        logits: Tensor = self.backbone(images)
        return logits

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer(self.parameters())
        if self.lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.lr_scheduler(optimizer)}

    @override
    def setup(self, stage: str) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        classes = getattr(datamodule, "num_classes", self.num_classes)
        if classes != self.num_classes:
            raise MisconfigurationException(
                f"The data has {classes} classes, but the backbone ends in {self.num_classes}: set "
                f"num_classes={classes} of the backbone."
            )

    @override
    def on_fit_start(self) -> None:
        learnable = find_learnable(self)
        callbacks = self.trainer.callbacks
        if learnable and not any(isinstance(callback, WiringCallback) for callback in callbacks):
            teacher = next(iter(learnable.values())).taught_by
            raise MisconfigurationException(
                f"The backbone has a learned wiring ({len(learnable)} layers), but no callback "
                f"learns it, so it would keep its first random draw: add {teacher} to the "
                'trainer\'s callbacks, or build the backbone with wiring="random".'
            )

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """The mean loss, and `[batch]` the loss of each example, which a search asks for."""
        losses = self._step(batch, "train", self.train_metrics)
        loss = losses.mean()
        self._last_loss = loss.detach()
        if self.trainer.global_step % self.trainer.log_every_n_steps == 0:
            self._check_loss()
        return {"loss": loss, "losses": losses.detach()}

    @override
    def on_train_epoch_end(self) -> None:
        self._check_loss()

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, "val", self.val_metrics)

    @override
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, "test", self.test_metrics)

    @override
    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Class probabilities `[batch, classes]`."""
        return self(batch[0]).softmax(-1)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Before anything is written: a diverged network must not replace a good checkpoint.
        self._check_loss()
        for name, value in checkpoint["state_dict"].items():
            if not torch.isfinite(value).all():
                self._diverged(f"Values of {name}")

    def _step(self, batch: tuple[Tensor, Tensor], stage: str, metrics: MetricCollection) -> Tensor:
        images, labels = batch
        logits = self(images)
        smoothing = self.label_smoothing if stage == "train" else 0.0
        losses = functional.cross_entropy(
            logits, labels, label_smoothing=smoothing, reduction="none"
        )
        metrics.update(logits.detach(), labels)
        training = stage == "train"
        self.log(
            f"{stage}/loss",
            losses.detach().mean(),
            prog_bar=True,
            on_step=training,
            on_epoch=not training,
            sync_dist=not training,
            batch_size=len(labels),
        )
        self.log_dict(
            {f"{stage}/{name}": metric for name, metric in metrics.items()},
            prog_bar=True,
            on_step=False,
            on_epoch=True,
            batch_size=len(labels),
        )
        return losses

    def _check_loss(self) -> None:
        if self._last_loss is not None and not torch.isfinite(self._last_loss):
            self._diverged("The training loss")

    def _diverged(self, what: str) -> NoReturn:
        raise FloatingPointError(
            f"{what} became infinite or not a number by step {self.trainer.global_step}: lower the "
            "learning rate or clip the gradients; checkpoints from before are untouched."
        )


def _accuracy(num_classes: int, top5: bool) -> MetricCollection:
    metrics: dict[str, Metric | MetricCollection] = {
        "acc": MulticlassAccuracy(num_classes, average="micro")
    }
    if top5:
        metrics["acc_top5"] = MulticlassAccuracy(num_classes, average="micro", top_k=5)
    return MetricCollection(metrics)


def _output_features(backbone: nn.Module) -> int:
    """Number of classes, read off the last linear layer or a `num_classes` attribute."""
    declared = getattr(backbone, "num_classes", None)
    if isinstance(declared, int):
        return declared
    linear = [module for module in backbone.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise MisconfigurationException(
            f"{type(backbone).__name__} has neither a `num_classes` attribute nor a linear layer "
            "to read the number of classes from; add the attribute."
        )
    return linear[-1].out_features
