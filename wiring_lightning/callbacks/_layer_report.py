"""What a person sees of sparse layers while they train: numbers, and a table of the layers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from wiring_lightning.callbacks._edge_memory import EdgeMemory
from wiring_lightning.callbacks._example import CountedOnce
from wiring_lightning.callbacks._weight_choice import SparseGroup
from wiring_lightning.callbacks.layer_table import layer_text
from wiring_lightning.costs.layers import LayerCost, costs_of, find_matrices, sum_of
from wiring_lightning.optim import MaskedWeights, StraightThrough

_MOST = 20  # layers in a printed table

Edges = Mapping[nn.Parameter, Tensor]
# Every group with its rule, and the index of its first parameter in that rule.
RuledGroups = Iterable[tuple[StraightThrough | MaskedWeights, SparseGroup, int]]


class LayerReport:
    """The table and the numbers of one fit.

    Args:
        name: of the learner.

    Attributes:
        memory: the edges that were there at the last logging.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.memory = EdgeMemory()
        self._counted = CountedOnce(name)
        self._last: tuple[list[LayerCost], int] = ([], 0)  # what was logged last, of all groups

    def keep_example(self, batch: Any) -> None:
        """Keep an example of the first batch, if none is known."""
        if self._counted.wants_batch:
            self._counted.keep(batch)

    def count(self, trainer: Trainer, module: LightningModule) -> None:
        """Count multiply-adds, if that is possible by now. All ranks must call it."""
        self._counted.count(trainer, module)

    def rows(
        self, module: LightningModule, copies: Sequence[nn.Module], edges: Edges
    ) -> list[LayerCost]:
        """What each layer of a network keeps; of those that `edges` lacks, what is not zero."""
        weights = find_matrices(module, copies, edges)
        return costs_of(weights, edges, self._counted.counts)

    def show(self, rows: Sequence[LayerCost], when: str) -> None:
        """Print the table of the layers; of long networks without those in the middle."""
        rank_zero_info(f"{self.name}, layers {when}:\n{layer_text(rows, _MOST)}")

    def numbers(
        self, groups: Sequence[SparseGroup], edges: Edges, reports: Sequence["LayerReport"]
    ) -> dict[str, float]:
        """The numbers of each group, by their tags; looks at the edges once more.

        The last of several learners adds those of all layers: Lightning would average what several
        callbacks log under one tag.

        Args:
            groups: of this learner.
            edges: the masks of its edges.
            reports: of all learners that log, this one included, in the order in which they do.
        """
        new = self.memory.count_new(by_name(groups, edges))
        found: dict[str, float] = {}
        self._last = [], sum(new.values())
        for group in groups:
            rows = costs_of(group.members, edges, None)
            self._last[0].extend(rows)
            own = sum(new[member.name] for member in group.members)
            found |= _tagged(sum_of(rows), own, f"/{group.name}")
        if self is not reports[-1]:
            return found
        everything = [row for one in reports for row in one._last[0]]
        return {**found, **_tagged(sum_of(everything), sum(one._last[1] for one in reports), "")}


def edges_of(ruled_groups: RuledGroups) -> dict[nn.Parameter, Tensor]:
    """For the parameters of all groups masks of their edges."""
    masks: dict[int, Sequence[Tensor | None]] = {}
    found: dict[nn.Parameter, Tensor] = {}
    for rule, group, first in ruled_groups:
        own = masks.setdefault(id(rule), rule.masks)
        for member, mask in zip(group.members, own[first:], strict=False):
            if mask is None:  # all that can be an edge
                mask = torch.ones_like(member.parameter, dtype=torch.bool)
                mask = mask if member.usable is None else member.usable
            found[member.parameter] = mask
    return found


def by_name(groups: Sequence[SparseGroup], edges: Edges) -> dict[str, Tensor]:
    """The masks of some groups by the names of their parameters."""
    return {member.name: edges[member.parameter] for group in groups for member in group.members}


def _tagged(row: LayerCost, new: int, name: str) -> dict[str, float]:
    """The numbers of a group, or of all, by their tags; `new` counts its new edges."""
    values = {
        "density": row.density,
        "changed": new / max(row.kept, 1),
        "dead_rows": row.dead_rows,
        "dead_columns": row.dead_columns,
    }
    return {f"learner/{kind}{name}": float(v) for kind, v in values.items() if v is not None}
