"""Copies of a network that are no averages, such as teachers and snapshots, stay as they are."""

from collections.abc import Callable
from copy import deepcopy
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from tests.callbacks.averaged import ExponentialCopy, Inside, fit, values_of
from tests.callbacks.reader import Gated, Reader
from tests.callbacks.test_averages import LEARNERS, Beside, K
from tests.methods import METHODS, digits
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import (
    DNW,
    BudgetedSearch,
    GradualPruning,
    MaskConnect,
    NMSparsity,
    PruneAndRetrain,
    RigL,
)
from wiring_lightning.callbacks._copies import tensors_of
from wiring_lightning.nn.bernoulli_gate import find_bernoulli_gates

FABRIC = next(method for method in METHODS if method.name == "resnet-fabric")
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


@pytest.mark.parametrize(
    ("learner", "first"),
    zip([*KEPT, "GradualPruning", "MaskConnect"], cycle((True, False)), strict=False),
)
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


class Target(Distilled):
    """Overwrites its copy in the middle of some training steps, as Q-learning does."""

    def __init__(self, net: Reader) -> None:
        super().__init__()
        self.net, self.ema = net, deepcopy(net).requires_grad_(False)
        self.first_values = {}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_step % 4 == 2:
            self.ema.load_state_dict(self.net.state_dict())
            self.expected = deepcopy(self.ema).state_dict()  # no hook of the learner sees this
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("net", "learner"), [(Gated, MaskConnect(lr=0.5)), (Reader, DNW(density=0.25))]
)
def test_a_copy_that_a_step_overwrites_stays_as_it_is(net: type[Reader], learner: Callback) -> None:
    module = Target(net())
    fit(learner, module=module)
    assert differing(dict(module.ema.state_dict()), module.expected) == []


class Data(Best):
    """Writes so that PyTorch does not know of it."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            values = self.best.state_dict().values()
            for value, new in zip(values, pl_module.state_dict().values(), strict=True):
                value.data.copy_(new)
            self.expected = deepcopy(self.best).state_dict()


@pytest.mark.parametrize("first", [True, False])
def test_a_snapshot_that_is_written_without_a_trace_stays_as_it_is(first: bool) -> None:
    best = Data()
    both = [best, MaskConnect(lr=0.5)] if first else [MaskConnect(lr=0.5), best]
    fit(*both, module=Gated())
    assert differing(best.best.state_dict(), best.expected) == []


class Begins(Beside):
    """Begins its average again in the second epoch, or only then."""

    def __init__(self, again: bool) -> None:
        self.again = again

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.again:
            super().on_fit_start(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == 7:
            self.ema = ExponentialCopy(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.again or trainer.global_step > 7:
            super().on_train_batch_end(trainer, pl_module)


@pytest.mark.parametrize("validates", [0, 1])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("again", [True, False])
def test_an_average_that_begins_during_the_fit_gets_the_wiring(
    again: bool, first: bool, validates: int
) -> None:
    begins, sparse = Begins(again), DNW(density=0.25, exclude=["head"])
    both: list[Callback] = [begins, sparse] if first else [sparse, begins]
    module = fit(*both, MaskConnect(lr=0.5), module=Gated(), limit_val_batches=validates)
    copied = begins.ema.module
    assert int(copied.body[1].weight.count_nonzero()) == K["body.1.weight"]
    assert torch.equal(copied.gate.scores, module.gate.scores)


@pytest.mark.parametrize("freeze", [None, 1])
def test_an_average_that_a_callback_keeps_of_gates_gets_the_learned_wiring(
    freeze: int | None,
) -> None:
    beside = Beside()
    module = fit(MaskConnect(lr=0.5, freeze_epoch=freeze), beside, module=Gated())
    copied = beside.ema.module
    assert copied.gate.learnable == module.gate.learnable == (freeze is None)
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


def test_an_average_of_a_search_is_frozen_with_it() -> None:
    beside, task = Beside(), FABRIC.task()
    search = BudgetedSearch(budget=1e5, freeze_epoch=1)
    quiet_trainer(callbacks=[beside, search], max_epochs=2, limit_train_batches=2).fit(
        task, digits()
    )
    own, copied = (find_bernoulli_gates(each).popitem()[1] for each in (task, beside.ema.module))
    assert not copied.learnable
    assert torch.equal(copied.train().draw(5), own.train().draw(5))


def test_the_tensors_of_a_module_are_those_of_its_state_dict() -> None:
    module = torch.nn.Sequential(Extra(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
    module[2].weight = module[0].weight
    module[2].register_buffer("kept", torch.zeros(1))
    module[2].register_buffer("lost", torch.zeros(1), persistent=False)
    state = {name: value for name, value in module.state_dict().items() if name != "0._extra_state"}
    found = tensors_of(module)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


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
