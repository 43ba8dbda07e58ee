"""Copies of a network that are no averages, such as teachers and snapshots, stay as they are."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from tests.callbacks.averaged import Inside, fit, values_of
from tests.callbacks.reader import Gated
from tests.callbacks.test_averages import LEARNERS, Beside, K
from wiring_lightning.callbacks import (
    DNW,
    GradualPruning,
    MaskConnect,
    NMSparsity,
    PruneAndRetrain,
    RigL,
)

KEPT: dict[str, Callable[[], Callback]] = {
    **LEARNERS,
    "RigL": lambda: RigL(density=0.25, delta_t=2),
    "NMSparsity": lambda: NMSparsity(1, 4),
}


class Distilled(Inside):
    """Its teacher starts as a copy of the dense student; it also counts what it has stored."""

    def __init__(self) -> None:
        super().__init__()
        self.ema = deepcopy(self.net).requires_grad_(False)
        self.first_values = values_of(self.ema)
        self.changed: list[str] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """A teacher does not change."""

    def validation_step(self, batch: Any, _: int) -> None:
        for found in (values_of(self.ema), self.ema.state_dict()):
            self.changed += differing(found, self.first_values)


def differing(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    return [name for name in expected if not torch.equal(found[name], expected[name])]


@pytest.mark.parametrize("learner", KEPT)
def test_a_teacher_that_starts_as_the_student_stays_as_it_is(learner: str, tmp_path: Path) -> None:
    module, saver = Distilled(), ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    fit(KEPT[learner](), saver, module=module, enable_checkpointing=True)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    saved = {name.removeprefix("ema."): value for name, value in saved.items() if "ema." in name}
    assert differing(saved, module.first_values) == module.changed == []
    assert differing(values_of(module.ema), module.first_values) == []


class Best(Callback):
    """Keeps the network of the first epoch in a copy that it has from the start."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.best = deepcopy(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            self.best.load_state_dict(pl_module.state_dict())
            self.expected = deepcopy(self.best.state_dict())


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("learner", [*KEPT, "GradualPruning", "MaskConnect"])
def test_a_snapshot_stays_as_it_is(learner: str, first: bool) -> None:
    """Also one of a moment when the network was still denser."""
    best = Best()
    own: dict[str, Callable[[], Callback]] = {
        **KEPT,
        "GradualPruning": lambda: GradualPruning(density=0.25, every=2),
        "MaskConnect": lambda: MaskConnect(lr=0.5),
    }
    both = [best, own[learner]()] if first else [own[learner](), best]
    fit(*both, module=Gated() if learner == "MaskConnect" else None)
    assert differing(best.best.state_dict(), best.expected) == []


def test_an_average_that_a_callback_keeps_of_gates_gets_the_learned_wiring() -> None:
    beside = Beside()
    module = fit(MaskConnect(lr=0.5), beside, module=Gated())
    copied = beside.ema.module
    assert not torch.equal(module.gate.scores[0], module.gate.scores[1])  # they did learn
    for name in ("scores", "active", "frozen"):
        assert torch.equal(getattr(copied.gate, name), getattr(module.gate, name))
    assert not torch.equal(copied.head.weight, module.head.weight)


def test_which_copies_are_averages_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit(DNW(density=0.25), Beside(), Best(), module=Inside())
        fit(DNW(density=0.25), module=Distilled())
    said = [line for line in caplog.messages if "is an average" in line]
    assert [line.split(" is an")[0] for line in said] == [
        "DNW: Beside.ema.module",
        "DNW: ema.module",
    ]


class Extra(torch.nn.Linear):
    """Has a state that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"number": 7}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"number": 7}


@pytest.mark.parametrize("learner", ["DNW", "L1Anneal", "rewind"])
def test_modules_may_have_a_state_that_is_no_tensor(learner: str) -> None:
    module = Distilled()
    module.net.head, module.ema.head = Extra(16, 10), Extra(16, 10).requires_grad_(False)
    module.ema.load_state_dict(module.net.state_dict())
    module.first_values = values_of(module.ema)
    rewind = PruneAndRetrain(1, rewind=True, density=0.25)
    fit(rewind if learner == "rewind" else LEARNERS[learner](), module=module)
    assert int(module.net.head.weight.count_nonzero()) == K["head.weight"]
    assert differing(values_of(module.ema), module.first_values) == []
