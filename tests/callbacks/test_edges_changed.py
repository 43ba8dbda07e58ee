"""Edges swapped per epoch, in a network that lists only the edges that it has."""

from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger

from tests.methods import digits
from tests.trainers import quiet_trainer
from wiring_lightning.backbones import NeuralGraph
from wiring_lightning.callbacks import DNW, WiringMonitor
from wiring_lightning.tasks import ClassificationTask


def test_edges_are_compared_by_their_ends(tmp_path: Any) -> None:
    torch.manual_seed(0)
    sizes = {"nodes": 60, "inputs": 8, "outputs": 10, "edges": 200}
    network = NeuralGraph(in_channels=1, strides=(1, 1), image_size=8, **sizes)
    before: list[torch.Tensor] = [network.adjacency.weight.detach() != 0]
    logged: list[float] = []

    class Reader(WiringMonitor):
        def _log(self, trainer: Any, pl_module: Any, epoch: int) -> None:
            super()._log(trainer, pl_module, epoch)
            logged.append(self._numbers["wiring/edges_changed"])
            before.append(network.adjacency.weight.detach() != 0)

    trainer = quiet_trainer(
        callbacks=[DNW(), Reader(pictures=False)],
        max_epochs=3,
        limit_train_batches=8,
        logger=CSVLogger(tmp_path),
    )
    trainer.fit(ClassificationTask(network), digits())
    swapped = [int((now & ~old).sum()) for old, now in pairwise(before)]
    assert min(swapped) > 0
    # Nodes that lose all that they hear get an edge from the stem, which also counts.
    for number, own in zip(logged, swapped, strict=True):
        assert own <= number <= own + 60
