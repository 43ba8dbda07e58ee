"""Small helpers around Lightning's Trainer that several tests share."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from wiring_lightning.nn import find_gates


def quiet_trainer(**kwargs: Any) -> Trainer:
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "deterministic": True,
        "max_epochs": 1,
    }
    return Trainer(**{**defaults, **kwargs})


class Recorder(Callback):
    """Keeps scores and drawn wirings after every batch."""

    def __init__(self) -> None:
        self.scores: list[Tensor] = []
        self.active: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        gates = list(find_gates(pl_module).values())
        if gates:
            self.scores.append(torch.cat([g.scores.detach().flatten().clone() for g in gates]))
            self.active.append(torch.cat([g.active.flatten().clone() for g in gates]))


def same_state(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Bit for bit the same tensors under the same names."""
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())
