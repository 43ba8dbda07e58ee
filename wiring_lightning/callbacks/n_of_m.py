"""N:M sparse weights with SR-STE as a callback for any LightningModule."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning._checks import check_counts, listed
from wiring_lightning.callbacks._checked_wiring import WiringError
from wiring_lightning.callbacks._scaled import gradient_scale
from wiring_lightning.callbacks._weight_choice import Chosen, SparseWeight
from wiring_lightning.callbacks.sparse_layers import SparseGroup, SparseLayers
from wiring_lightning.functional.n_of_m import mask_n_of_m
from wiring_lightning.optim.n_of_m import BlockEdgeSet, SparseRefined


class NMSparsity(SparseLayers[SparseRefined]):
    """Keep n of every m consecutive weights, such as 2 of 4, and learn which (SR-STE).

    The n weights of largest magnitude in every block of m inputs are the network. The gradient
    flows to all weights, and absent ones decay: `w - lr (g(w~) + decay (1 - mask) w)`. After a
    freeze absent ones neither get a gradient nor decay.

    Sparse tensor cores compute 2:4 along the inputs of a linear layer, or the input channels of a
    convolution. A layer whose number of inputs is no multiple of m stays dense, such as the first
    convolution of images; so do graphs (`nn.Adjacency`), and layers that `torch.nn.utils.prune` has
    pruned.

    Args:
        n: weights of a block that are there.
        m: length of a block.
        decay: the paper's lambda_w, by which absent weights decay.
        layers: as for `SparseLayers`.
        exclude: as for `SparseLayers`.
        first_dense: as for `SparseLayers`.
        last_dense: as for `SparseLayers`.
        freeze_epoch: as for `SparseLayers`.
        log_density: as for `SparseLayers`.

    Raises:
        MisconfigurationException: as for `SparseLayers`; if a number is out of range; or if no
            layer has such blocks.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[NMSparsity(2, 4)], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(
        self,
        n: int = 2,
        m: int = 4,
        decay: float = 2e-4,
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        first_dense: bool = False,
        last_dense: bool = False,
        freeze_epoch: int | None = None,
        log_density: bool = False,
    ) -> None:
        check_counts(n=n, m=m, least=0, error=self.mistake)
        if not 1 <= n < m <= 64:
            raise self.mistake(f"n and m must be 1 <= n < m <= 64, got n={n} and m={m}.")
        if not 0 <= decay < float("inf"):
            raise self.mistake(f"decay must be a number from 0 up, got {decay}.")
        super().__init__(
            density=n / m,
            layers=layers,
            exclude=exclude,
            first_dense=first_dense,
            last_dense=last_dense,
            freeze_epoch=freeze_epoch,
            log_density=log_density,
        )
        self.n, self.m, self.decay = n, m, decay

    @property
    @override
    def kept_arguments(self) -> dict[str, Any]:
        return {**super().kept_arguments, "n": self.n, "m": self.m}

    @override
    def find_groups(self, trainer: Trainer, module: nn.Module) -> list[SparseGroup]:
        self.density = self.n / self.m  # either may be another one than in the last fit
        return super().find_groups(trainer, module)

    @override
    def make_rule(self, optimizer: Optimizer, groups: Sequence[SparseGroup]) -> SparseRefined:
        sets = [
            BlockEdgeSet(group.weights, group.k, n=self.n, m=self.m, axis=_axis(group.members[0]))
            for group in groups
        ]
        return SparseRefined(optimizer, sets, self.decay)

    @override
    def before_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        for rule in self._rules:
            if rule.optimizer is optimizer and not rule.frozen:
                rule.decay_absent(gradient_scale(trainer, optimizer))
        super().before_step(trainer, optimizer)

    @override
    def valid(self, group: int, values: list[Tensor]) -> bool:
        axes = [_axis(member) for member in self._groups[group].members]
        return all(map(self._has_n_of_m, values, axes))

    @override
    def broken(self) -> str | None:
        wrong = [
            (group, member)
            for group in self._groups
            for member in group.members
            if not self._has_n_of_m(member.parameter.detach(), _axis(member))
        ]
        lost = [member.name for _, member in wrong if member.parameter.isnan().any()]
        if lost:
            raise WiringError(
                f"{type(self).__name__}: {listed(lost)} has weights that are no numbers; has the "
                "loss diverged?"
            )
        names = [
            f"{group.name} has more than {self.n} of {self.m} weights in a block"
            for group, _ in wrong
        ]
        return listed(names) if names else None

    @override
    def _choose(self, module: nn.Module, copies: Sequence[nn.Module] = ()) -> Chosen:
        """Without the layers that have no such blocks."""
        chosen = super()._choose(module, copies)
        groups = {
            name: members
            for name, members in chosen.groups.items()
            if all(self._has_blocks(member) for member in members)
        }
        if not groups:
            raise self.mistake(self._why_none(module, chosen))
        left = [name for name in chosen.groups if name not in groups]
        return Chosen(groups, [*chosen.dense, *left], chosen.frozen)

    def _why_none(self, module: nn.Module, chosen: Chosen) -> str:
        weights = [weight for own in chosen.groups.values() for weight in own]
        graphs = [one.layer_name for one in weights if one.graph is not None]
        pruned = [one.layer_name for one in weights if one.graph is None and _is_taken(one)]
        others = [one.layer_name for one in weights if not _is_taken(one)]
        if not graphs and not pruned:
            return (
                f"no layer of {type(module).__name__} has a number of inputs that is a multiple of "
                f"{self.m}: choose other layers, or another m."
            )
        reasons = {
            "pruned by torch.nn.utils.prune (call prune.remove first)": pruned,
            "a graph with edges of its own (use DNW)": graphs,
            f"without a multiple of {self.m} inputs (choose another m)": others,
        }
        told = [f"{listed(names)}: {reason}" for reason, names in reasons.items() if names]
        return f"no layer of {type(module).__name__} can have blocks; {'; '.join(told)}."

    def _has_n_of_m(self, value: Tensor, axis: int) -> bool:
        return not (value.ne(0) & ~mask_n_of_m(value, self.n, self.m, axis)).any()

    def _has_blocks(self, weight: SparseWeight) -> bool:
        inputs = weight.parameter.shape[_axis(weight)]
        if weight.inputs_first:  # those of all groups, one after the other
            inputs //= weight.groups
        return not _is_taken(weight) and inputs % self.m == 0


def _is_taken(weight: SparseWeight) -> bool:
    """Whether something else decides which inputs a weight may have."""
    return weight.graph is not None or weight.usable is not None


def _axis(weight: SparseWeight) -> int:
    """The axis of a weight's inputs."""
    return 0 if weight.inputs_first else 1
