"""Gradual pruning with an L1 penalty, for any LightningModule."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.callbacks._begins import Begins
from wiring_lightning.callbacks._run_length import most_epochs
from wiring_lightning.callbacks._scaled import gradient_scale
from wiring_lightning.callbacks.sparse_layers import SparseGroup, SparseLayers
from wiring_lightning.optim import PrunedWeights


class L1Anneal(Begins, SparseLayers[PrunedWeights]):
    """Start dense and remove edges by magnitude until k are left (L1 + Anneal of DNW, Table 2).

    The paper gives neither schedule nor strength. Here edges are removed, for good, at the start
    of each epoch: all are present in the first epoch, k from the last epoch (or `freeze_epoch`)
    on, and their number falls linearly in between. The gradient of `penalty` times the sum of
    magnitudes is added to the gradient of the loss, before clipping.

    Args:
        penalty: strength of the L1 term. The default is an assumption: at the paper's learning
            rates it moves a weight by about 0.03 in 160 epochs of CIFAR-10, which is the size of
            the initial weights of its graphs.
        freeze_epoch: from the start of this epoch exactly k edges are left; by default the last.
        choice: the other arguments of `SparseLayers`, such as density and layers.

    Raises:
        MisconfigurationException: as for `SparseLayers`; if the penalty is negative; or if the
            last epoch is not known and `freeze_epoch` is not given.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[L1Anneal(1e-5, density=0.1)], max_epochs=160,
        ...                   logger=False, enable_checkpointing=False, accelerator="cpu")
    """

    masks_gradients = True
    freezes_itself = True

    def __init__(
        self, penalty: float = 1e-5, freeze_epoch: int | None = None, **choice: Any
    ) -> None:
        super().__init__(freeze_epoch=freeze_epoch, **choice)
        if not 0 <= penalty < float("inf"):
            raise self.mistake(f"penalty must be a number from 0 up, got {penalty}.")
        self.penalty = penalty
        self._last_epoch = 0

    @property
    @override
    def due(self) -> bool:
        return self.frozen

    @override
    def unfinished(self, epochs: int) -> str | None:
        if self.frozen or epochs > self._last_epoch:
            return None
        return f"k edges are left from epoch {self._last_epoch} (from 0) on"

    @override
    def make_rule(self, optimizer: Optimizer, groups: Sequence[SparseGroup]) -> PrunedWeights:
        for group in groups:
            group.fill_in()
        return PrunedWeights(optimizer, [group.edge_set() for group in groups])

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.find_begin(trainer)
        last = (trainer.max_epochs or 1) - 1  # unless `max_steps` ends the fit earlier
        self._last_epoch = last if self.freeze_epoch is None else self.freeze_epoch
        super().on_fit_start(trainer, pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.freeze_epoch is None:
            epochs = self.epochs_until_end(trainer)
            if epochs is None:
                raise self.mistake(
                    "the number of edges falls until the last epoch, which is not known: give the "
                    "trainer `max_epochs`, or this callback `freeze_epoch`."
                )
            self._last_epoch = epochs - 1
            if epochs != most_epochs(trainer):  # then max_steps, and so the batches, decide
                self.count_on("freeze_epoch")
        super().on_train_start(trainer, pl_module)
        # A resumed run does not call `on_train_epoch_start` for its first epoch.
        self._anneal(trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._anneal(trainer)

    @override
    def before_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        strength = self.penalty * gradient_scale(trainer, optimizer)
        for rule in self._rules:
            if rule.optimizer is optimizer:
                rule.penalize(strength)
        super().before_step(trainer, optimizer)

    def _anneal(self, trainer: Trainer) -> None:
        epoch = trainer.current_epoch
        if epoch >= self._last_epoch:
            self.freeze()
            return
        for rule in self._rules:
            rule.prune(epoch / self._last_epoch)
