"""What a run that resumes cannot change any more is refused or said."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from tests.callbacks.reader import Gated, Reader, batches, edges
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import (
    DNW,
    SET,
    BudgetedSearch,
    L1Anneal,
    MaskConnect,
    NMSparsity,
    PruneAndRetrain,
    PruneAtStart,
    RandomEdges,
    RigL,
    TargetedDropout,
)

DATA = DataLoader(batches(1, torch.float32) * 2, batch_size=None)
Make = Callable[[], Any]


def train(
    folder: Path, learner: Callback, resume: int | None = None, module: Any = None, epochs: int = 3
) -> tuple[Any, list[str]]:
    """Train, and return what was warned of; every epoch has a checkpoint in the folder."""
    callbacks = [learner, ModelCheckpoint(folder, "{epoch}", save_top_k=-1)]
    trainer = quiet_trainer(callbacks=callbacks, enable_checkpointing=True, max_epochs=epochs)
    module = module or Reader()
    path = None if resume is None else folder / f"epoch={resume}.ckpt"
    with warnings.catch_warnings(record=True, action="always") as said:
        trainer.fit(module, DATA, ckpt_path=path, weights_only=True)
    name = type(learner).__name__ + ":"
    return module, [str(each.message) for each in said if str(each.message).startswith(name)]


GROUP: dict[str, Any] = {"density": 0.25, "groups": {"two": ["body.1", "head"]}}
# What the first run has, what the second one has, and in which words that is refused.
REFUSED: dict[str, tuple[Make, Make, str]] = {
    "initial_density": (
        lambda: DNW(density=0.25),
        lambda: DNW(density=0.25, initial_density=0.9),
        "saved with initial_density=None, and initial_density=0.9 comes too late: resume with "
        "initial_density=None",
    ),
    "no initial_density": (
        lambda: DNW(density=0.25, initial_density=np.float64(0.9)),
        lambda: DNW(density=0.25),
        "saved with initial_density=0.9, and initial_density=None comes",
    ),
    "n and m": (
        lambda: NMSparsity(2, 8, freeze_epoch=1),
        lambda: NMSparsity(1, 4, freeze_epoch=1),
        "saved with n=2, m=8, and n=1, m=4 comes too late",
    ),
    "per_row": (
        lambda: TargetedDropout(density=0.25, freeze_epoch=1),
        lambda: TargetedDropout(density=0.25, freeze_epoch=1, per_row=True),
        "saved with per_row=False, and per_row=True comes",
    ),
    "seed": (
        lambda: RandomEdges(density=0.25),
        lambda: RandomEdges(density=0.25, seed=1),
        "saved with seed=0, and seed=1 comes",
    ),
    "seed of first masks": (
        lambda: RigL(density=0.25, delta_t=1),
        lambda: RigL(density=0.25, delta_t=1, seed=1),
        "saved with seed=0, and seed=1 comes",
    ),
    "first": (
        lambda: PruneAtStart(density=0.25),
        lambda: PruneAtStart("random", density=0.25),
        "saved with first='magnitude', and first='random' comes",
    ),
    "min_edges": (
        lambda: RandomEdges(**GROUP),
        lambda: RandomEdges(**GROUP, min_edges=9),
        "saved with min_edges=0, and min_edges=9 comes",
    ),
    "to rewind": (
        lambda: PruneAndRetrain(2, density=0.25),
        lambda: PruneAndRetrain(2, rewind=True, density=0.25),
        "saved with rewind=False, and rewind=True comes",
    ),
    "not to rewind": (
        lambda: PruneAndRetrain(2, rewind=True, density=0.25),
        lambda: PruneAndRetrain(2, density=0.25),
        "saved with rewind=True, and rewind=False comes",
    ),
    "after the pruning": (
        lambda: PruneAndRetrain(1, density=0.25),
        lambda: PruneAndRetrain(2, lr=0.1, rewind=True, density=0.25),
        "saved with dense_epochs=1, rewind=False, lr=None, and dense_epochs=2, rewind=True, lr=0.1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_come_too_late_are_refused(name: str, tmp_path: Path) -> None:
    first, second, words = REFUSED[name]
    at = 1 if name == "after the pruning" else 0
    train(tmp_path, first())
    with pytest.raises(MisconfigurationException) as error:
        train(tmp_path, second(), resume=at)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: SET(density=0.25), lambda: SET(density=0.25, seed=1, fraction=0.1)),
        (
            lambda: PruneAndRetrain(1, density=0.25),
            lambda: PruneAndRetrain(2, 0, 0.1, density=0.25),
        ),
        (lambda: RandomEdges(density=0.25), lambda: RandomEdges(density=0.25, min_edges=9)),
    ],
)
def test_what_still_has_an_effect_may_change(first: Make, second: Make, tmp_path: Path) -> None:
    train(tmp_path, first(), epochs=1 + isinstance(first(), PruneAndRetrain))
    train(tmp_path, second(), resume=0)


def test_a_checkpoint_of_an_earlier_version_still_loads(tmp_path: Path) -> None:
    train(tmp_path, DNW(density=0.25))
    path = tmp_path / "epoch=0.ckpt"
    content = torch.load(path, weights_only=True)
    del content["callbacks"]["DNW"]["kept"]
    torch.save(content, path)
    module, said = train(tmp_path, DNW(density=0.25, initial_density=0.9), resume=0)
    assert edges(module.head) == 40
    assert said == []


def test_a_freeze_that_comes_after_one_has_no_effect(tmp_path: Path) -> None:
    words = "the wiring is frozen already and stays so, so freeze_epoch=3 has no effect"
    for make, module in ((DNW, Reader), (MaskConnect, Gated)):
        choice = {"density": 0.25} if make is DNW else {}
        folder = tmp_path / make.__name__
        train(folder, make(freeze_epoch=1, **choice), module=module())
        for freeze_epoch, at in ((3, 1), (1, 0)):
            learner = make(freeze_epoch=freeze_epoch, **choice)
            _, said = train(folder, learner, at, module(), epochs=4)
            assert [words in text for text in said] == ([True] if freeze_epoch == 3 else [])


def test_the_rule_of_gates_is_that_of_the_checkpoint_which_is_said(tmp_path: Path) -> None:
    train(tmp_path, MaskConnect(lr=0.5), module=Gated())
    assert train(tmp_path, MaskConnect(lr=0.5), 0, Gated())[1] == []
    learner = MaskConnect(lr=0.1, seed=3, explore="swap")
    _, (said,) = train(tmp_path, learner, 0, Gated())
    assert "goes on with lr=0.5, explore='sample', seed=0 of the checkpoint" in said
    assert said.endswith("and not with lr=0.1, explore='swap', seed=3.")
    assert learner.optimizer is not None
    assert learner.optimizer.group["explore"] == "sample"


def test_the_rule_of_a_search_too() -> None:
    learner = BudgetedSearch(budget=1e5, baseline=False)
    with pytest.warns(UserWarning, match="goes on with baseline=True of the checkpoint, and not"):
        learner._say_what_stays(BudgetedSearch(budget=2e5).kept_arguments)


def test_initial_weights_of_a_callback_that_came_later_are_named(tmp_path: Path) -> None:
    train(tmp_path, L1Anneal(density=1.0, layers=["head"]))
    for resume in (0, None):
        _, said = train(tmp_path, PruneAndRetrain(2, True, density=0.25), resume)
        named = ["starts from the weights of this moment" in text for text in said]
        assert any(named) == (resume is not None)
