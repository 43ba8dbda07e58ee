"""Small helpers around Lightning's Trainer that several tests share."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from wiring_lightning.callbacks import PhaseSchedule
from wiring_lightning.nn import Adjacency, find_bernoulli_gates, find_gates


def quiet_trainer(**kwargs: Any) -> Trainer:
    # Phases say themselves how long a fit is; a number of epochs would change their lengths.
    phases = any(isinstance(one, PhaseSchedule) for one in kwargs.get("callbacks", []))
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
        "max_epochs": -1 if phases else 1,
    }
    return Trainer(**{**defaults, **kwargs})


def learned_parameters(module: nn.Module) -> list[Tensor]:
    """What decides about the wiring: scores of gates, logits of drawn edges; otherwise weights."""
    scores = [gate.scores for gate in find_gates(module).values()]
    scores += [gate.logits for gate in find_bernoulli_gates(module).values()]
    return scores or _matrices(module)


def active_edges(module: nn.Module) -> list[Tensor]:
    """The wiring of a batch; where every example draws its own, the most probable one."""
    active = [gate.active for gate in find_gates(module).values()]
    active += [gate.best for gate in find_bernoulli_gates(module).values()]
    return active or [weight != 0 for weight in _matrices(module)]


def _matrices(module: nn.Module) -> list[Tensor]:
    """The weights that connect channels."""
    return [
        layer.weight
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear | Adjacency)
    ]


class Recorder(Callback):
    """Keeps what decides about the wiring, and the wiring, after every batch."""

    def __init__(self) -> None:
        self.scores: list[Tensor] = []
        self.active: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        learned, active = learned_parameters(pl_module), active_edges(pl_module)
        self.scores.append(torch.cat([one.detach().flatten().clone() for one in learned]))
        self.active.append(torch.cat([one.flatten().clone() for one in active]))


def same_state(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Bit for bit the same tensors under the same names."""
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())
