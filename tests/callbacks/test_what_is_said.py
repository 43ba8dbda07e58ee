"""Each reason is said once, whatever else was said; and so is a freeze that nothing asked for."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from tests.callbacks.reader import Gated, Reader, batches
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import (
    DNW,
    SET,
    GradualPruning,
    L1Anneal,
    MaskConnect,
    MaskSchedule,
    NMSparsity,
    Phase,
    PhaseSchedule,
    PruneAndRetrain,
    RandomEdges,
    RigL,
    TargetedDropout,
    WiringError,
)
from wiring_lightning.optim import WarmupCosine

Make = Callable[[], Any]
DATA = DataLoader(batches(2, torch.float32), batch_size=None)


def train(
    *callbacks: Any, resume: Path | None = None, module: Any = None, epochs: int = 4
) -> list[str]:
    """Train, and return what the first callback warned of."""
    checkpoints = any(isinstance(each, ModelCheckpoint) for each in callbacks)
    trainer = quiet_trainer(
        callbacks=list(callbacks), enable_checkpointing=checkpoints, max_epochs=epochs
    )
    with warnings.catch_warnings(record=True, action="always") as said:
        trainer.fit(module or Reader(), DATA, ckpt_path=resume, weights_only=True)
    name = type(callbacks[0]).__name__ + ":"
    return [str(each.message) for each in said if str(each.message).startswith(name)]


class Stops(Callback):
    """Ends the fit after the first epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


FROZEN = "the wiring is to be frozen when epoch 9 (from 0) starts, but the trainer stops after 4"
TIMES: dict[str, Any] = {"density": 0.2, "freeze_epoch": 9}


@pytest.mark.parametrize(
    ("learner", "later"),
    [
        (lambda: GradualPruning(every=1, **TIMES), "final density only after step 6"),
        (lambda: DNW(initial_density=1.0, **TIMES), "final density only after step 6"),
        (lambda: RigL(delta_t=1, **TIMES), "masks change until step 6, of which there were 2"),
        (lambda: SET(every=1, unit="step", **TIMES), "masks change until step 8"),
    ],
)
def test_what_was_said_at_the_start_silences_no_other_reason(learner: Make, later: str) -> None:
    first, second = train(learner(), Stops())
    assert FROZEN in first
    assert later in second
    assert second.endswith("but training ended after 1 epoch.")
    assert len(train(learner())) == 1  # which has reached the rest


def test_two_reasons_at_the_start_are_two() -> None:
    first, second = train(DNW(initial_density=1.0, total_steps=99, **TIMES))
    assert FROZEN in first
    assert "final density only after step 74, but the trainer stops after 4 epochs" in second


def freezing(epoch: int) -> PhaseSchedule:
    return PhaseSchedule([Phase(epoch), Phase(4 - epoch, freeze=True)])


@pytest.mark.parametrize("make", [DNW, RigL, MaskConnect, TargetedDropout, NMSparsity])
def test_a_freeze_that_nothing_asks_for_is_said(make: Any, tmp_path: Path) -> None:
    choice = {"density": 0.2} if make in (DNW, RigL, TargetedDropout) else {}
    module = Gated if make is MaskConnect else Reader
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    train(make(freeze_epoch=1, **choice), saver, module=module())
    path = tmp_path / "epoch=1.ckpt"

    def again(*others: Any, **given: Any) -> list[str]:
        said = train(make(**choice, **given), *others, resume=path, module=module())
        return [text for text in said if "froz" in text]

    (said,) = again()
    assert "the wiring was frozen before this fit and stays so, though nothing freezes it" in said
    assert again(freezing(2)) == again(freeze_epoch=2) == []
    (said,) = again(freezing(3))
    assert said.endswith("stays so, so the phase with freeze has no effect.")


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomEdges(density=0.2),
        lambda: PruneAndRetrain(1, density=0.2),
        lambda: L1Anneal(density=0.2),
    ],
)
def test_what_fixes_its_wiring_itself_says_nothing(make: Make, tmp_path: Path) -> None:
    train(make(), ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1))
    assert train(make(), resume=tmp_path / "epoch=2.ckpt") == []


class Replaces(Callback):
    """Puts another module, or a parameter, into the network when the training ends."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.what == "module":
            pl_module.head = nn.Linear(16, 10)
        else:
            pl_module.head.weight = nn.Parameter(pl_module.head.weight.detach() * 2)


class ReplacesItself(Reader):
    def on_train_end(self) -> None:
        self.head = nn.Linear(16, 10)


@pytest.mark.parametrize("overwrites", [False, True])
@pytest.mark.parametrize(
    "make", [RigL, DNW, RandomEdges, lambda density: L1Anneal(density=density)]
)
def test_what_replaces_a_learned_part_at_the_end_is_an_error(make: Any, overwrites: bool) -> None:
    """Also where a network gets new parameters when it leaves its device, which are no others."""
    sentence = r"head\.weight of the network were replaced after the fit had started"
    torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
    try:
        for callbacks, module in (
            ([make(density=0.2), Replaces("module")], Reader()),
            ([Replaces("module"), make(density=0.2)], Reader()),
            ([make(density=0.2), Replaces("parameter")], Reader()),
            ([make(density=0.2)], ReplacesItself()),
        ):
            with pytest.raises(WiringError, match=sentence):
                train(*callbacks, module=module, epochs=1)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


class Late(Callback):
    """Changes the network in one of the hooks that come last."""

    def __init__(self, hook: str, change: Any) -> None:
        setattr(self, hook, lambda _, pl_module, *__, **___: change(pl_module))


class LateItself(Reader):
    def on_fit_end(self) -> None:
        write(self)


def write(module: Any) -> None:
    nn.init.ones_(module.head.weight)


def replace(module: Any) -> None:
    module.head = nn.Linear(16, 10)


@pytest.mark.parametrize("make", [RigL, lambda density: PruneAndRetrain(1, density=density)])
def test_what_the_last_hooks_change_is_seen_in_any_order(make: Any) -> None:
    for callbacks, module, sentence in (
        ([make(density=0.2), Late("on_fit_end", write)], Reader(), "head has 160 of 160"),
        ([Late("teardown", write), make(density=0.2)], Reader(), "head has 160 of 160"),
        ([make(density=0.2), Late("teardown", replace)], Reader(), r"head\.weight of the network"),
        ([make(density=0.2)], LateItself(), "head has 160 of 160"),
    ):
        trainer = quiet_trainer(callbacks=list(callbacks), max_epochs=2)
        with pytest.raises(WiringError, match=sentence):
            trainer.fit(module, DATA)
        assert trainer.callbacks == callbacks  # nothing is left in the trainer


def test_after_it_was_moved_the_present_weights_are_counted() -> None:
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        module, learner = Reader(), RigL(density=0.2)
        trainer = quiet_trainer(callbacks=[learner], max_epochs=1)
        trainer.fit(module, DATA)
        assert learner.broken() is None
        nn.init.ones_(module.head.weight)
        assert learner.broken() == "head has 160 of 160 weights, not 32"
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


class Scheduled(Reader):
    def configure_optimizers(self) -> Any:
        sgd = torch.optim.SGD(self.parameters(), lr=0.1)
        return [sgd], [WarmupCosine(sgd, np.int64(4), np.int64(1))]


FLOAT, WHOLE = np.float64, np.int64
EDGES: dict[str, Any] = {"edges": WHOLE(9)}
NUMBERS: dict[str, tuple[Make, Any]] = {
    "MaskConnect": (
        lambda: [MaskConnect(FLOAT(0.3), low=FLOAT(0), seed=WHOLE(1), draw_every=WHOLE(2))],
        Gated,
    ),
    "swaps": (lambda: [MaskConnect(FLOAT(0.3), explore="swap", anneal_steps=WHOLE(9))], Gated),
    "phases": (
        lambda: [
            MaskConnect(),
            PhaseSchedule([Phase(WHOLE(2), FLOAT(0.1), FLOAT(0.3)), Phase(WHOLE(2))]),
        ],
        Gated,
    ),
    "PruneAndRetrain": (lambda: [PruneAndRetrain(WHOLE(1), lr=FLOAT(0.05), **EDGES)], Reader),
    "DNW": (lambda: [DNW(initial_density=FLOAT(0.9), total_steps=WHOLE(9), **EDGES)], Reader),
    "RigL": (
        lambda: [RigL(delta_t=WHOLE(2), seed=WHOLE(1), total_steps=WHOLE(9), **EDGES)],
        Reader,
    ),
    "averages": (lambda: [MaskSchedule(grow="momentum", average=FLOAT(0.9), **EDGES)], Reader),
    "RandomEdges": (lambda: [RandomEdges(seed=WHOLE(4), **EDGES)], Reader),
    "TargetedDropout": (lambda: [TargetedDropout(rho=FLOAT(0.9), seed=WHOLE(2), **EDGES)], Reader),
    "NMSparsity": (lambda: [NMSparsity(n=WHOLE(1), m=WHOLE(4), decay=FLOAT(0.1))], Reader),
    "WarmupCosine": (lambda: [DNW(**EDGES)], Scheduled),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_numpy_give_checkpoints_that_can_be_resumed(name: str, tmp_path: Path) -> None:
    make, module = NUMBERS[name]
    train(*make(), ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1), module=module())
    train(*make(), resume=tmp_path / "epoch=1.ckpt", module=module())
