"""Targeted dropout of small weights, for any LightningModule."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning._checks import check_seed
from wiring_lightning.callbacks.sparse_layers import SparseGroup, SparseLayers
from wiring_lightning.optim import DroppedEdgeSet, WeightDropout
from wiring_lightning.optim.targeted_dropout import rows_kept


class TargetedDropout(SparseLayers[WeightDropout]):
    """Drop small weights at random while training, and all of them afterwards (DNW, Table 2).

    The k largest weights of a layer or group always stay. In training each other weight is dropped
    with probability rho, sampled again after every step. In validation and in checkpoints all other
    weights are dropped. Dropped weights get no gradient. Kept weights keep their sign, which they
    lose in the authors' code. The latent weights are part of this callback's state.

    Args:
        rho: probability that one of the other weights is dropped, from 0 to 1.
        per_row: keep the largest weights of every row (the weights of one output) instead of the
            largest of the layer. Every row keeps the same share of its weights, rounded, and at
            least one. A parameter of one axis (`vectors`) is one row.
        seed: seed of the draws; the n-th draw depends on the seed and n only.
        choice: the other arguments of `SparseLayers`, such as density and layers.

    Raises:
        MisconfigurationException: as for `SparseLayers`; if `rho` is out of range; or if other
            arguments ask for what rows of one share cannot have.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[TargetedDropout(rho=0.95, density=0.1)], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    masks_gradients = True

    def __init__(
        self, rho: float = 0.95, per_row: bool = False, seed: int = 0, **choice: Any
    ) -> None:
        super().__init__(**choice)
        if not 0 <= rho <= 1:
            raise self.mistake(f"rho must be between 0 and 1, got {rho}.")
        if per_row and (self.groups or self.distribution == "global" or self.min_edges):
            raise self.mistake(
                "per_row keeps the same share of every row of a layer: remove `groups`, "
                "distribution=global and min_edges."
            )
        self.rho = rho
        self.per_row = per_row
        check_seed(seed, error=self.mistake)
        self.seed = seed
        self._asked: dict[str, int] = {}  # numbers of edges before those of rows are rounded

    @property
    @override
    def kept_arguments(self) -> dict[str, Any]:
        return {**super().kept_arguments, "per_row": self.per_row}

    @override
    def find_groups(self, trainer: Trainer, module: nn.Module) -> list[SparseGroup]:
        groups = super().find_groups(trainer, module)
        self._asked = {group.name: group.k for group in groups}
        return [self._with_rows(group) for group in groups] if self.per_row else groups

    def _with_rows(self, group: SparseGroup) -> SparseGroup:
        """A group with the number of edges that all of its rows keep together."""
        kept = sum(int(own.sum()) for own in rows_kept(group.weights, group.usable, group.k))
        if self.edges not in (None, kept):
            raise self.mistake(
                f"the rows of {group.name} cannot all keep the same share of {self.edges} edges; "
                f"give {kept}, or a density."
            )
        return replace(group, k=kept)

    @override
    def make_rule(self, optimizer: Optimizer, groups: Sequence[SparseGroup]) -> WeightDropout:
        sets = [
            DroppedEdgeSet(
                *replace(group, k=self._asked[group.name]).edge_fields(),
                rho=self.rho,
                per_row=self.per_row,
                seed=self.seed,
                name=group.name,
            )
            for group in groups
        ]
        return WeightDropout(optimizer, sets)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            for rule in self._rules:
                rule.evaluate()
        super().on_validation_start(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            for rule in self._rules:
                rule.train()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        for rule in self._rules:
            rule.evaluate()

    @override
    def let_go(self) -> None:
        for rule in self._rules:
            rule.evaluate()
        super().let_go()

    @override
    def broken(self) -> str | None:
        # During training more than k weights are present, by design.
        return super().broken() if all(rule.evaluates for rule in self._rules) else None
