"""What CUDA graphs need, of `mode="reduce-overhead"`: all stays on one device and at its address.

`test_compiles` checks the graphs themselves. None of these tests needs a GPU: the network is traced
as if it were on one.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch._subclasses import FakeTensorMode

from tests.graphs import check_graphs, traced_graphs
from tests.methods import LEARNERS, METHODS, SCORED, Method, digits, over
from tests.shallow import shallow
from tests.trainers import quiet_trainer
from wiring_lightning.backbones import SparseResNet

# Fixed wirings as that of resnext-random, real-valued ones as that of resnet-weighted, and plain
# layers only.
_LIKE_OTHERS = ("resnext-full", "resnet-random", "resnext-real", "resnet-previous", "mobilenet")


def _networks() -> list[Method]:
    """Each network once, whatever learns its wiring, with few layers.

    A trace goes through all blocks of a kind in the same way, so one of each is enough here.
    """
    rows = {(row.backbone, str(row.arguments)): shallow(row) for row in reversed(METHODS)}
    return [
        replace(row, arguments=row.arguments | {"depth": 11})
        if row.backbone is SparseResNet
        else row
        for row in rows.values()
        if row.name not in _LIKE_OTHERS
    ]


class Addresses(Callback):
    """The addresses of all parameters and buffers, when a batch starts."""

    def __init__(self) -> None:
        self.seen: list[dict[str, int]] = []

    def on_train_batch_start(self, _trainer: Any, task: Any, *_: Any) -> None:
        named = [*task.backbone.named_parameters(), *task.backbone.named_buffers()]
        self.seen.append({name: tensor.data_ptr() for name, tensor in named})


@over(LEARNERS, "network")
def test_weights_and_wirings_stay_where_they_are(method: Method) -> None:
    task, addresses = method.task(), Addresses()
    # Those that can be frozen by this argument are, before the last epoch.
    freeze = {"freeze_epoch": method.epochs} if method in SCORED else {}
    learners = [make(**arguments, **freeze) for make, arguments in method.callbacks]
    trainer = quiet_trainer(
        callbacks=[*learners, addresses],
        max_epochs=method.epochs + 1,
        limit_train_batches=2,
    )
    trainer.fit(task, digits(16))
    first, *later = addresses.seen
    assert len(later) == 2 * (method.epochs + 1) - 1
    for seen in later:
        assert seen == first


@pytest.mark.slow
@over(_networks(), "compile")
def test_on_a_gpu_all_would_be_there(method: Method) -> None:
    """Only the forward pass: autograd asks for the GPU itself."""
    backbone = method.task().backbone
    pretended = FakeTensorMode()
    for module in backbone.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    with pretended:
                        there = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                    if isinstance(tensor, nn.Parameter):
                        there = nn.Parameter(there, tensor.requires_grad)
                    tensors[name] = there
    graphs = traced_graphs(backbone)
    with pretended, torch.no_grad():
        backbone(torch.empty(8, 1, 8, 8, device="cuda"))
    assert len(graphs) == 1
    check_graphs(graphs, "cuda")
