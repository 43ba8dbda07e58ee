"""Learners that come into a training that has begun, and states that none of them takes over."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
)

from tests.callbacks.reader import Loader, Reader, batches, edges, fit
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import ACDC, DNW, SET, GradualPruning, MaskSchedule, RigL

Make = Callable[[], Any]
FALLING: dict[str, Make] = {
    "GradualPruning": lambda: GradualPruning(density=0.2, every=2),
    "DNW": lambda: DNW(density=0.2, initial_density=1.0),
    "ACDC": lambda: ACDC(density=0.2, every=1),
    "MaskSchedule": lambda: MaskSchedule(density=0.2, every=1, initial_density=0.9, until=1.0),
}


def data() -> Loader:
    return Loader(batches(6, torch.float32))


def train(
    folder: Path, *callbacks: Callback, resume: str = "", module: Reader | None = None, **kw: Any
) -> tuple[Trainer, Reader, list[str]]:
    """Train, and return what was warned of, too; every step has a checkpoint in the folder."""
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    settings = {"callbacks": [*callbacks, saver], "enable_checkpointing": True, **kw}
    trainer, module = quiet_trainer(**settings), module or Reader()
    with warnings.catch_warnings(record=True, action="always") as said:
        trainer.fit(
            module, data(), ckpt_path=folder / resume if resume else None, weights_only=True
        )
    return trainer, module, [str(each.message) for each in said]


def named(said: list[str], learner: Callback) -> list[str]:
    return [text for text in said if text.startswith(type(learner).__name__ + ":")]


@pytest.mark.parametrize("at", [12, 15])  # between two epochs, and inside of one
@pytest.mark.parametrize("name", FALLING)
def test_a_learner_that_a_resumed_run_adds_reaches_its_density(
    name: str, at: int, tmp_path: Path
) -> None:
    train(tmp_path, max_epochs=3)
    learner = FALLING[name]()
    _, module, said = train(tmp_path, learner, resume=f"step={at}.ckpt", max_epochs=4)
    assert learner._length.total == learner._length.trained == learner._rules[0].steps == 24 - at
    assert (edges(module.head), edges(module.first)) == (32, 14)
    assert named(said, learner) == []


@pytest.mark.parametrize(
    ("limit", "steps"), [({"max_epochs": -1, "max_steps": 20}, 8), ({"max_epochs": 3}, 6)]
)
def test_a_learner_that_comes_between_two_fits_takes_what_is_left(
    limit: dict[str, int], steps: int, tmp_path: Path
) -> None:
    trainer, module, _ = train(tmp_path, max_epochs=2)
    learner = GradualPruning(density=0.2, every=1)
    trainer.callbacks.insert(0, learner)
    trainer.fit_loop.max_epochs = limit["max_epochs"]
    trainer.fit_loop.epoch_loop.max_steps = limit.get("max_steps", -1)
    trainer.fit(module, data())
    assert learner._length.total == learner._rules[0].steps == steps
    assert edges(module.head) == 32


@pytest.mark.parametrize(
    ("name", "at"), [*((name, 18) for name in FALLING), ("DNW", 14), ("GradualPruning", 21)]
)
def test_a_learner_that_came_later_resumes_as_if_uninterrupted(
    name: str, at: int, tmp_path: Path
) -> None:
    train(tmp_path, max_epochs=2)
    _, whole, _ = train(tmp_path, FALLING[name](), resume="step=9.ckpt", max_epochs=4)
    again = tmp_path / "again"
    again.mkdir()
    (tmp_path / f"step={at}.ckpt").rename(again / "from.ckpt")
    learner = FALLING[name]()
    _, resumed, _ = train(again, learner, resume="from.ckpt", max_epochs=4)
    assert same_state(resumed.state_dict(), whole.state_dict())
    assert (learner._begin.steps, learner._length.total) == (9, 15)


@pytest.mark.parametrize("name", ["GradualPruning", "DNW"])
def test_accumulated_batches_that_are_over_count_as_their_steps(name: str, tmp_path: Path) -> None:
    scheduling = {0: 1, 1: 4, 2: 3}  # 6, 2, 2 and 2 steps
    train(tmp_path, GradientAccumulationScheduler(scheduling), max_epochs=2)
    learner = FALLING[name]()
    others = [GradientAccumulationScheduler(scheduling)]
    _, module, _ = train(tmp_path, learner, *others, resume="step=7.ckpt", max_epochs=4)
    assert learner._length.total == 5
    assert edges(module.head) == 32


def test_what_a_late_learner_cannot_reach_is_said_at_the_start(tmp_path: Path) -> None:
    train(tmp_path, max_epochs=2)
    learner = GradualPruning(density=0.2, every=1, total_steps=12)
    _, _, said = train(tmp_path, learner, resume="step=12.ckpt", max_epochs=3)
    assert named(said, learner) == [
        "GradualPruning: the layers have their final density only after step 9, but the trainer "
        "stops after 3 epochs."
    ]
    still = RigL(density=0.2, delta_t=5)
    _, _, said = train(tmp_path, still, resume="step=12.ckpt", max_epochs=3)
    assert "no change in this run moves a weight" in named(said, still)[0]
    frozen = RigL(density=0.2, delta_t=2, freeze_epoch=2)
    _, _, said = train(tmp_path, frozen, resume="step=12.ckpt", max_epochs=3)
    assert "no change in this run moves a weight" in named(said, frozen)[0]
    with pytest.raises(MisconfigurationException, match="has no step after step 12, with which"):
        train(tmp_path, GradualPruning(density=0.2), resume="step=12.ckpt", max_epochs=2)


def test_the_checkpoint_of_the_rate_finder_is_not_where_a_fit_resumes(tmp_path: Path) -> None:
    class WithRate(Reader):
        lr = 0.1

    train(tmp_path, max_epochs=2, module=WithRate())
    finder = LearningRateFinder(num_training_steps=3, update_attr=False)
    learner = GradualPruning(density=0.2, every=1)
    settings: dict[str, Any] = {"resume": "step=12.ckpt", "max_epochs": 4, "module": WithRate()}
    train(tmp_path, finder, learner, default_root_dir=tmp_path, **settings)
    assert learner._begin.steps == 12


def test_a_callback_starts_anew_in_another_training(tmp_path: Path) -> None:
    train(tmp_path, max_epochs=1)
    learner = GradualPruning(density=0.2, every=1)
    train(tmp_path, learner, resume="step=6.ckpt", max_epochs=2)
    assert learner._length.total == 6
    fit(learner, max_epochs=2)
    assert learner._length.total == 12


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: RigL(density=0.2), lambda: RigL(density=0.2, exclude=["first"])),
        (lambda: RigL(density=0.2), lambda: SET(density=0.2)),
        (lambda: DNW(density=0.2, layers=["Linear"]), lambda: RigL(density=0.2)),
        (lambda: DNW(density=0.2), lambda: DNW(density=0.2, layers=["head"])),
    ],
)
def test_a_state_that_no_callback_takes_over_is_named(
    first: Make, second: Make, tmp_path: Path
) -> None:
    saved = first()
    train(tmp_path, saved)
    learner = second()
    _, _, said = train(tmp_path, learner, resume="step=6.ckpt", max_epochs=2)
    (said_of_it,) = [text for text in named(said, learner) if "takes over" in text]
    assert f"has the state of {saved.state_key}, which no callback takes over" in said_of_it
    assert "give the same class with the same layers, groups and exclude" in said_of_it


def test_a_state_that_a_callback_takes_over_is_not(tmp_path: Path) -> None:
    train(tmp_path, DNW(density=0.2, layers=["head"]))
    learner, other = DNW(density=0.2, layers=["head"]), RigL(density=0.2, layers=["first"])
    _, _, said = train(tmp_path, learner, other, resume="step=6.ckpt", max_epochs=2)
    assert [text for text in said if "takes over" in text] == []
