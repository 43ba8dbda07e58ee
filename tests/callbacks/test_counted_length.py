"""The length that a fit counts on when its epochs get other numbers of batches, also resumed."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint

from tests.callbacks.reader import Gated, Loader, Reader, batches, edges
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import (
    ACDC,
    DNW,
    SET,
    GradualPruning,
    L1Anneal,
    MaskConnect,
    PruneAndRetrain,
    RigL,
)

Make = Callable[[], Any]
CHANGED = "an epoch has 2 batches now, not 5 as when the fit started"


class Sized(LightningDataModule):
    """Epochs of these numbers of batches; the last number counts for all later ones."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes = sizes

    def train_dataloader(self) -> Loader:
        epoch = min(self.trainer.current_epoch, len(self.sizes) - 1)
        return Loader(batches(self.sizes[epoch], torch.float32))


def train(
    folder: Path, learner: Any, at: int | None = None, sizes: tuple[int, ...] = (5, 2), **kw: Any
) -> tuple[dict[str, Any], list[str]]:
    """Train, and return the network and what was warned of; every step has a checkpoint."""
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    module = Gated() if isinstance(learner, MaskConnect) else Reader()
    settings = {"max_epochs": 4, "reload_dataloaders_every_n_epochs": 1, **kw}
    trainer = quiet_trainer(callbacks=[learner, saver], enable_checkpointing=True, **settings)
    path = None if at is None else folder / f"step={at}.ckpt"
    with warnings.catch_warnings(record=True, action="always") as said:
        trainer.fit(module, Sized(*sizes), ckpt_path=path, weights_only=True)
    texts = [str(each.message) for each in said]
    return module.state_dict(), [t for t in texts if t.startswith(type(learner).__name__)]


LEARNERS: dict[str, tuple[Make, dict[str, Any]]] = {
    "RigL": (lambda: RigL(density=0.2, delta_t=2), {}),
    "SET": (lambda: SET(density=0.2), {}),
    "GradualPruning": (lambda: GradualPruning(density=0.2, every=2), {}),
    "ACDC": (lambda: ACDC(density=0.2, every=1), {}),
    "DNW": (lambda: DNW(density=0.2, initial_density=1.0), {}),
    "MaskConnect": (lambda: MaskConnect(lr=0.9, explore="swap", freeze_epoch=3), {}),
    "L1Anneal": (lambda: L1Anneal(density=0.2), {"max_epochs": 6, "max_steps": 18}),
}


@pytest.mark.parametrize("at", [7, 8])  # between two epochs, and inside of one
@pytest.mark.parametrize("name", LEARNERS)
def test_a_resumed_run_counts_as_the_uninterrupted_one(name: str, at: int, tmp_path: Path) -> None:
    make, settings = LEARNERS[name]
    whole, said = train(tmp_path, make(), **settings)
    assert sum(CHANGED in text for text in said) == 1
    resumed, again = train(tmp_path, make(), at, **settings)
    assert same_state(resumed, whole)
    assert again == said


def test_a_learner_that_came_later_counts_from_where_it_came(tmp_path: Path) -> None:
    sizes, make = (5, 2, 4, 1), LEARNERS["DNW"][0]
    train(tmp_path, RigL(density=0.2, layers=["head"]), sizes=sizes, max_epochs=1)
    whole, _ = train(tmp_path, make(), 3, sizes)
    learner = make()
    resumed, _ = train(tmp_path, learner, 8, sizes)
    assert same_state(resumed, whole)
    assert learner._begin.steps == 3


def test_a_resumed_run_may_be_longer_or_shorter(tmp_path: Path) -> None:
    train(tmp_path, GradualPruning(density=0.2, every=1))
    for settings, total in (
        ({"max_epochs": 6}, 30),
        ({"max_epochs": 3}, 15),
        ({"max_steps": 9}, 9),
    ):
        learner = GradualPruning(density=0.2, every=1)
        train(tmp_path, learner, 7, **settings)
        assert learner._length.total == total


def test_an_older_state_counts_on_the_present_batches(tmp_path: Path) -> None:
    train(tmp_path, RigL(density=0.2, delta_t=2))
    path = tmp_path / "step=7.ckpt"
    saved = torch.load(path, weights_only=True)
    del saved["callbacks"]["RigL"]["batches"]
    torch.save(saved, path)
    learner = RigL(density=0.2, delta_t=2)
    train(tmp_path, learner, 7)
    assert learner._length.total == 8


def test_a_second_training_after_the_pruning_resumes_whatever_its_epochs(tmp_path: Path) -> None:
    """By the batches of the last epochs, `max_steps` would end it before the pruning."""
    settings = {"sizes": (2, 2, 2, 6), "max_epochs": 9, "max_steps": 14}
    whole, _ = train(tmp_path, PruneAndRetrain(3, density=0.2), None, **settings)
    resumed, _ = train(tmp_path, PruneAndRetrain(3, density=0.2), 8, **settings)
    assert same_state(resumed, whole)


@pytest.mark.parametrize(
    "learner",
    [
        RigL(density=0.2, delta_t=1, until=0.2),
        RigL(density=0.2, delta_t=1, freeze_epoch=1),
        DNW(density=0.2, initial_density=1.0, until=0.2),
        DNW(density=0.2, initial_density=1.0, freeze_epoch=1),
        GradualPruning(density=0.2, every=1, until=0.2),
        MaskConnect(explore="swap", freeze_epoch=1),
    ],
)
def test_batches_do_not_matter_once_nothing_depends_on_the_length(
    learner: Any, tmp_path: Path
) -> None:
    assert train(tmp_path, learner)[1] == []


class Batched(Reader):
    """What finders can change."""

    lr, batch_size = 0.05, 1

    def train_dataloader(self) -> Loader:
        return Loader(batches(8 // self.batch_size, torch.float32))

    def val_dataloader(self) -> Loader:
        return Loader(batches(1, torch.float32))


@pytest.mark.parametrize(
    "finder",
    [
        lambda: LearningRateFinder(num_training_steps=3, update_attr=False),
        lambda: BatchSizeFinder(mode="power", max_trials=1, steps_per_trial=1),
    ],
)
def test_the_checkpoint_of_a_finder_is_no_training_that_has_begun(
    finder: Make, tmp_path: Path
) -> None:
    learner = PruneAndRetrain(1, rewind=True, density=0.2)
    with warnings.catch_warnings(record=True, action="always") as said:
        trainer = quiet_trainer(
            callbacks=[learner, finder()], max_epochs=2, default_root_dir=tmp_path
        )
        module = Batched()
        trainer.fit(module)
    assert [str(each.message) for each in said if "PruneAndRetrain" in str(each.message)] == []
    assert edges(module.head) == 32
