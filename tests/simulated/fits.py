"""Training of every method on the simulated device, and how often the host may wait for it."""

from collections import Counter
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

# Of the digits and of pictures: imported here once, and not in every fork.
import sklearn.datasets  # noqa: F401
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor

from tests.methods import METHODS, SCORED, Method, digits
from tests.simulated_device import RECORD, is_simulated, on_cpu
from wiring_lightning import plots  # noqa: F401

STEPS = 2  # of an epoch: what a rule does in every second step is in each

# Waits of the host in an epoch, by file. In the first step the task reads its loss, a learner of
# scores copies to the device what it knows of the gates, and SNIP asks whether all gradients are
# finite.
_FIRST = {"tasks/_supervised.py": 1}
_GATES = {"optim/_gate_rows.py": 3} | _FIRST
# A search reads its logits in each step to choose the modules to run.
_SEARCHES = {"nn/bernoulli_gate.py": STEPS} | _FIRST
LEARNING = {
    **{method.name: _FIRST for method in METHODS},
    **{method.name: _GATES for method in SCORED},
    "resnet-fabric": _SEARCHES,
    "conv-fabric": _SEARCHES,
    "snip": {"optim/scheduled_masks.py": 1} | _FIRST,
}
FROZEN: dict[str, dict[str, int]] = {}
# Its solver chooses each step by the error of the last one.
VARYING = {"continuous-graph": "nn/graph_dynamics.py"}


@dataclass
class Epoch:
    """What the steps of an epoch asked of the device: all waits, and the kernels of one step."""

    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    kernels: int = 0

    def waits_by_file(self) -> dict[str, int]:
        by_file: Counter[str] = Counter()
        for (_, line), count in self.waits.items():
            by_file[line.split(":")[0]] += count
        return dict(by_file)


class ChannelsLast(Callback):
    """Puts the network and its images into this memory format."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.to(memory_format=torch.channels_last)
        pl_module.backbone.register_forward_pre_hook(
            lambda _, args: (args[0].contiguous(memory_format=torch.channels_last),)
        )


class Watch(Callback):
    """Keeps the losses, and records the steps of each epoch."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.epochs: list[Epoch] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self.recording = RECORD.recording()
            self.recording.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"].detach()
        self.losses.append(on_cpu(loss) if is_simulated(loss) else loss)
        if batch_idx + 1 == STEPS:
            self.recording.__exit__(None, None, None)
            self.epochs.append(Epoch(RECORD.waits, sum(RECORD.kernels.values()) // STEPS))


def fit(method: Method, make: Any, **kwargs: Any) -> tuple[LightningModule, Watch]:
    """Train for two short epochs; what can be frozen is frozen in the second."""
    seed_everything(0)
    watch, callbacks = Watch(), method.new_callbacks()
    for callback in callbacks:
        if "freeze_epoch" in signature(type(callback)).parameters:
            callback.freeze_epoch = 1
    more = kwargs.pop("callbacks", [])
    resume = kwargs.pop("ckpt_path", None)
    task = method.task()
    settings = {"max_epochs": 2, "limit_train_batches": STEPS, "limit_val_batches": 1} | kwargs
    trainer = make(callbacks=[*callbacks, watch, *more], **settings)
    trainer.fit(task, digits(batch_size=16), ckpt_path=resume)
    return task, watch
