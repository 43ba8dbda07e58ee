"""Dense training, pruning and retraining in one run, for any LightningModule."""

from collections.abc import Sequence
from typing import Any

from lightning.fabric.utilities.optimizer import _optimizers_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.callbacks.sparse_layers import SparseGroup, SparseLayers
from wiring_lightning.callbacks.wiring_callback import WiringCallback
from wiring_lightning.optim import PrunedWeights


class PruneAndRetrain(SparseLayers):
    """Train the dense network, prune it once, and train what is left again (DNW, Table 2).

    After `dense_epochs` the k weights of largest magnitude stay. Then a second training begins as
    if by another command: with new optimizers and learning rate schedules from the same
    `configure_optimizers`, and

    - with `rewind=True` from all weights and buffers that the network began with: the one-shot
      lottery ticket;
    - otherwise from the trained ones: fine-tuning, usually with a rate `lr` of its own.

    The trainer's `max_epochs` is the sum of both trainings; a schedule should span one of them.
    Graphs (`nn.Adjacency`) are complete in the first training: every edge that could be there is.
    A checkpoint of the first training is dense, one of the second is sparse; a run can resume from
    either.

    Args:
        dense_epochs: length of the first training, at least 1.
        rewind: whether the second training begins with the first weights.
        lr: learning rate that the second training begins with; every group's rate and its schedule
            are scaled by `lr` over the rate of the first group. By default as in the first one.
        choice: which weights are sparse: density, edges, layers, first_dense, groups, as for `DNW`.

    Raises:
        MisconfigurationException: as for `DNW`; if `dense_epochs` or `lr` is out of range; if the
            trainer stops before the second training; or if another callback learns a wiring.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> ticket = PruneAndRetrain(dense_epochs=160, rewind=True, density=0.1)
        >>> trainer = Trainer(callbacks=[ticket], max_epochs=320, logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(
        self, dense_epochs: int, rewind: bool = False, lr: float | None = None, **choice: Any
    ) -> None:
        super().__init__(freeze_epoch=None, **choice)
        if dense_epochs < 1:
            raise self.mistake(f"dense_epochs must be at least 1, got {dense_epochs}.")
        if lr is not None and not 0 < lr < float("inf"):
            raise self.mistake(f"lr must be above 0, got {lr}.")
        self.dense_epochs = dense_epochs
        self.rewind = rewind
        self.lr = lr
        self._pruned = False
        self._first: dict[str, Tensor] | None = None  # what the network began with

    @override
    def freeze(self) -> None:
        if not self._pruned:
            raise self.mistake(
                f"the edges are not known before epoch {self.dense_epochs}; let no earlier phase "
                "`freeze`."
            )

    @override
    def make_rule(self, optimizer: Optimizer, groups: Sequence[SparseGroup]) -> PrunedWeights:
        for group in groups:
            group.fill_in()
        return PrunedWeights(optimizer, [group.edge_set() for group in groups])

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        others = [c for c in trainer.callbacks if isinstance(c, WiringCallback) and c is not self]
        if others:
            raise self.mistake(
                f"{type(others[0]).__name__} holds on to an optimizer that this callback replaces; "
                "use one of the two."
            )
        last = -1 if trainer.fast_dev_run or trainer.max_epochs is None else trainer.max_epochs
        if 0 <= last <= self.dense_epochs:
            raise self.mistake(
                f"the trainer stops after {last} epochs, but the second training "
                f"begins after {self.dense_epochs}: give it the max_epochs of both together."
            )
        super().on_fit_start(trainer, pl_module)
        if self.rewind and not self._pruned and self._first is None:
            self._first = pl_module.state_dict()  # which says what it is of
            for name, value in self._first.items():
                self._first[name] = value.detach().cpu().clone()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that resumes skips the start of its first epoch.
        self.on_train_epoch_start(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch >= self.dense_epochs and not self._pruned:
            self._begin_again(trainer, pl_module)

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        for rule in self.rules_of(optimizer, PrunedWeights):
            rule.mask_gradients()

    @override
    def state_dict(self) -> dict[str, Any]:
        state = {**super().state_dict(), "pruned": self._pruned}
        return state if self._first is None else {**state, "first": self._first}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._pruned = state_dict["pruned"]
        self._first = state_dict.get("first")

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        if stage != "fit":
            self._pruned, self._first = False, None  # what a test loaded is not for the next fit

    def _begin_again(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune, and start the second training."""
        _renew_optimizers(trainer, self.lr)
        for rule in self._rules:
            rule.detach()
        self.make_rules(trainer, self.find_groups(trainer, pl_module))
        rules = [rule for rule in self._rules if isinstance(rule, PrunedWeights)]
        for rule in rules:
            rule.prune(1.0)
        if self._first is not None:
            pl_module.load_state_dict(self._first)
            for rule in rules:
                rule.keep(rule.masks)
        for graph in self._graphs:
            graph.freeze()
        self._pruned, self._first = True, None
        what = "the first weights" if self.rewind else "the trained weights"
        rank_zero_info(f"{type(self).__name__}: pruned; trains again from {what}.")


def _renew_optimizers(trainer: Trainer, lr: float | None) -> None:
    """Give the trainer new optimizers and schedules from `configure_optimizers`."""
    trainer.strategy.setup_optimizers(trainer)
    _optimizers_to_device(trainer.optimizers, trainer.strategy.root_device)
    if lr is None:
        return
    schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
    for optimizer in trainer.optimizers:
        first = optimizer.param_groups[0]
        factor = lr / first.get("initial_lr", first["lr"])
        for group in optimizer.param_groups:
            for key in {"lr", "initial_lr"} & group.keys():
                group[key] = group[key] * factor
        for schedule in schedules:
            if schedule.optimizer is optimizer:
                _scale(schedule, factor)


def _scale(schedule: Any, factor: float) -> None:
    """Let a schedule, and those that it is made of, start from other rates."""
    for part in getattr(schedule, "_schedulers", []):
        _scale(part, factor)
    if hasattr(schedule, "base_lrs"):
        schedule.base_lrs = [lr * factor for lr in schedule.base_lrs]
