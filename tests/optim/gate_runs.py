"""Runs of gates that a change of their scores or draws would change, and what resumes them."""

import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wiring_lightning.nn import Gate
from wiring_lightning.optim import GateSGD


def run(gates: list[Gate], optimizer: GateSGD, steps: int) -> list[Tensor]:
    """Steps whose gradients depend on what was drawn; returns every wiring and score."""
    seen = []
    for _ in range(steps):
        for gate in gates:
            gate.scores.grad = 0.3 * torch.sin(7 * gate.active + 40 * gate.scores).detach()
        optimizer.step()
        seen += [tensor.detach().clone() for gate in gates for tensor in (gate.active, gate.scores)]
    return seen


def uninterrupted_and_resumed(
    make: Callable[[], list[Gate]], options: dict[str, Any], first: int, then: int
) -> tuple[list[Tensor], list[Tensor]]:
    """The last `then` steps after `first` others, and the same in new objects from saved states."""
    gates = make()
    optimizer = GateSGD(gates, **options)
    run(gates, optimizer, first)
    saved = [through_a_file(gate.state_dict()) for gate in gates]
    saved_optimizer = through_a_file(optimizer.state_dict())
    expected = run(gates, optimizer, then)

    torch.manual_seed(123)
    others = make()
    resumed = GateSGD(others, lr=0.4, seed=99)
    for gate, state in zip(others, saved, strict=True):
        gate.load_state_dict(state)
    resumed.load_state_dict(saved_optimizer)
    return expected, run(others, resumed, then)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """A state that was saved and loaded."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)
