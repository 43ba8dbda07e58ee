"""A fit that something stops before a learner is done says so, also if nothing was trained."""

import signal
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tests.callbacks.reader import Loader, Reader, batches
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import (
    ACDC,
    DNW,
    SET,
    SNIP,
    GradualPruning,
    L1Anneal,
    PruneAtStart,
    RigL,
)


def fit(*callbacks: Callback, resume: Path | None = None, **kwargs: Any) -> Trainer:
    trainer = quiet_trainer(callbacks=list(callbacks), **{"max_epochs": 4, **kwargs})
    data = Loader(batches(2, torch.float32))
    trainer.fit(Reader(), data, ckpt_path=resume, weights_only=True)
    return trainer


class Interrupts(Callback):
    def __init__(self, error: type[BaseException], step: int) -> None:
        self.error, self.step = error, step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise self.error


DENSER = "the layers have their final density only after step "


@pytest.mark.parametrize("error", [KeyboardInterrupt, SIGTERMException])
@pytest.mark.parametrize(
    ("learner", "what"),
    [
        (lambda: DNW(density=0.1, freeze_epoch=2), "the wiring is to be frozen when epoch 2"),
        (lambda: DNW(density=0.1, initial_density=1.0), f"{DENSER}6,"),
        (lambda: GradualPruning(density=0.1, every=1), f"{DENSER}6,"),
        (lambda: ACDC(density=0.1, every=1), None),  # in a sparse phase
        (lambda: RigL(density=0.1, delta_t=1), "masks change until step 6, of which there were 3,"),
        (lambda: SET(density=0.1), "masks change until step 8, of which there were 3,"),
        (lambda: RigL(density=0.1, freeze_epoch=1), None),
        (lambda: PruneAtStart(density=0.1), None),
    ],
)
def test_an_interrupted_fit_says_so(
    learner: Any, what: str | None, error: type[BaseException]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    callback = learner()
    try:
        with (
            warnings.catch_warnings(record=True, action="always") as said,
            pytest.raises((SystemExit, error)),
        ):
            fit(callback, Interrupts(error, step=3))
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores it from then on
    texts = [str(one.message) for one in said if "training ended after" in str(one.message)]
    assert len(texts) == (0 if what is None else 1)
    assert all(text.startswith(f"{type(callback).__name__}: {what}") for text in texts)


NOTHING: dict[str, dict[str, Any]] = {
    "no batches": {"limit_train_batches": 0},
    "no time": {"max_time": timedelta(seconds=0)},
}


@pytest.mark.parametrize(
    ("learner", "nothing", "what"),
    [
        (lambda: SNIP(density=0.1), "no batches", f"{DENSER}1,"),
        (lambda: GradualPruning(density=0.1, total_steps=8), "no batches", f"{DENSER}6,"),
        (lambda: SNIP(density=0.1), "no time", f"{DENSER}1,"),
        (lambda: GradualPruning(density=0.1, every=1), "no time", f"{DENSER}6,"),
        (lambda: DNW(density=0.1, initial_density=1.0), "no time", f"{DENSER}6,"),
        (lambda: L1Anneal(density=0.1), "no time", "k edges are left from epoch 3"),
        (lambda: PruneAtStart(density=0.1), "no time", None),
    ],
)
def test_a_fit_that_trains_nothing_says_so(learner: Any, nothing: str, what: str | None) -> None:
    callback = learner()
    with warnings.catch_warnings(record=True, action="always") as said:
        assert fit(callback, **NOTHING[nothing]).global_step == 0
    texts = [str(one.message) for one in said if "training ended after 0" in str(one.message)]
    assert len(texts) == (0 if what is None else 1)
    assert all(text.startswith(f"{type(callback).__name__}: {what}") for text in texts)


def test_a_second_job_without_time_says_so_and_a_finished_one_does_not(tmp_path: Path) -> None:
    def job(epochs: int, *others: Callback, resume: Path | None = None) -> list[str]:
        learner = GradualPruning(density=0.1, every=1, total_steps=4)
        with warnings.catch_warnings(record=True, action="always") as said:
            trainer = fit(learner, *others, resume=resume, max_epochs=epochs)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        texts = [str(one.message) for one in said]
        return [text for text in texts if text.startswith("GradualPruning: the layers have")]

    assert len(job(1)) == 1
    (said,) = job(2, Timer(timedelta(seconds=0)), resume=tmp_path / "1.ckpt")
    assert said == f"GradualPruning: {DENSER}3, but training ended after 1 epoch."
    assert job(2, resume=tmp_path / "1.ckpt") == []
    assert job(2, Timer(timedelta(seconds=0)), resume=tmp_path / "2.ckpt") == []
