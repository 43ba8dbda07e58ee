"""Training of every method on the simulated device, and how often the host may wait for it."""

from collections import Counter
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import sklearn.datasets  # noqa: F401  # of the digits: imported here once, and not in every fork
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor

from tests.methods import Method, digits
from tests.simulated_device import RECORD, is_simulated, on_cpu

STEPS = 4  # of an epoch
RECORDED = range(2, 4)  # the batches of an epoch in which waits and kernels are counted

# Waits of the host in a step, by file. A search reads its logits to choose the modules to run.
SEARCHES = {"nn/bernoulli_gate.py": 1}
LEARNING = {"resnet-fabric": SEARCHES, "conv-fabric": SEARCHES}
FROZEN: dict[str, dict[str, int]] = {}
# Its solver chooses each step by the error of the last one.
VARYING = {"continuous-graph": "nn/graph_dynamics.py"}


@dataclass
class Step:
    """What the recorded steps of an epoch asked of the device, for one step."""

    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    kernels: int = 0

    def waits_by_file(self) -> dict[str, float]:
        by_file: Counter[str] = Counter()
        for (_, line), count in self.waits.items():
            by_file[line.split(":")[0]] += count
        return {file: count / len(RECORDED) for file, count in by_file.items()}


class ChannelsLast(Callback):
    """Puts the network and its images into this memory format."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.to(memory_format=torch.channels_last)
        pl_module.backbone.register_forward_pre_hook(
            lambda _, args: (args[0].contiguous(memory_format=torch.channels_last),)
        )


class Watch(Callback):
    """Keeps the losses, and records some steps of each epoch."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.epochs: list[Step] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == RECORDED.start:
            self.recording = RECORD.recording()
            self.recording.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"].detach()
        self.losses.append(on_cpu(loss) if is_simulated(loss) else loss)
        if batch_idx + 1 == RECORDED.stop:
            self.recording.__exit__(None, None, None)
            kernels = sum(RECORD.kernels.values()) // len(RECORDED)
            self.epochs.append(Step(RECORD.waits, kernels))


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
    trainer.fit(task, digits(), ckpt_path=resume)
    return task, watch
