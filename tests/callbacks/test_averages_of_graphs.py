"""Averages of graphs that have more edges than their own number, for a while or for good."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from tests.callbacks.averaged import fit
from tests.callbacks.reader import MAKE, GraphReader, Reader, batches, fit as goes_on
from tests.methods import digits, named
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import DNW, GradualPruning, L1Anneal, PruneAndRetrain, RigL
from wiring_lightning.nn import Adjacency
from wiring_lightning.nn.described import find_differences

USABLE = torch.ones(16, 16, dtype=torch.bool).tril(-1)
DENSER: dict[str, Callable[[], Callback]] = {
    "PruneAndRetrain": lambda: PruneAndRetrain(1),
    "GradualPruning": lambda: GradualPruning(every=3),
    "L1Anneal": lambda: L1Anneal(1e-4, freeze_epoch=2),
    "DNW": lambda: DNW(initial_density=1.0),
    "RigL, with more for good": lambda: RigL(density=0.25, delta_t=2),
}


class Later(GraphReader):
    """Its graph is there after `configure_model` only."""

    def __init__(self) -> None:
        Reader.__init__(self, MAKE)

    def configure_model(self) -> None:
        if not hasattr(self, "graph"):
            torch.manual_seed(3)
            self.graph = Adjacency(USABLE, edges=20)
            self.body.append(self.graph)


class Wide(GraphReader):
    """Another network, with more edges."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = self.body[-1] = Adjacency(USABLE, edges=25)


def both(learner: str, first: bool) -> list[Callback]:
    own, average = DENSER[learner](), EMAWeightAveraging(decay=0.7)
    return [average, own] if first else [own, average]


def saving(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)


def assert_resumes(run: Callable[..., dict[str, Any]], folder: Path, *steps: int) -> None:
    """Compare the weights after a whole run with those after runs from its checkpoints."""
    whole = run(saving(folder))
    for step in steps:
        resumed = run(path=folder / f"step={step}.ckpt")
        assert resumed.keys() == whole.keys()
        for name, value in whole.items():
            assert torch.equal(resumed[name], value), name


@pytest.mark.parametrize(("kind", "first"), [(GraphReader, True), (Later, False)])
@pytest.mark.parametrize("learner", DENSER)
def test_a_resumed_run_with_an_average_equals_the_uninterrupted_one(
    learner: str, kind: type[GraphReader], first: bool, tmp_path: Path
) -> None:
    settings = {"data": batches(5, torch.float32), "precision": "32-true", "max_epochs": 3}

    def run(*more: Callback, path: Path | None = None) -> dict[str, Any]:
        callback, *others = [*both(learner, first), *more]
        saves = {"callbacks": others, "enable_checkpointing": bool(more), "limit_val_batches": 1}
        module, _ = goes_on(callback, kind(), resume=path, **saves, **settings)
        return module.state_dict()

    assert_resumes(run, tmp_path, 2, 12)


@pytest.mark.parametrize("learner", ["PruneAndRetrain", "GradualPruning"])
def test_so_does_that_of_a_task(learner: str, tmp_path: Path) -> None:
    def run(*more: Callback, path: Path | None = None) -> dict[str, Any]:
        task, limits = named("neural-graph").task(), {"max_epochs": 2, "limit_train_batches": 3}
        limits["enable_checkpointing"] = bool(more)
        trainer = quiet_trainer(callbacks=[*both(learner, True), *more], **limits)
        trainer.fit(task, digits(8), ckpt_path=path, weights_only=True)
        return task.state_dict()

    assert_resumes(run, tmp_path, 1, 5)


def test_what_an_average_has_saved_can_be_tested(tmp_path: Path) -> None:
    callbacks = [*both("PruneAndRetrain", True), saving(tmp_path)]
    trainer = quiet_trainer(callbacks=callbacks, enable_checkpointing=True, max_epochs=2)
    data = DataLoader(batches(3, torch.float32), batch_size=None)
    trainer.fit(GraphReader(), data)
    module: Any = GraphReader()
    module.test_step = module.validation_step
    tester = quiet_trainer(callbacks=both("PruneAndRetrain", True))
    tester.test(module, data, ckpt_path=str(tmp_path / "step=2.ckpt"), weights_only=True)
    saved = torch.load(tmp_path / "step=2.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(module.graph.weight, saved["graph.weight"])
    assert int(module.graph.weight.count_nonzero()) == int(USABLE.count_nonzero())


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("learner", DENSER)
def test_what_an_average_has_saved_is_read_without_a_learner(
    learner: str, first: bool, tmp_path: Path
) -> None:
    callbacks = [*both(learner, first), saving(tmp_path)]
    data = DataLoader(batches(3, torch.float32), batch_size=None)
    trainer = quiet_trainer(callbacks=callbacks, enable_checkpointing=True, max_epochs=3)
    trainer.fit(GraphReader(), data)
    assert trainer.callbacks == callbacks
    path = tmp_path / "step=2.ckpt"
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert int(saved["graph.weight"].count_nonzero()) > 20
    module = GraphReader.load_from_checkpoint(path, weights_only=True)
    assert torch.equal(module.graph.weight, saved["graph.weight"])
    with pytest.raises(RuntimeError, match="edges there and 20 here"):
        GraphReader().load_state_dict(dict(saved))
    assert find_differences(Wide(), saved) == ["edges is 20 there and 25 here"]


@pytest.mark.parametrize("learner", [DNW, lambda: RigL(density=0.25, delta_t=2)])
@pytest.mark.parametrize("first", [True, False])
def test_another_network_with_an_average_is_still_refused(
    first: bool, learner: Callable[[], Callback], tmp_path: Path
) -> None:
    def run(*more: Callback, module: Reader, **settings: Any) -> None:
        own, average = learner(), EMAWeightAveraging(decay=0.7)
        pair = [average, own] if first else [own, average]
        fit(*pair, *more, module=module, **settings)

    run(saving(tmp_path), module=Wide(), enable_checkpointing=True)
    with pytest.raises(RuntimeError, match=r"has \d+ edges there and 20 here"):
        run(module=GraphReader(), ckpt_path=tmp_path / "step=2.ckpt")


class Failing(Callback):
    """Breaks a fit off."""

    def on_train_start(self, *_: Any) -> None:
        raise ValueError("broken off")


@pytest.mark.parametrize("fails", [False, True])
def test_so_it_is_outside_of_a_trainer(fails: bool) -> None:
    average, module = EMAWeightAveraging(decay=0.7), GraphReader()
    more = [Failing()] if fails else []
    try:
        fit(DNW(), average, *more, module=module)
    except ValueError as error:
        assert str(error) == "broken off"  # noqa: PT017
    networks: list[nn.Module] = [module, average._average_model.module]  # type: ignore[union-attr]
    for network in networks:
        with pytest.raises(RuntimeError, match="has 25 edges there and 20 here"):
            network.load_state_dict(dict(Wide().state_dict()))
