"""Sparse weights that come from dropping the smaller ones at random while the network trains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.functional import derived_seed, mask_largest
from wiring_lightning.optim._skipped import step_was_skipped
from wiring_lightning.optim.dnw import EdgeSet, StraightThrough
from wiring_lightning.optim.masked_weights import count_usable, mask_gradients


@dataclass(eq=False)
class DroppedEdgeSet(EdgeSet):
    """Weights of which all but the k largest are candidates that a draw drops.

    Args:
        weights: one or more parameters.
        k: how many weights are never dropped.
        usable: as for `EdgeSet`.
        absent: as for `EdgeSet`.
        rho: probability that a candidate is dropped, from 0 to 1.
        per_row: keep the largest in every row (what feeds one output) instead of the largest of
            all; a row keeps the same share as the whole, rounded.
        seed: seed of the draws.
        name: of the set; sets with other names are drawn otherwise.

    Attributes:
        draw: number of the present draw, which follows from it, the seed and the name.
        dropping: whether candidates are dropped at random, or all of them.

    Raises:
        ValueError: if `rho` is out of range, or as for `EdgeSet`.
    """

    rho: float = 0.95
    per_row: bool = False
    seed: int = 0
    name: str = ""
    draw: int = field(default=0, init=False)
    dropping: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho must be between 0 and 1, got {self.rho}.")

    @override
    @torch.no_grad()
    def keep_largest(self, latent: Sequence[Tensor]) -> None:
        """Write the k largest and what is not dropped into the parameters, and zeros elsewhere."""
        if self.per_row:
            for weight, largest in zip(self.weights, self.largest_of(latent), strict=True):
                weight.copy_(largest)
        else:
            super().keep_largest(latent)
        if not self.dropping:
            return
        device = self.weights[0].device
        seed = derived_seed(self.seed, self.draw, *self.name.encode())
        generator = torch.Generator(device).manual_seed(seed)
        for weight, own, usable in zip(self.weights, latent, self.usable, strict=True):
            spared = torch.rand(own.shape, device=device, generator=generator) >= self.rho
            if usable is not None:
                spared &= usable
            weight.copy_(torch.where(spared, own, weight))

    @torch.no_grad()
    def largest_of(self, latent: Sequence[Tensor]) -> list[Tensor]:
        """For each parameter what evaluation uses: the largest latent weights, zeros elsewhere."""
        if self.per_row:
            share = self.k / count_usable(self.weights, self.usable)
            return [
                weight * _largest_in_rows(weight, mask, share)
                for weight, mask in zip(latent, self.usable, strict=True)
            ]
        masks = mask_largest(latent, self.k, self.usable)
        return [torch.where(mask, own, 0) for mask, own in zip(masks, latent, strict=True)]


class WeightDropout(StraightThrough):
    """Drops small weights at random while training, and all of them otherwise (DNW, Table 2).

    After every step the k largest of the latent weights stay, and each other one stays with
    probability 1 - rho, until the next step. Call `mask_gradients` before a step, so that what was
    dropped has no gradient; all latent weights see momentum and weight decay. `evaluate` leaves the
    k largest only, and `train` goes back.

    Args:
        optimizer: the optimizer that holds the parameters.
        edge_sets: what is sparse, how much of it, and how it is dropped.

    Raises:
        ValueError: if a parameter is not in the optimizer, or is in two sets.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([0.5, -0.4, 0.1]))
        >>> sgd = torch.optim.SGD([weight], lr=1.0)
        >>> rule = WeightDropout(sgd, [DroppedEdgeSet([weight], k=1, rho=0.0)])
        >>> [round(value, 6) for value in weight.tolist()]
        [0.5, -0.4, 0.1]
        >>> rule.evaluate()
        >>> weight.tolist()
        [0.5, 0.0, 0.0]
    """

    def __init__(self, optimizer: Optimizer, edge_sets: Sequence[DroppedEdgeSet]) -> None:
        self.dropped_sets = list(edge_sets)
        super().__init__(optimizer, edge_sets)

    def mask_gradients(self) -> None:
        """Take away the gradient of what was dropped; call it before every step."""
        mask_gradients(self._weights, self.masks)

    def evaluate(self) -> None:
        """Let the parameters hold the largest weights only, until `train`."""
        self._drop(False)

    def train(self) -> None:
        """Let the parameters hold again what was drawn last."""
        self._drop(True)

    @property
    def evaluates(self) -> bool:
        """Whether the parameters hold the largest weights only."""
        return not any(edges.dropping for edges in self.dropped_sets)

    @override
    def freeze(self) -> None:
        """Keep the largest weights for good; nothing is dropped from now on."""
        if not self.frozen:
            self.evaluate()
            super().freeze()

    @override
    def settled(self, first: int, values: list[Tensor]) -> list[Tensor]:
        """As for `StraightThrough`; of its own parameters what evaluation uses."""
        number = 0
        for edges in self.dropped_sets:
            own = values[0].data_ptr() == edges.weights[0].data_ptr()
            if number == first and own and not self.frozen:
                return edges.largest_of(self.latent[first : first + len(values)])
            number += len(edges.weights)
        return super().settled(first, values)

    @override
    def state_dict(self) -> dict[str, Any]:
        """As for `StraightThrough`, and the numbers of the draws."""
        return {**super().state_dict(), "draws": [edges.draw for edges in self.dropped_sets]}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Raises:
            ValueError: if the state belongs to other weights.
        """
        for edges, draw in zip(self.dropped_sets, state["draws"], strict=True):
            edges.draw = draw
        super().load_state_dict(state)

    def _drop(self, dropping: bool) -> None:
        changed = [edges for edges in self.dropped_sets if edges.dropping != dropping]
        for edges in changed:
            edges.dropping = dropping
        if changed:
            self._write_sparse()

    @override
    def _after_step(self, *arguments: Any) -> None:
        if not step_was_skipped(self.optimizer):
            for edges in self.dropped_sets:
                edges.draw += 1
        super()._after_step(*arguments)


def _largest_in_rows(weight: Tensor, usable: Tensor | None, share: float) -> Tensor:
    """Mark a share of the usable entries of every row, those of largest magnitude."""
    rows = weight.detach().abs().flatten(1)
    mask = torch.ones_like(rows, dtype=torch.bool) if usable is None else usable.flatten(1)
    order = rows.masked_fill(~mask, -1).sort(dim=1, descending=True, stable=True).indices
    count = (share * mask.sum(1, keepdim=True)).round()
    first = torch.arange(rows.shape[1], device=rows.device) < count
    return torch.zeros_like(mask).scatter(1, order, first).view_as(weight)
