"""A checkpoint with more weights than asked for is named, in whichever fit it was written."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch.utils.data import DataLoader

from tests.callbacks.reader import Reader, batches
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import ACDC, DNW, GradualPruning, L1Anneal, PruneAndRetrain
from wiring_lightning.callbacks._best_checkpoints import warn_of_denser

DATA = DataLoader(batches(1, torch.float32) * 3, batch_size=None)
EVERY = "{epoch}.ckpt"


class Scored(Reader):
    """One epoch has the lowest loss."""

    def __init__(self, best: int) -> None:
        super().__init__()
        self.best = best

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val/loss", float(self.current_epoch != self.best))


def train(
    folder: Path,
    *learners: Callback,
    best: int = 0,
    resume: int | None = None,
    module: Reader | None = None,
    **kwargs: Any,
) -> tuple[Trainer, list[str]]:
    """Train, and return what is said about the best checkpoint; every epoch has a checkpoint."""
    savers = [
        ModelCheckpoint(folder / "best", "{epoch}", monitor="val/loss", **kwargs.pop("saver", {})),
        ModelCheckpoint(folder, "{epoch}", save_top_k=-1),
    ]
    settings = {"max_epochs": 4, "limit_val_batches": 1, "enable_checkpointing": True, **kwargs}
    trainer = quiet_trainer(callbacks=[*learners, *savers], **settings)
    path = None if resume is None else folder / f"epoch={resume}.ckpt"
    with warnings.catch_warnings(record=True, action="always") as said:
        trainer.fit(module or Scored(best), DATA, DATA, ckpt_path=path, weights_only=True)
    texts = [str(each.message) for each in said]
    return trainer, [text for text in texts if "larger than asked for" in text]


DENSER: dict[str, Callable[[], Any]] = {
    "L1Anneal": lambda: L1Anneal(density=0.1, freeze_epoch=2),
    "PruneAndRetrain": lambda: PruneAndRetrain(1, density=0.1),
    "ACDC": lambda: ACDC(density=0.1, every=1, start=0.3, until=0.6),
    "GradualPruning": lambda: GradualPruning(density=0.1, every=2, until=0.5),
    "DNW": lambda: DNW(density=0.1, initial_density=1.0, until=0.5),
}


@pytest.mark.parametrize("name", DENSER)
def test_one_of_the_dense_network_is_named_after_a_resume_too(name: str, tmp_path: Path) -> None:
    for resume in (None, 2):
        trainer, (said,) = train(tmp_path, DENSER[name](), resume=resume)
        newest = trainer.checkpoint_callbacks[1].best_model_path  # type: ignore[attr-defined]
        assert said.startswith(f"{name}: the checkpoint {tmp_path / 'best' / 'epoch=0.ckpt'} was ")
        assert said.endswith(f"use {newest}, which is as sparse as asked for.")
    _, said_of_it = train(tmp_path / "last", DENSER[name](), best=3)
    assert said_of_it == []


def test_so_it_is_if_the_learner_came_later(tmp_path: Path) -> None:
    train(tmp_path, max_epochs=1)
    _, (said,) = train(tmp_path, DNW(density=0.1), resume=0, max_epochs=2)
    assert said.startswith("DNW: the checkpoint")


def test_a_sparse_one_is_not_named_in_a_longer_run(tmp_path: Path) -> None:
    for resume, epochs in ((None, 3), (2, 5)):
        learner = L1Anneal(density=0.1)
        _, said = train(tmp_path, learner, best=2, resume=resume, max_epochs=epochs)
        assert said == []


def test_one_of_a_sparse_phase_is_not_named(tmp_path: Path) -> None:
    learner = ACDC(density=0.1, every=1, start=0.0)  # sparse and dense epochs by turns
    _, said = train(tmp_path, learner)
    assert said == []
    saved = torch.load(tmp_path / "best" / "epoch=0.ckpt", weights_only=True)["state_dict"]
    assert int(saved["head.weight"].count_nonzero()) == 16


def test_a_fit_that_is_not_done_does_not_advise_its_last_checkpoint(tmp_path: Path) -> None:
    _, said = train(tmp_path, GradualPruning(density=0.1, every=1, total_steps=99))
    assert said == []


class Own(Checkpoint):
    """A saver of the user's, with Lightning's names for what it wrote."""

    def __init__(self, folder: Path) -> None:
        self.last_model_path = str(folder / "own.ckpt")

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.last_model_path)


SAVERS: dict[str, tuple[Callable[[Path], Checkpoint], list[str]]] = {
    "last of some steps": (
        lambda folder: ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_train_steps=5),
        ["last.ckpt"],
    ),
    "last is a copy of the best": (
        lambda folder: ModelCheckpoint(folder, "{epoch}", monitor="val/loss", save_last=True),
        ["epoch=0.ckpt", "last.ckpt"],
    ),
    "last is a link to the best": (
        lambda folder: ModelCheckpoint(folder, "{epoch}", monitor="val/loss", save_last="link"),
        ["epoch=0.ckpt"],
    ),
    "own": (Own, ["own.ckpt"]),
}


@pytest.mark.parametrize("name", SAVERS)
def test_the_last_one_is_looked_at_too_and_what_to_do_is_said(name: str, tmp_path: Path) -> None:
    make, files = SAVERS[name]
    trainer, said = train_with(make(tmp_path), L1Anneal(density=0.1))
    (text,) = said
    named = ", ".join(str(tmp_path / file) for file in files)
    assert f"{named} {'was' if len(files) == 1 else 'were'} saved before" in text
    assert "call trainer.save_checkpoint(path) now" in text
    trainer.save_checkpoint(tmp_path / "now.ckpt")
    assert weights_in(tmp_path / "now.ckpt") == 16
    for file in files:
        assert weights_in(tmp_path / file) > 16


@pytest.mark.parametrize("name", SAVERS)
def test_what_is_advised_for_the_next_fit_works(name: str, tmp_path: Path) -> None:
    make, _ = SAVERS[name]
    plain = ModelCheckpoint(tmp_path / "plain")
    _, (text,) = train_with(make(tmp_path), plain, L1Anneal(density=0.1))
    assert text.endswith(f"use {plain.best_model_path}, which is as sparse as asked for.")
    assert weights_in(Path(plain.best_model_path)) == 16


@pytest.mark.parametrize("name", ["PruneAndRetrain", "GradualPruning", "DNW"])
def test_a_fit_that_trains_nothing_names_the_file_that_it_began_with(
    name: str, tmp_path: Path
) -> None:
    def best() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, "{epoch}", monitor="val/loss")

    trainer, (said,) = train_with(best(), DENSER[name]())
    assert "this run has no other one" in said
    trainer.save_checkpoint(kept := tmp_path / "kept.ckpt")
    _, (said,) = train_with(best(), DENSER[name](), start=kept)
    assert f"{tmp_path / 'epoch=0.ckpt'} was saved before" in said
    assert said.endswith(f"use {kept}, which is as sparse as asked for.")
    _, (said,) = train_with(best(), DENSER[name](), start=kept, epochs=4)
    assert "this run has no other one" in said  # `kept` lacks an epoch


def train_with(
    *callbacks: Callback, start: Path | None = None, epochs: int = 3
) -> tuple[Trainer, list[str]]:
    trainer = quiet_trainer(
        callbacks=list(callbacks), max_epochs=epochs, limit_val_batches=1, enable_checkpointing=True
    )
    with warnings.catch_warnings(record=True, action="always") as said:
        trainer.fit(Scored(best=0), DATA, DATA, ckpt_path=start, weights_only=True)
    return trainer, [text for each in said if "larger than" in (text := str(each.message))]


def weights_in(path: Path) -> int:
    saved = torch.load(path, weights_only=True)["state_dict"]
    return int(saved["head.weight"].count_nonzero())


class Unusual(Scored):
    """Saves an argument that is no number."""

    def __init__(self, make: Any) -> None:
        super().__init__(best=0)
        self.make = make
        self.save_hyperparameters()


def test_names_hyper_parameters_and_missing_files_do_not_matter(tmp_path: Path) -> None:
    module = Unusual(partial(torch.optim.SGD, lr=0.05))
    learner = PruneAndRetrain(1, density=0.1, layers=["body.1"])
    saver = {"save_weights_only": True}
    trainer, (said,) = train(tmp_path, learner, module=module, saver=saver, max_epochs=2)
    path = Path(trainer.checkpoint_callbacks[0].best_model_path)  # type: ignore[attr-defined]
    assert f"{path} was saved before" in said

    def says() -> bool:
        with warnings.catch_warnings(record=True, action="always") as messages:
            warn_of_denser("PruneAndRetrain", learner._groups, trainer, module)
        return bool(messages)

    assert says()
    content = torch.load(path, weights_only=False)
    weights = content["state_dict"]
    weights["body._orig_mod.1.weight"] = weights.pop("body.1.weight")  # as of a compiled part
    torch.save(content, path)
    assert says()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert not says()
    torch.save({"epoch": 1}, path)
    assert not says()
    torch.save({"state_dict": {"other.weight": torch.ones(9)}}, path)
    assert not says()
    path.unlink()
    assert not says()
