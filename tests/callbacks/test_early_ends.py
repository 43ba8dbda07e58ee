"""Fits that end before a learner is done say so, and so do settings that cannot come true."""

import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from tests.callbacks.reader import Gated, Reader, batches, edges
from tests.methods import METHODS, digits
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import (
    ACDC,
    DNW,
    BudgetedSearch,
    GradualPruning,
    L1Anneal,
    MaskConnect,
    NMSparsity,
    Phase,
    PhaseSchedule,
    PruneAndRetrain,
    RandomEdges,
    RigL,
    TargetedDropout,
    WiringError,
)
from wiring_lightning.nn import Gate

FABRIC = next(method for method in METHODS if method.name == "resnet-fabric")


class Rising(Reader):
    """Its validation loss rises, so the first checkpoint is the best, and early stopping stops."""

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val/loss", float(self.current_epoch + 1))


def fit(*callbacks: Callback, module: Reader | None = None, **kwargs: Any) -> list[str]:
    """Train, and return what was warned of."""
    data = torch.utils.data.DataLoader(batches(3), batch_size=None)
    settings = {"precision": "64-true", "max_epochs": 6, "limit_val_batches": 1, **kwargs}
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    with warnings.catch_warnings(record=True, action="always") as said:
        trainer.fit(module or Rising(), data, data)
    return [str(each.message) for each in said if type(callbacks[0]).__name__ in str(each.message)]


STOPS: dict[str, dict[str, Any]] = {
    "max_steps": {"max_steps": 5},
    "max_time": {"max_time": timedelta(seconds=0), "max_epochs": 6},
    "early stopping": {},
}


@pytest.mark.parametrize("stop", ["max_time", "early stopping"])
@pytest.mark.parametrize(
    ("learner", "what"),
    [
        (lambda: L1Anneal(density=0.1), "k edges are left from epoch 5"),
        (lambda: L1Anneal(density=0.1, freeze_epoch=4), "k edges are left from epoch 4"),
        (lambda: PruneAndRetrain(4, density=0.1), "pruned after 4 epochs"),
        (lambda: DNW(density=0.1, freeze_epoch=4), "frozen when epoch 4"),
        (lambda: TargetedDropout(density=0.1, freeze_epoch=4), "frozen when epoch 4"),
    ],
)
def test_a_learner_that_is_not_done_says_so(learner: Any, what: str, stop: str) -> None:
    extra = [EarlyStopping("val/loss", patience=1)] if stop == "early stopping" else []
    (said,) = fit(learner(), *extra, **STOPS[stop])
    assert what in said
    assert "training ended after" in said


@pytest.mark.parametrize(
    ("learner", "what"),
    [
        (lambda: DNW(density=0.1, freeze_epoch=6), "frozen when epoch 6"),
        (lambda: L1Anneal(density=0.1, freeze_epoch=9), "from epoch 9"),
        (lambda: GradualPruning(density=0.1, total_steps=99), "only after step 74"),
    ],
)
@pytest.mark.parametrize(("most", "epochs"), [({}, 6), ({"max_steps": 5}, 2)])
def test_what_comes_after_the_end_is_said_at_the_start(
    learner: Any, what: str, most: dict[str, int], epochs: int
) -> None:
    (said,) = fit(learner(), **most)
    assert what in said
    assert f"the trainer stops after {epochs} epochs" in said


def test_max_steps_can_end_a_fit_before_max_epochs() -> None:
    module = Rising()
    assert fit(L1Anneal(density=0.1), module=module, max_steps=5) == []
    assert edges(module.head) == 16
    with pytest.raises(MisconfigurationException, match="stops after 2 epochs, but the second"):
        fit(PruneAndRetrain(2, density=0.1), max_steps=5)


def test_manual_optimization_may_have_fewer_steps_than_batches() -> None:
    class EveryThird(Rising):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward(super().training_step(batch, batch_idx))
            if batch_idx == 2:
                self.optimizers().step()

    assert fit(PruneAndRetrain(1, density=0.1), module=EveryThird(), max_steps=2) == []


def test_gates_and_searches_too() -> None:
    def said_of(method: Any, callback: Callback, epochs: int = 2) -> list[str]:
        trainer = quiet_trainer(callbacks=[callback], max_epochs=epochs, limit_train_batches=2)
        with warnings.catch_warnings(record=True, action="always") as said:
            trainer.fit(method.task(), digits())
        return [str(w.message) for w in said if type(callback).__name__ in str(w.message)]

    assert "frozen when epoch 5" in said_of(METHODS[0], MaskConnect(freeze_epoch=5))[0]
    assert said_of(METHODS[0], MaskConnect(freeze_epoch=1)) == []
    search = BudgetedSearch(budget=1e5, warmup_epochs=7)
    assert "begin after 7 epochs of warm-up" in said_of(FABRIC, search)[0]


def test_a_learner_that_is_done_is_silent() -> None:
    for learner in (
        L1Anneal(density=0.1),
        PruneAndRetrain(4, density=0.1),
        DNW(density=0.1, freeze_epoch=5),
        DNW(density=0.1),
        TargetedDropout(density=0.1),
    ):
        assert fit(learner) == []


def test_a_wiring_that_a_phase_froze_is_frozen() -> None:
    phases = PhaseSchedule([Phase(1), Phase(1, freeze=True)])
    assert fit(L1Anneal(density=0.1, freeze_epoch=1), phases, max_epochs=2) == []
    assert fit(DNW(density=0.1), phases) == []


@pytest.mark.parametrize("stop", STOPS)
def test_phases_that_are_not_reached_are_missed(stop: str) -> None:
    extra = [EarlyStopping("val/loss", patience=1)] if stop == "early stopping" else []
    phases = [Phase(1), Phase(2), Phase(3, freeze=True)]
    settings = {**STOPS[stop], "max_epochs": -1}
    (said,) = fit(PhaseSchedule(phases), DNW(density=0.1), *extra, **settings)
    assert f"ended in phase {1 if stop == 'max_time' else 2} of 3" in said
    assert said.endswith("so the wiring is not frozen.")
    (said,) = fit(PhaseSchedule([*phases[:2], Phase(3)]), DNW(density=0.1), *extra, **settings)
    assert said.endswith(("epoch.", "epochs."))
    if stop != "max_time":  # which ends before the first epoch
        frozen = DNW(density=0.1, freeze_epoch=0)
        (said,) = fit(PhaseSchedule(phases), frozen, *extra, **settings)
        assert said.endswith(("epoch.", "epochs."))
    assert fit(PhaseSchedule(phases), DNW(density=0.1), *extra, **settings, fast_dev_run=1) == []


def test_phases_that_are_all_reached_are_not() -> None:
    phases = PhaseSchedule([Phase(1), Phase(1, freeze=True)])
    for settings in ({"max_epochs": -1}, {"max_epochs": 4}, {"max_epochs": -1, "max_steps": 4}):
        assert [text for text in fit(phases, DNW(density=0.1), **settings) if "ended" in text] == []


@pytest.mark.parametrize("limit", [{}, {"max_steps": 5}])  # the whole run, or not all of epoch 1
def test_a_fit_with_nothing_left_to_do_has_missed_no_phase(
    limit: dict[str, int], tmp_path: Path
) -> None:
    data = torch.utils.data.DataLoader(batches(3, torch.float32), batch_size=None)
    phases = [Phase(1), Phase(1, freeze=True)]
    path = tmp_path / "last.ckpt"
    for resume in (None, path):
        callbacks = [PhaseSchedule(phases), DNW(density=0.1)]
        trainer = quiet_trainer(callbacks=callbacks, **{"max_epochs": -1, **limit})
        module = Reader()  # another one would not be frozen
        for _ in range(2):
            with warnings.catch_warnings(record=True, action="always") as said:
                trainer.fit(module, data, ckpt_path=resume, weights_only=True)
            assert [str(each.message) for each in said if "ended" in str(each.message)] == []
        trainer.save_checkpoint(path)


@pytest.mark.parametrize(
    ("learner", "stays"),
    [
        (lambda: DNW(density=0.1, freeze_epoch=1), "freeze_epoch=1 of DNW stays"),
        (lambda: PruneAndRetrain(1, density=0.1), "dense_epochs=1 of PruneAndRetrain stays"),
        (lambda: DNW(density=0.1), None),
    ],
)
@pytest.mark.parametrize("epochs", [3, 4, 6])
def test_numbers_of_epochs_that_do_not_follow_the_phases_are_named(
    learner: Any, stays: str | None, epochs: int
) -> None:
    phases = PhaseSchedule([Phase(2), Phase(2)])
    said = [text for text in fit(learner(), phases, max_epochs=epochs) if "Phase" in text]
    if stays is None or epochs == 4:  # nothing to say, or the phases last as long as given
        assert said == []
    else:
        assert len(said) == 1
        assert stays in said[0]
        assert f"max_epochs={epochs}" in said[0]


def test_a_phase_must_not_freeze_before_the_warm_up_is_over() -> None:
    phases = [Phase(2), Phase(2, freeze=True)]
    callbacks = [BudgetedSearch(budget=1e5, warmup_epochs=2), PhaseSchedule(phases)]
    trainer = quiet_trainer(callbacks=callbacks)
    with pytest.raises(MisconfigurationException, match="warmup_epochs is 2 and freeze_epoch is 2"):
        trainer.fit(FABRIC.task(), digits())


def test_weights_that_something_else_moved_are_an_error(tmp_path: Path) -> None:
    class Restores(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            module.head.weight.data += 0.01

    class Seen(Rising):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            raise AssertionError("a network of other weights was validated")

    sentence = r"DNW: head has 160 of 160 weights, not 16\. Something has changed them outside"
    with pytest.raises(WiringError, match=sentence):
        fit(DNW(density=0.1), Restores(), module=Seen())
    with pytest.raises(WiringError, match=sentence):
        fit(DNW(density=0.1), Restores(), limit_val_batches=0)
    for only in (True, False):
        saver = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_weights_only=only)
        with pytest.raises(WiringError, match=sentence):
            fit(DNW(density=0.1), Restores(), saver, enable_checkpointing=True)
        assert list(tmp_path.iterdir()) == []


def test_weights_of_zero_are_fewer_and_no_error() -> None:
    class Zeros(Rising):
        def __init__(self) -> None:
            super().__init__()
            torch.nn.init.zeros_(self.head.weight)

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return self(batch[0]).sum() * 0

    assert fit(DNW(density=0.1), module=Zeros()) == []


DENSER: dict[str, Any] = {
    "GradualPruning": lambda: GradualPruning(density=0.1, every=2),
    "ACDC": lambda: ACDC(density=0.1, every=1, start=0.5),
    "L1Anneal": lambda: L1Anneal(density=0.1),
    "DNW": lambda: DNW(density=0.1, initial_density=1.0),
    "PruneAndRetrain": lambda: PruneAndRetrain(1, density=0.1),
}


@pytest.mark.parametrize("learner", DENSER)
def test_a_checkpoint_of_a_denser_moment_can_be_tested(
    learner: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Tested(Rising):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.tested = int(self.head.weight.count_nonzero())

    data = torch.utils.data.DataLoader(batches(3), batch_size=None)
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    callbacks: list[Callback] = [DENSER[learner](), saver]
    settings: dict[str, Any] = {"max_epochs": 3, "limit_test_batches": 1, "precision": "64-true"}
    trainer = quiet_trainer(callbacks=callbacks, enable_checkpointing=True, **settings)
    module = Tested()
    trainer.fit(module, data)
    kept = []
    for epoch in (2, 0):
        path = tmp_path / f"epoch={epoch}.ckpt"
        with caplog.at_level("INFO"):
            trainer.test(module, data, ckpt_path=path, weights_only=True, verbose=False)
        saved = torch.load(path, weights_only=True)["state_dict"]["head.weight"]
        assert module.tested == int(saved.count_nonzero())
        kept.append(module.tested)
    assert kept[0] == 16 < kept[1]
    said = [line for line in caplog.messages if "is not as sparse as asked for" in line]
    assert len(said) == 1
    assert f"head has {kept[1]:,} of 160 weights" in said[0]
    trainer.test(module, data, verbose=False)  # still the loaded one
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, data, ckpt_path=tmp_path / "epoch=2.ckpt", weights_only=True)
    module.head.weight.data += 0.01
    with pytest.raises(WiringError, match="outside of the optimizer"):
        trainer.test(module, data, verbose=False)


class Replaces(Callback):
    """Puts another module or parameter into the network when the second epoch starts."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch != 1:
            return
        if self.what == "gate":
            pl_module.gate = Gate(targets=4, candidates=4, fan_in=2).double()
            new = [pl_module.gate.scores]
        elif self.what == "module":
            pl_module.head = torch.nn.Linear(16, 10).double()
            new = [*pl_module.head.parameters()]
        else:
            pl_module.head.weight = torch.nn.Parameter(torch.ones(10, 16).double())
            new = [pl_module.head.weight]
        trainer.optimizers[0].add_param_group({"params": new})


LEARNERS: dict[str, Any] = {
    **DENSER,
    "RandomEdges": lambda: RandomEdges(density=0.1),
    "RigL": lambda: RigL(density=0.1),
    "NMSparsity": NMSparsity,
    "TargetedDropout": lambda: TargetedDropout(density=0.1),
}


@pytest.mark.parametrize(("what", "validates"), [("module", 0), ("parameter", 1)])
@pytest.mark.parametrize("learner", LEARNERS)
def test_what_replaces_a_learned_part_is_an_error(learner: str, what: str, validates: int) -> None:
    """Before the next validation, or else at the end."""
    with pytest.raises(WiringError, match=r"head\.weight of the network were replaced"):
        fit(LEARNERS[learner](), Replaces(what), limit_val_batches=validates, max_epochs=2)


def test_a_gate_that_replaces_another_is_an_error() -> None:
    with pytest.raises(WiringError, match=r"MaskConnect: gate\.scores of the network were"):
        fit(MaskConnect(freeze_epoch=2), Replaces("gate"), module=Gated(), max_epochs=3)


def test_what_replaces_a_part_that_is_not_learned_is_no_error() -> None:
    fit(DNW(density=0.1, exclude=["head"]), Replaces("module"), max_epochs=2)
