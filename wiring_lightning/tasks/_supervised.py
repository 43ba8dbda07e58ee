"""The base class of tasks with labelled examples.

The file is private so that the command line does not list the base class as a task.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NoReturn, Self

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import SGD
from torchmetrics import Metric, MetricCollection
from typing_extensions import override

from wiring_lightning._checks import check_counts, check_finite, check_number
from wiring_lightning.callbacks._at_start import find_untaught, refuse_untaught
from wiring_lightning.callbacks.wiring_callback import find_learners
from wiring_lightning.checkpoints import check_optimizers, infinite_values, note_loaded
from wiring_lightning.nn import find_bernoulli_gates
from wiring_lightning.nn.described import with_descriptions
from wiring_lightning.nn.outputs import find_outputs
from wiring_lightning.tasks._backbones import check_connected, check_image_size, output_width
from wiring_lightning.tasks._compiling import Compile, compile_network
from wiring_lightning.tasks._loading import LoadedTask
from wiring_lightning.tasks._metrics import ExampleMean
from wiring_lightning.tasks._monitors import check_validation_monitors
from wiring_lightning.tasks._refused_images import explained
from wiring_lightning.tasks._saved import ARGUMENTS, KEY, by_name, describe_task, kept_arguments
from wiring_lightning.tasks._schedules import Schedule, check_monitored, check_validated

Stage = Literal["train", "val", "test"]
Batch = tuple[Tensor, Tensor]
"""Images, and a label or a mask for each."""


def default_optimizer(parameters: Any) -> SGD:
    """SGD with momentum, as in the papers.

    Example:
        >>> default_optimizer(nn.Linear(2, 2).parameters()).defaults["weight_decay"]
        0.0001
    """
    return SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4)


def mean_over_labels(losses: Tensor) -> Tensor:
    """`[batch]` the loss of each example: the mean over the losses of its labels.

    Args:
        losses: `[batch]` with one label for each example, or `[batch, labels, ...]`.

    Example:
        >>> mean_over_labels(Tensor([[1.0, 3.0], [0.0, 1.0]]))
        tensor([2.0000, 0.5000])
    """
    return losses if losses.dim() == 1 else losses.flatten(1).mean(1)


class SupervisedTask(LoadedTask, ABC):
    """Base class of the tasks: a backbone, one loss per example, and metrics.

    A task implements :meth:`losses`, the loss of each example, and :meth:`measure`, which logs
    metrics. This class logs `train/loss`, `val/loss` and `test/loss`. A training step returns the
    mean loss and, for `callbacks.BudgetedSearch`, the loss of each example. The progress bar shows
    the loss of every `log_every_n_steps`-th step: to read it, the host waits for an accelerator.

    Args:
        backbone: the network, from images to logits.
        optimizer: optimizer of the weights.
        schedule: learning rate schedule.
        compile: whether to compile the backbone with `torch.compile`; or a mapping of its
            arguments, such as `{"mode": "reduce-overhead"}`; or the name of a mode.
        last_layer: class of the layer that computes the logits, the last one of its class.
        auxiliary_weight: weight of the loss of each further output that a backbone has in training.

    Raises:
        MisconfigurationException: if the backbone's number of classes is unknown or differs from
            the data's, its `image_size` was given and differs from theirs, its architecture has no
            path, `torch.compile` does not take `compile`, or a learned wiring is trained without
            the callback that learns it.
    """

    built_with: Mapping[str, Any]

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        """Keep in `built_with` what a task is built with, so that a checkpoint can say it.

        Only here it is known what a subclass was given, and not what it gives its base class.
        """
        task = super().__new__(cls)
        task.built_with = kept_arguments(cls, by_name(cls, arguments, options))
        return task

    def __init__(
        self,
        backbone: nn.Module,
        optimizer: OptimizerCallable,
        schedule: Schedule,
        compile: Compile,
        last_layer: type[nn.Linear] | type[nn.Conv2d],
        auxiliary_weight: float = 0.3,
    ) -> None:
        super().__init__()
        check_number("auxiliary_weight", auxiliary_weight, error=MisconfigurationException)
        self.auxiliary_weight = auxiliary_weight
        check_connected(backbone)
        self.backbone = backbone
        self.optimizer = optimizer
        self.schedule = schedule
        self._compiled = compile_network(backbone, compile)
        self.num_classes = output_width(backbone, last_layer)
        check_counts(2, error=MisconfigurationException, num_classes=self.num_classes)
        self.val_loss, self.test_loss = ExampleMean(), ExampleMean()
        self._infinite_at_first = infinite_values(self.state_dict())  # such as an attention's mask
        self._last_loss: Tensor | None = None
        self._auxiliary: tuple[Tensor, ...] = ()  # of the last training batch

    @abstractmethod
    def losses(self, logits: Tensor, labels: Tensor, stage: Stage) -> Tensor:
        """`[batch]` the loss of each example."""

    @abstractmethod
    def measure(self, batch: Batch, logits: Tensor, stage: Stage) -> None:
        """Update and log metrics; the logits are detached."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Images `[batch, channels, height, width]` -> logits.

        Raises:
            ValueError: if the images are bytes, the backbone is made for another number of
                channels, its batch norm cannot learn from a batch of one image, or what it gives
                holds no logits.
            RuntimeError: if a network of another library cannot compute images of this shape.
        """
        logits, auxiliary = find_outputs(self._answer(images), type(self.backbone).__name__)
        if self.training:
            self._auxiliary = auxiliary
        return logits

    def _answer(self, images: Tensor) -> Any:
        try:
            return self.backbone(images)
        except Exception as error:  # libraries fail in many ways; torch.compile wraps them
            explanation = explained(error, self.backbone, images)
            if explanation is None:
                raise
            raise explanation from error

    def counted(self, labels: Tensor) -> Tensor | None:  # noqa: ARG002
        """`[batch]` which examples have a label, and count in a mean; `None` if all have one."""
        return None

    def parameter_groups(self) -> Iterable[nn.Parameter] | list[dict[str, Any]]:
        """The parameters of the optimizer, or groups of them with their own options."""
        return self.parameters()

    @property
    def lr_scheduler(self) -> LRSchedulerCallable | None:
        """What builds the learning rate schedule of an optimizer; `None` for a constant rate."""
        return self.schedule.make

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer(self.parameter_groups())
        for group in optimizer.param_groups:
            check_finite(type(optimizer).__name__, group, MisconfigurationException)
        every = None if self._trainer is None else self._trainer.check_val_every_n_epoch
        return self.schedule.configure(optimizer, every or 1)  # None: counted in steps

    @property
    def own_metrics(self) -> list[Metric | MetricCollection]:
        """The metrics of this class, which begin anew with every call of a trainer."""
        return [self.val_loss, self.test_loss]

    @override
    def setup(self, stage: str) -> None:
        # An evaluation that was interrupted leaves counts, and one in inference mode leaves tensors
        # that nothing can be added to in a fit. Here the inference mode has not begun.
        for metric in self.own_metrics:
            metric.reset()
        datamodule = getattr(self.trainer, "datamodule", None)
        check_image_size(self.backbone, datamodule)
        classes = getattr(datamodule, "num_classes", None)  # None: images without labels
        if classes is not None and classes != self.num_classes:
            raise MisconfigurationException(
                f"The data has {classes} classes, but the backbone ends in {self.num_classes}: set "
                f"num_classes={classes} of the backbone."
            )

    @override
    def on_fit_start(self) -> None:
        note_loaded(self, None)
        refuse_untaught(find_untaught(self, find_learners(self.trainer)))
        if (
            self._compiled is not None
            and self._compiled.get("fullgraph")
            and any(gate.learnable for gate in find_bernoulli_gates(self).values())
        ):
            raise MisconfigurationException(
                "A fabric that still learns is more than one graph, because every example draws "
                "an architecture: leave out fullgraph of compile, or name an architecture."
            )

    @override
    def on_train_start(self) -> None:
        check_optimizers(self.trainer)
        check_validated(self.trainer)

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The mean loss, and `[batch]` the loss of each example for `BudgetedSearch`.

        Raises:
            ValueError: if the batch has no examples.
        """
        if len(batch[1]) == 0:
            raise ValueError(
                "A training batch has no examples, so its loss has no mean: let the data leave "
                "such batches out, on every process."
            )
        losses = self._step(batch, "train")
        loss = self._mean(losses, self.counted(batch[1]))
        self._last_loss = loss.detach()
        every = self.trainer.log_every_n_steps  # 0: no step is logged
        if every and self.trainer.global_step % every == 0:
            self._read_loss()
        return {"loss": loss, "losses": losses.detach()}

    @override
    def on_train_epoch_end(self) -> None:
        self._read_loss()
        check_monitored(self.trainer)

    @override
    def on_validation_end(self) -> None:
        if self.trainer.sanity_checking:
            check_validation_monitors(self.trainer)

    @override
    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        try:
            super().lr_scheduler_step(scheduler, metric)
        except (ArithmeticError, LookupError, TypeError) as error:  # of a number that it was given
            raise MisconfigurationException(
                f"{type(scheduler).__name__} cannot make a step with the options that lr_scheduler "
                f"gives it: {error}."
            ) from error

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "val")

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "test")

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A diverged network must not replace a good checkpoint.
        self._read_loss()
        for name in infinite_values(checkpoint["state_dict"], but=self._infinite_at_first):
            self._diverged(f"Values of {name}")
        # Averages of weights, for example, are a plain dict that does not say what they are of.
        checkpoint["state_dict"] = with_descriptions(checkpoint["state_dict"], self)
        if (description := describe_task(self, self.built_with)) is not None:
            checkpoint[KEY] = description
        checkpoint[ARGUMENTS] = dict(self.built_with)

    def _step(self, batch: Batch, stage: Stage) -> Tensor:
        images, labels = batch
        logits = self(images)
        losses = self.losses(logits, labels, stage)
        if stage == "train":
            auxiliary, self._auxiliary = self._auxiliary, ()
            if self.auxiliary_weight:
                for output in auxiliary:
                    losses = losses + self.auxiliary_weight * self.losses(output, labels, stage)
            # With `prog_bar=True` the host would wait for this number in every step.
            mean_loss = self._mean(losses.detach(), self.counted(labels))
            self.log("train/loss", mean_loss, batch_size=len(labels))
        else:
            mean = self.val_loss if stage == "val" else self.test_loss
            mean.update(losses, self.counted(labels))
            self.log(f"{stage}/loss", mean, prog_bar=True, batch_size=len(labels))
        self.measure(batch, logits.detach(), stage)
        return losses

    @staticmethod
    def _mean(losses: Tensor, counted: Tensor | None) -> Tensor:
        """The mean over the examples that count; 0 if none does."""
        if counted is None:
            return losses.mean()
        return (losses * counted).sum() / counted.sum().clamp_min(1)

    def log_metrics(self, metrics: Mapping[str, Metric], stage: Stage, batch: int) -> None:
        """Log metrics at the end of the epoch, as `stage/name`.

        Args:
            metrics: by name; they have seen the batch.
            stage: such as `"val"`.
            batch: number of images of the batch.
        """
        named = {f"{stage}/{name}": metric for name, metric in metrics.items()}
        self.log_dict(named, prog_bar=True, on_step=False, on_epoch=True, batch_size=batch)

    def _read_loss(self) -> None:
        """Show the last loss in the progress bar; an error if it is not finite."""
        if self._last_loss is None:
            return
        loss = float(self._last_loss)
        if not math.isfinite(loss):
            self._diverged("The training loss")
        self.trainer.progress_bar_metrics["train/loss"] = loss

    def _diverged(self, what: str) -> NoReturn:
        raise FloatingPointError(
            f"{what} became infinite or not a number by step {self.trainer.global_step}: lower the "
            "learning rate or clip the gradients; checkpoints from before are untouched."
        )
