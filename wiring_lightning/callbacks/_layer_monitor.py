"""What `WiringMonitor` tells of a plain network whose layers a callback makes sparse."""

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from wiring_lightning.callbacks._edge_memory import EdgeMemory
from wiring_lightning.callbacks.sparse_layers import find_sparse_learners
from wiring_lightning.callbacks.wiring_numbers import short_names
from wiring_lightning.costs import LayerCost
from wiring_lightning.costs.layers import costs_of, find_matrices, sum_of
from wiring_lightning.nn.weights import SparseWeight


class LayerMonitor:
    """Looks at the layers of the sparse learners of a trainer, and remembers their edges."""

    def __init__(self) -> None:
        self.memory = EdgeMemory()

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Look for the first time, when the learners have chosen their layers."""
        self.memory.start(self._edges(trainer, module)[1])

    def rows(self, trainer: Trainer, module: LightningModule, saved: bool) -> list[LayerCost]:
        """All layers; see `SparseLayers.layer_costs`."""
        return find_sparse_learners(trainer)[-1].layer_costs(trainer, module, saved)

    def numbers(
        self, trainer: Trainer, module: LightningModule, rows: list[LayerCost]
    ) -> dict[str, float]:
        """The numbers of the network and of its sparse layers; looks at their edges once more.

        Args:
            trainer: the trainer of the fit.
            module: the module that it trains.
            rows: all of its layers.
        """
        weights, edges = self._edges(trainer, module)
        new = self.memory.count_new(edges)
        masks = {weight.parameter: edges[weight.name] for weight in weights}
        sparse = costs_of(weights, masks, None)
        total, everything = sum_of(sparse), sum_of(rows)
        copies = find_sparse_learners(trainer)[-1].copied  # no part of the network
        copied = {id(parameter) for copy in copies for parameter in copy.parameters()}
        parameters = sum(p.numel() for p in module.parameters() if id(p) not in copied)
        numbers = {
            "parameters_live": parameters - total.weights + total.kept,
            "active_edges": total.kept,
            **_numbers_of(total, sum(new.values())),
        }
        if everything.kept_multiply_adds is not None:
            numbers["multiply_adds_live"] = everything.kept_multiply_adds
        short = short_names([row.name for row in sparse])
        for row, weight in zip(sparse, weights, strict=True):
            own = _numbers_of(row, new[weight.name])
            numbers |= {f"{short[row.name]}/{kind}": value for kind, value in own.items()}
        return numbers

    def _edges(
        self, trainer: Trainer, module: LightningModule
    ) -> tuple[list[SparseWeight], dict[str, Tensor]]:
        """The sparse weights, and the masks of their edges by name."""
        masks = {
            parameter: mask
            for learner in find_sparse_learners(trainer)
            for parameter, mask in learner.present_edges().items()
        }
        found = [w for w in find_matrices(module, also=masks) if w.parameter in masks]
        return found, {weight.name: masks[weight.parameter] for weight in found}


def _numbers_of(row: LayerCost, new: int) -> dict[str, float]:
    """The numbers of a layer, or of all, by their last names; `new` counts its new edges."""
    values = {
        "density": row.density,
        "edges_changed": new,
        "dead_rows": row.dead_rows,
        "dead_columns": row.dead_columns,
    }
    return {kind: value for kind, value in values.items() if value is not None}
