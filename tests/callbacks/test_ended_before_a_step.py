"""A fit that ends before its first step leaves the network and its learners as they were."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch.optim import SGD

from tests.callbacks.reader import Gated, GraphReader, Reader, batches
from tests.callbacks.test_combinations import count
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import (
    ACDC,
    DNW,
    SET,
    SNIP,
    GradualPruning,
    L1Anneal,
    MaskConnect,
    NMSparsity,
    Phase,
    PhaseSchedule,
    PruneAndRetrain,
    PruneAtStart,
    RandomEdges,
    RigL,
    TargetedDropout,
)

Make = Callable[[], Any]
CUTS: dict[str, Make] = {
    "DNW": lambda: DNW(density=0.25),
    "DNW, frozen": lambda: DNW(density=0.25, freeze_epoch=0),
    "RandomEdges": lambda: RandomEdges(density=0.25),
    "TargetedDropout": lambda: TargetedDropout(0.5, density=0.25),
    "PruneAtStart": lambda: PruneAtStart(density=0.25),
    "SET": lambda: SET(density=0.25),
    "NMSparsity": lambda: NMSparsity(1, 4),
    "L1Anneal": lambda: L1Anneal(density=0.25, freeze_epoch=0),
    "MaskConnect": lambda: MaskConnect(lr=0.5, freeze_epoch=0),
}
GROWN: dict[str, Make] = {  # their networks change during a fit
    "DNW": lambda: DNW(density=0.25),
    "GradualPruning": lambda: GradualPruning(density=0.25, every=1),
    "SNIP": lambda: SNIP(density=0.25),
    "RigL": lambda: RigL(density=0.25, delta_t=2),
    "ACDC": lambda: ACDC(density=0.25, every=1),
    "L1Anneal": lambda: L1Anneal(density=0.25),
    "lottery ticket": lambda: PruneAndRetrain(1, rewind=True, density=0.25),
    "TargetedDropout": lambda: TargetedDropout(0.5, density=0.25),
    "MaskConnect": lambda: MaskConnect(lr=0.5),
}


def data() -> Any:
    return torch.utils.data.DataLoader(batches(4, torch.float32), batch_size=None)


def network(learner: Callback) -> Reader:
    return Gated() if isinstance(learner, MaskConnect) else Reader(partial(SGD, lr=0.3))


class Fails(Callback):
    """Fails in one hook, until it is told that the user has mended that."""

    def __init__(self, hook: str) -> None:
        self.hook = hook
        for name in ("setup", "on_fit_start", "on_sanity_check_start", "on_train_start"):
            setattr(self, name, partial(self._run, name))
        self.on_before_backward = partial(self._run, "on_before_backward")  # in the first step

    def _run(self, name: str, *_: Any, **__: Any) -> None:
        if name == self.hook:
            raise RuntimeError("no space left")


def fails(trainer: Trainer, module: LightningModule, **kwargs: Any) -> None:
    with pytest.raises(RuntimeError, match="no space left"):
        trainer.fit(module, data(), data(), **kwargs)


HOOKS = ("on_fit_start", "on_sanity_check_start", "on_train_start", "on_before_backward")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("name", CUTS)
def test_an_error_before_the_first_step_leaves_the_network_as_it_was(name: str, hook: str) -> None:
    learner, failing = CUTS[name](), Fails(hook)
    module, alone = network(learner), network(learner)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    trainer = quiet_trainer(
        callbacks=[learner, failing], num_sanity_val_steps=1, limit_val_batches=1
    )
    fails(trainer, module)
    assert same_state(module.state_dict(), before)
    failing.hook = ""
    trainer.fit(module, data(), data())
    quiet_trainer(callbacks=[CUTS[name]()]).fit(alone, data())
    assert same_state(module.state_dict(), alone.state_dict())


REFUSED: dict[str, list[Make]] = {
    "two learners": [lambda: DNW(density=0.5), lambda: RandomEdges(density=0.1)],
    "the other way round": [lambda: RandomEdges(density=0.1), lambda: DNW(density=0.5)],
    "no gates": [lambda: DNW(density=0.1), MaskConnect],
    "no rate of gates": [
        lambda: DNW(density=0.1),
        lambda: PhaseSchedule([Phase(1, gate_lr=0.1), Phase(1)]),
    ],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_changes_nothing(name: str) -> None:
    callbacks, module = [make() for make in REFUSED[name]], Reader()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(MisconfigurationException):
        quiet_trainer(callbacks=callbacks).fit(module, data())
    assert same_state(module.state_dict(), before)


@pytest.mark.parametrize("make", [DNW, RandomEdges, PruneAtStart, lambda: DNW(freeze_epoch=0)])
def test_a_graph_keeps_the_weights_that_its_edges_began_with(make: Make) -> None:
    ends = []
    for hooks in ([], ["on_fit_start"], ["on_train_start"]):
        failing, module = Fails(*hooks or [""]), GraphReader()
        trainer = quiet_trainer(callbacks=[make(), failing])
        absent = GraphReader().graph.absent
        if hooks:
            fails(trainer, module)
            assert module.graph.learnable
            assert torch.equal(module.graph.absent, absent)
            failing.hook = ""
        trainer.fit(module, data())
        ends.append(module.state_dict())
    assert same_state(ends[0], ends[1])
    assert same_state(ends[0], ends[2])


def test_an_error_after_the_first_step_leaves_what_was_trained() -> None:
    class Late(Reader):
        def training_step(self, batch: Any, index: int) -> Any:
            if index == 1:
                raise RuntimeError("no space left")
            return super().training_step(batch, index)

    module = Late()
    before = module.body[1].weight.detach().clone()
    fails(quiet_trainer(callbacks=[DNW(density=0.25)]), module)
    assert count(module.body[1]) == 288
    assert not torch.equal(
        module.body[1].weight[module.body[1].weight != 0], before[module.body[1].weight != 0]
    )


def twice(name: str, between: Callable[[Trainer, Reader], None]) -> tuple[Reader, Trainer]:
    """Two epochs, what comes between them, and two more."""
    learner = GROWN[name]()
    trainer, module = quiet_trainer(callbacks=[learner], max_epochs=2), network(learner)
    trainer.fit(module, data())
    trainer.fit_loop.max_epochs = 4
    between(trainer, module)
    trainer.fit(module, data())
    return module, trainer


def nothing(trainer: Trainer, module: Reader) -> None:
    """Go on at once."""


def wrong_path(trainer: Trainer, module: Reader) -> None:
    with pytest.raises(FileNotFoundError):
        trainer.fit(module, data(), ckpt_path="nothing.ckpt")


def failing_in(hook: str, first: bool, trainer: Trainer, module: Reader) -> None:
    failing = Fails(hook)
    trainer.callbacks.insert(0 if first else 1, failing)
    fails(trainer, module)
    trainer.callbacks.remove(failing)


def failing_and_saving(trainer: Trainer, module: Reader) -> None:
    failing_in("on_train_start", False, trainer, module)
    trainer.save_checkpoint("saved.ckpt")


def no_optimizer(trainer: Trainer, module: Reader) -> None:
    make, module.configure_optimizers = module.configure_optimizers, lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.fit(module, data())
    module.configure_optimizers = make


def find_rate(trainer: Trainer, module: Reader) -> None:
    Tuner(trainer).lr_find(module, data(), num_training=4, update_attr=False)


BETWEEN: dict[str, Callable[[Trainer, Reader], None]] = {
    "a path with a typo": wrong_path,
    "an error in an earlier setup": partial(failing_in, "setup", True),
    "an error in a later setup": partial(failing_in, "setup", False),
    "an error in an earlier on_fit_start": partial(failing_in, "on_fit_start", True),
    "an error in a later on_fit_start": partial(failing_in, "on_fit_start", False),
    "an error in on_train_start": partial(failing_in, "on_train_start", False),
    "no optimizer": no_optimizer,
    "an error, and a checkpoint": failing_and_saving,
    "a finder": find_rate,
}


@pytest.mark.parametrize("name", GROWN)
def test_a_fit_goes_on_after_one_that_ended_before_its_first_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # finders save files
    expected, _ = twice(name, nothing)
    for words, between in BETWEEN.items():
        module, trainer = twice(name, between)
        assert trainer.current_epoch == 4
        assert same_state(module.state_dict(), expected.state_dict()), words


def test_weights_that_something_else_wrote_are_refused_again_and_again() -> None:
    def write(trainer: Trainer, module: Reader) -> None:
        with torch.no_grad():
            module.head.weight.mul_(2)
        for _ in range(2):
            with pytest.raises(MisconfigurationException, match="something has changed the weigh"):
                trainer.fit(module, data())

    with pytest.raises(MisconfigurationException, match="something has changed the weights since"):
        twice("RigL", write)


def test_a_checkpoint_after_a_failed_fit_has_the_state_of_the_one_before() -> None:
    learner, module = RigL(density=0.25), Reader()
    trainer = quiet_trainer(callbacks=[learner], max_epochs=1)
    trainer.fit(module, data())
    before = learner.state_dict()
    trainer.fit_loop.max_epochs = 2
    wrong_path(trainer, module)
    assert learner.state_dict()["rules"][0]["steps"] == before["rules"][0]["steps"] == 4


@pytest.mark.parametrize("first", [True, False])
def test_gates_go_on_with_a_finder_among_the_callbacks(
    first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ends = []
    for finds in (False, True):
        module, learner = Gated(), MaskConnect(lr=0.5)
        callbacks: list[Callback] = [learner]
        if finds:
            finder = LearningRateFinder(num_training_steps=4, update_attr=False)
            callbacks.insert(0 if first else 1, finder)
        trainer = quiet_trainer(callbacks=callbacks, max_epochs=1)
        trainer.fit(module, data())
        trainer.fit_loop.max_epochs = 2
        trainer.fit(module, data())
        ends.append(module.state_dict())
    assert same_state(*ends)
