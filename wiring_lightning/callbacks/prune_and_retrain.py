"""Dense training, pruning and retraining in one run, for any LightningModule."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from lightning.fabric.utilities.optimizer import _optimizers_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    EarlyStopping,
    StochasticWeightAveraging,
)
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning._checks import check_counts, counted, plain_number
from wiring_lightning.callbacks._begins import Begins
from wiring_lightning.callbacks._kept_arguments import came_from, refuse_changed
from wiring_lightning.callbacks._run_length import Begin
from wiring_lightning.callbacks._weight_choice import graphs_of
from wiring_lightning.callbacks.phase_schedule import PhaseSchedule
from wiring_lightning.callbacks.sparse_layers import SparseGroup, SparseLayers
from wiring_lightning.callbacks.wiring_callback import find_learners
from wiring_lightning.optim import PrunedWeights


class PruneAndRetrain(Begins, SparseLayers[PrunedWeights]):
    """Train the dense network, prune it once, and train what is left again (DNW, Table 2).

    After `dense_epochs` the k weights of largest magnitude stay, and a second training begins.
    `configure_optimizers` makes new optimizers and learning rate schedules for it. It starts

    - with `rewind=True` from the initial weights and buffers: the one-shot lottery ticket;
    - otherwise from the trained ones: fine-tuning, usually with another learning rate `lr`.

    The trainer's `max_epochs` is the sum of both trainings; a schedule should span one of them.
    Graphs (`nn.Adjacency`) have all possible edges in the first training. Checkpoints of the first
    training are dense, those of the second are sparse; a run can resume from either.
    `EarlyStopping` compares the second training only with itself: its best score and its patience
    start anew.

    Args:
        dense_epochs: length of the first training, at least 1.
        rewind: whether the second training starts from the initial weights; if a run that resumes
            adds this callback, from those of the checkpoint, and a warning says so.
        lr: initial learning rate of the second training. The rates of all groups and their
            schedules, also the lowest and highest ones, are scaled by `lr` over the rate of the
            first group. By default unchanged.
        choice: the other arguments of `SparseLayers`, such as density and layers.

    Raises:
        MisconfigurationException: as for `SparseLayers`; if `dense_epochs` or `lr` is out of range;
            if the trainer stops before the second training; if `StochasticWeightAveraging` begins,
            or `BackboneFinetuning` unfreezes, before it; if another callback learns a wiring; or if
            a run resumes with another `rewind`, or after the pruning with another `lr` or
            `dense_epochs`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> ticket = PruneAndRetrain(dense_epochs=160, rewind=True, density=0.1)
        >>> trainer = Trainer(callbacks=[ticket], max_epochs=320, logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    masks_gradients = True
    freezes_itself = True

    def __init__(
        self, dense_epochs: int, rewind: bool = False, lr: float | None = None, **choice: Any
    ) -> None:
        super().__init__(freeze_epoch=None, **choice)
        check_counts(error=self.mistake, dense_epochs=dense_epochs)
        if lr is not None and not 0 < lr < float("inf"):
            raise self.mistake(f"lr must be above 0, got {lr}.")
        self.dense_epochs = dense_epochs
        self.rewind = rewind
        self.lr = plain_number(lr)
        self._pruned = False
        self._initial: dict[str, Any] | None = None  # state of the network before the fit

    @property
    @override
    def frozen(self) -> bool:
        return self._pruned

    @property
    @override
    def due(self) -> bool:
        return self._pruned

    @property
    @override
    def kept_arguments(self) -> dict[str, Any]:
        own = {"dense_epochs": self.dense_epochs, "rewind": self.rewind, "lr": self.lr}
        return {**super().kept_arguments, **(own if self._pruned else {})}

    @override
    def unfinished(self, epochs: int) -> str | None:
        if self._pruned or epochs > self.dense_epochs:
            return None
        dense = counted(self.dense_epochs, "epoch")
        return f"the network is pruned after {dense}, and then trains again"

    @override
    def forget(self) -> None:
        super().forget()
        self._pruned, self._initial = False, None

    @override
    def check_freeze(self, epoch: int | None) -> None:
        if epoch is not None and epoch < self.dense_epochs:
            raise self.mistake(
                f"the edges are not known before epoch {self.dense_epochs}; remove `freeze` from "
                "earlier phases."
            )

    @override
    def freeze(self) -> None:
        """Nothing to do: once the network is pruned, its edges stay."""

    @override
    def make_rule(self, optimizer: Optimizer, groups: Sequence[SparseGroup]) -> PrunedWeights:
        for group in groups:
            group.fill_in()
        return PrunedWeights(optimizer, [group.edge_set() for group in groups])

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        others = [learner for learner in find_learners(trainer) if learner is not self]
        if others:
            raise self.mistake(
                f"{type(others[0]).__name__} holds on to an optimizer that this callback replaces; "
                "use one of the two."
            )
        self.find_begin(trainer)
        if self._restored is not None:
            self._pruned, self._initial = self._restored["pruned"], self._restored.get("first")
            if not self._pruned:
                saved = {"rewind": self._initial is not None}
                refuse_changed(
                    saved, {"rewind": self.rewind}, self.mistake, came_from(self._continues)
                )
        if self._continues and self._pruned:
            self._scale_rates(trainer)  # of the new optimizers with which the fit goes on
        super().on_fit_start(trainer, pl_module)
        if self.rewind and not self._pruned and self._initial is None:
            if self.fit_begin(trainer) != Begin():  # a finder's checkpoint is no beginning
                rank_zero_warn(
                    f"{type(self).__name__}: this callback is new in a training that has begun, so "
                    "the second training starts from the weights of this moment, not from the "
                    "initial ones."
                )
            self._initial = pl_module.state_dict()  # with the descriptions of its modules
            for name, value in self._initial.items():
                # Modules may add an extra state of any kind.
                own = value.detach().cpu().clone() if isinstance(value, Tensor) else deepcopy(value)
                self._initial[name] = own

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last = None if trainer.fast_dev_run else self.epochs_until_end(trainer)
        if last is not None and last <= self.dense_epochs:
            raise self.mistake(
                f"the trainer stops after {counted(last, 'epoch')}, but the second training begins "
                f"after {self.dense_epochs}: give it the max_epochs, or max_steps, of both "
                "trainings."
            )
        if last is not None:
            self._refuse_too_early(trainer)
        super().on_train_start(trainer, pl_module)
        # A resumed run does not call `on_train_epoch_start` for its first epoch.
        self.on_train_epoch_start(trainer, pl_module)

    def _refuse_too_early(self, trainer: Trainer) -> None:
        """Raise an error for an average or a finetuning that new optimizers would undo."""
        for number, callback in enumerate(trainer.callbacks):
            # What is called before this callback must not begin in the epoch of the pruning.
            first = self.dense_epochs + (number < trainer.callbacks.index(self))
            if isinstance(callback, StochasticWeightAveraging) and callback.swa_start < first:
                raise self.mistake(
                    "StochasticWeightAveraging begins before the network is pruned, where its "
                    "average is that of the dense network and new optimizers lose its `swa_lrs`: "
                    f"give it an swa_epoch_start of at least {first + 1}."
                )
            thaws = isinstance(callback, BackboneFinetuning)
            if thaws and callback.unfreeze_backbone_at_epoch < first:
                raise self.mistake(
                    "BackboneFinetuning adds the backbone to the optimizer before the network is "
                    "pruned, where new optimizers lose its groups and rates: give it an "
                    f"unfreeze_backbone_at_epoch of at least {first}."
                )

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch >= self.dense_epochs and not self._pruned:
            self._begin_again(trainer, pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if not self._rules:
            return state
        first = {} if self._initial is None else {"first": self._initial}
        return {**state, "pruned": self._pruned, **first}

    def _begin_again(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune, and start the second training."""
        _renew_optimizers(trainer)
        self.follow(trainer)
        self._scale_rates(trainer)
        # The layers of the start, also if one is frozen by now or an average has moved away.
        self.make_rules(trainer, self._groups)
        for rule in self._rules:
            rule.freeze()
        if self._initial is not None:
            pl_module.load_state_dict(self._initial)
            for rule in self._rules:
                rule.keep(rule.masks)
        for graph in graphs_of(self._groups):
            graph.freeze()
        self._pruned, self._initial = True, None
        for callback in trainer.callbacks:
            if isinstance(callback, EarlyStopping):
                _forget_scores(callback)
            elif isinstance(callback, PhaseSchedule):
                callback.enter(trainer)  # its rates are for the new optimizers, too
            elif isinstance(callback, BaseFinetuning):
                _describe_groups(callback, trainer, pl_module)
        what = "the first weights" if self.rewind else "the weights that it has"
        rank_zero_info(f"{type(self).__name__}: pruned; trains again from {what}.")

    def _scale_rates(self, trainer: Trainer) -> None:
        """Give new optimizers and their schedules the rates of the second training."""
        if self.lr is not None:
            schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
            scale_rates(trainer.optimizers, schedules, self.lr)


def _forget_scores(stopping: EarlyStopping) -> None:
    """Forget the scores of the dense network, which the second training need not reach."""
    worst = float("inf") if stopping.mode == "min" else -float("inf")
    stopping.best_score = torch.full_like(stopping.best_score, worst)
    stopping.wait_count = 0


def _describe_groups(tuning: BaseFinetuning, trainer: Trainer, module: LightningModule) -> None:
    """Let a finetuning keep the groups of the new optimizers, which it makes when a run resumes."""
    tuning._internal_optimizer_metadata.clear()
    for number, optimizer in enumerate(trainer.optimizers):
        tuning._store(module, number, 0, optimizer.param_groups)


def _renew_optimizers(trainer: Trainer) -> None:
    """Give the trainer new optimizers and schedules from `configure_optimizers`."""
    trainer.strategy.setup_optimizers(trainer)
    _optimizers_to_device(trainer.optimizers, trainer.strategy.root_device)


def scale_rates(optimizers: Sequence[Optimizer], schedules: Sequence[Any], lr: float) -> None:
    """Scale all rates of new optimizers and their schedules, so that the first group's is `lr`."""
    for optimizer in optimizers:
        first = optimizer.param_groups[0]
        factor = lr / first.get("initial_lr", first["lr"])
        for group in optimizer.param_groups:
            for key in {"lr", "initial_lr", "max_lr", "min_lr"} & group.keys():
                group[key] = group[key] * factor
        for schedule in schedules:
            if schedule.optimizer is optimizer:
                _scale(schedule, factor)


def _scale(schedule: Any, factor: float) -> None:
    """Scale the learning rates that a schedule holds, and those of the schedules in it."""
    for part in (*getattr(schedule, "_schedulers", ()), *getattr(schedule, "parts", ())):
        _scale(part, factor)
    for name in {"base_lrs", "max_lrs", "min_lrs"} & vars(schedule).keys():
        setattr(schedule, name, [lr * factor for lr in getattr(schedule, name)])
    if hasattr(schedule, "eta_min"):
        schedule.eta_min *= factor
