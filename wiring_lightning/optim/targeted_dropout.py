"""Targeted dropout: drop small weights at random while training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.functional import derived_seed, mask_largest
from wiring_lightning.functional.mask_connect import mask_best
from wiring_lightning.optim._counts import count_usable
from wiring_lightning.optim._masks import keep_masked
from wiring_lightning.optim._skipped import step_was_skipped
from wiring_lightning.optim.dnw import EdgeSet, StraightThrough


@dataclass(eq=False)
class DroppedEdgeSet(EdgeSet):
    """Weights of which all but the k largest can be dropped.

    The first five arguments are those of `EdgeSet`.

    Args:
        rho: probability that each of the other weights is dropped, from 0 to 1.
        per_row: keep the largest weights of every row (the weights of one output) instead of the
            largest of all. Every row keeps the same share of its weights, rounded, and at least
            one; `k` becomes the number of all of them. A parameter of one axis is one row.
        seed: seed of the draws.
        name: name of the set, which is part of the seed.

    Attributes:
        draw: number of the present draw, which is part of the seed.
        dropping: whether weights are dropped at random; otherwise all but the largest are zero.

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
        # For each parameter how many weights its rows keep, if that is fixed.
        self._counts = rows_kept(self.weights, self.usable, self.k) if self.per_row else []
        if self.per_row:
            self.k = int(sum(int(counts.sum()) for counts in self._counts))

    @override
    @torch.no_grad()
    def keep_largest(self, latent: Sequence[Tensor]) -> None:
        """Write the k largest and all that is not dropped into the parameters, zeros elsewhere."""
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
            kept = torch.rand(own.shape, device=device, generator=generator) >= self.rho
            if usable is not None:
                kept &= usable
            weight.copy_(torch.where(kept, own, weight))

    @torch.no_grad()
    def largest_of(self, latent: Sequence[Tensor]) -> list[Tensor]:
        """The weights of evaluation mode: the largest latent weights, and zeros elsewhere."""
        masks = self.masks(latent)
        return [torch.where(mask, own, 0) for mask, own in zip(masks, latent, strict=True)]

    def masks(self, values: Sequence[Tensor]) -> list[Tensor]:
        """For each of the values a mask of the largest, of every row or of all."""
        if self.per_row:
            parts = zip(values, self.usable, self._counts, strict=True)
            return [_largest_in_rows(value, mask, counts) for value, mask, counts in parts]
        return mask_largest(values, self.k, self.usable, self.least)


class WeightDropout(StraightThrough):
    """Drops small weights at random while training, and all of them otherwise (DNW, Table 2).

    After every step each latent weight that is not one of the k largest is dropped with
    probability rho, until the next step. Call `mask_gradients` before a step, so that dropped
    weights get no gradient; momentum and weight decay change all latent weights. `evaluate` keeps
    the k largest only, and `train` restores the last draw.

    Arguments and errors are those of `StraightThrough`.

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

    def evaluate(self) -> None:
        """Write only the largest weights into the parameters, until `train` is called.

        What others have written since the last step, such as a clamp, becomes part of them.
        """
        self._drop(False)

    def train(self) -> None:
        """Write the weights of the last draw into the parameters again."""
        self._drop(True)

    @property
    def evaluates(self) -> bool:
        """Whether the parameters hold the largest weights only."""
        return not any(edges.dropping for edges in self.dropped_sets)

    @override
    def freeze(self) -> None:
        """Fix the largest weights; from now on nothing is dropped at random."""
        if not self.frozen:
            self.evaluate()
            super().freeze()

    @override
    def settled(self, first: int, values: list[Tensor]) -> list[Tensor]:
        """As for `StraightThrough`; for the parameters themselves the weights of evaluation."""
        edges = self._set_at(first)
        assert isinstance(edges, DroppedEdgeSet)
        training = edges.dropping and not self.frozen
        if training and values[0].data_ptr() == edges.weights[0].data_ptr():
            return edges.largest_of(self._present_latent()[first : first + len(values)])
        if edges.per_row and not self.frozen:
            return keep_masked(values, edges.masks(values))
        return super().settled(first, values)

    @override
    def state_dict(self) -> dict[str, Any]:
        """As for `StraightThrough`, with the number of each set's draw."""
        return {**super().state_dict(), "draws": [edges.draw for edges in self.dropped_sets]}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state."""
        for edges, draw in zip(self.dropped_sets, state["draws"], strict=True):
            edges.draw = draw
        super().load_state_dict(state)

    def _drop(self, dropping: bool) -> None:
        """Go to the weights of training (with those that are not dropped), or of evaluation."""
        self._swap_out()  # does nothing unless the last step ended with an error
        changed = [edges for edges in self.dropped_sets if edges.dropping != dropping]
        if not changed:
            return
        if not dropping:
            self._take_writes()
        for edges in changed:
            edges.dropping = dropping
        if self._holds_latent():
            self._write_sparse()

    @torch.no_grad()
    def _holds_latent(self) -> bool:
        """Whether the parameters hold latent weights and zeros, not an average of many steps."""
        pairs = zip(self._weights, self.latent, strict=True)
        return all(torch.equal(w, torch.where(w == 0, w, latent)) for w, latent in pairs)

    @override
    def _after_step(self, *arguments: Any) -> None:
        if not step_was_skipped(self.optimizer):
            for edges in self.dropped_sets:
                edges.draw += 1
        super()._after_step(*arguments)


def rows_kept(weights: Sequence[Tensor], usable: Sequence[Tensor | None], k: int) -> list[Tensor]:
    """For each parameter how many weights every row keeps if all keep the same share.

    Args:
        weights: the parameters.
        usable: for each of them a mask of the entries that can be kept, or `None` for all.
        k: how many are kept, before the numbers of the rows are rounded.

    Example:
        >>> [counts.tolist() for counts in rows_kept([torch.ones(3, 8)], [None], 4)]
        [[1, 1, 1]]
    """
    share, counts = k / max(count_usable(weights, usable), 1), list[Tensor]()
    for weight, mask in zip(weights, usable, strict=True):
        rows = _rows(torch.ones_like(weight, dtype=torch.bool) if mask is None else mask).sum(1)
        counts.append((share * rows).round().clamp(min=1).to(rows.dtype).minimum(rows))
    return counts


def _rows(weight: Tensor) -> Tensor:
    """The weights of one output in each row; those of one axis are all in one."""
    return weight.flatten(1) if weight.dim() > 1 else weight.unsqueeze(0)


def _largest_in_rows(weight: Tensor, usable: Tensor | None, counts: Tensor) -> Tensor:
    """Mark so many usable entries of every row, those of largest magnitude."""
    rows = _rows(weight.detach().abs())
    if usable is not None:
        rows = rows.masked_fill(~_rows(usable), -1)
    return mask_best(rows, counts).view_as(weight)
