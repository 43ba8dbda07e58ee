"""Comparing the batches of loaders, on one process and on several."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

Batches = Iterable[Iterable[Tensor]]


def fake_trainer(rank: int, world_size: int, epoch: int) -> Any:
    """What a data module asks of the trainer of one process among several."""
    return SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        num_devices=world_size,
        current_epoch=epoch,
        state=SimpleNamespace(fn=None),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )


def assert_same_batches(left: Batches, right: Batches) -> None:
    for one, other in zip(left, right, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def interleaved(*ranks: Batches) -> list[list[Tensor]]:
    """The batches that the processes see together: sample j of rank r comes at j * R + r."""
    return [
        [torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*batches, strict=True)]
        for batches in zip(*ranks, strict=True)
    ]
