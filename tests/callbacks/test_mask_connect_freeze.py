"""MaskConnect and wirings that are frozen."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW

from tests.callbacks.foreign_module import (
    STEPS,
    Foreign,
    SelfMade,
    Snapshots,
    copy_of,
    differs,
    fit,
    gates_of,
)
from wiring_lightning.callbacks import MaskConnect


def test_the_wiring_is_fixed_from_the_freeze_epoch_on() -> None:
    module, snapshots, learner = Foreign(), Snapshots(), MaskConnect(lr=0.7, freeze_epoch=1)
    fit(module, learner, snapshots, max_epochs=3)
    wired = [name for name in snapshots.states[0] if "gate." in name or "last." in name]
    before, after = snapshots.states[STEPS - 1], snapshots.states[STEPS:]
    assert not before["net.gate.frozen"]
    for name in ("net.gate.scores", "net.last.scores"):
        assert torch.equal(after[0][name], before[name])
    for state in after:
        assert not {name for name in differs(state, after[0]) if name in wired}
    for gate in gates_of(module):
        best = gate.scores.topk(gate.fan_in).indices.sort().values
        drawn = [row.nonzero().flatten().tolist() for row in gate.active]
        assert drawn == best.tolist()
        assert gate.frozen
        assert not gate.scores.requires_grad
        assert gate.scores.grad is None
    assert "net.second.weight" in differs(after[0], after[-1])
    assert learner.optimizer.group["steps"] == STEPS


def test_a_freeze_at_epoch_zero_learns_nothing() -> None:
    module, learner = Foreign(), MaskConnect(freeze_epoch=0)
    scores = [gate.scores.detach().clone() for gate in gates_of(module)]
    fit(module, learner)
    for gate, old in zip(gates_of(module), scores, strict=True):
        assert gate.frozen
        assert torch.equal(gate.scores, old)


@pytest.mark.parametrize("callbacks", [(), (MaskConnect,)], ids=["alone", "with the callback"])
def test_a_frozen_wiring_is_fine_tuned_as_it_is(callbacks: tuple[Any, ...], tmp_path: Path) -> None:
    trained = Foreign()
    fit(trained, MaskConnect(lr=0.7, freeze_epoch=0))
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    module = SelfMade(AdamW, weight_decay=0.5)
    module.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    learners = [make(lr=0.9) for make in callbacks]
    fit(module, *learners)
    changed = differs(trained.state_dict(), copy_of(module))
    assert changed == {name for name, _ in module.named_parameters() if "scores" not in name}
    assert all(learner.optimizer.group["steps"] == 0 for learner in learners)
