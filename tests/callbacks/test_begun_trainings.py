"""A learner that begins in a training that others have begun, or ended, says what that means."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from tests.callbacks.reader import Gated, Reader, batches
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import (
    DNW,
    L1Anneal,
    MaskConnect,
    Phase,
    PhaseSchedule,
    PruneAndRetrain,
    WarmStart,
)

Make = Callable[[], Any]
LATE: dict[str, tuple[Make, str]] = {
    "DNW": (
        lambda: DNW(density=0.25, freeze_epoch=1),
        "the wiring is to be frozen when epoch 1 (from 0) starts",
    ),
    "MaskConnect": (
        lambda: MaskConnect(lr=0.5, freeze_epoch=1),
        "the wiring is to be frozen when epoch 1 (from 0) starts",
    ),
    "L1Anneal": (
        lambda: L1Anneal(density=0.25, freeze_epoch=1),
        "k edges are left from epoch 1 (from 0) on",
    ),
    "PruneAndRetrain": (
        lambda: PruneAndRetrain(1, density=0.25),
        "the network is pruned after 1 epoch, and then trains again",
    ),
}


def data() -> Any:
    return torch.utils.data.DataLoader(batches(4, torch.float32), batch_size=None)


def network(learner: Callback) -> Reader:
    return Gated() if isinstance(learner, MaskConnect) else Reader()


def said_in(trainer: Trainer, module: Reader, name: str, **kwargs: Any) -> list[str]:
    with warnings.catch_warnings(record=True, action="always") as said:
        trainer.fit(module, data(), **kwargs)
    return [str(one.message) for one in said if str(one.message).startswith(f"{name}: ")]


@pytest.mark.parametrize("name", LATE)
def test_a_network_that_comes_after_the_end_is_called_unfinished(name: str) -> None:
    make, reason = LATE[name]
    learner = make()
    trainer = quiet_trainer(callbacks=[learner], max_epochs=2)
    assert said_in(trainer, network(learner), name) == []
    expected = f"{name}: {reason}, but training ended after 2 epochs, before this callback began."
    assert said_in(trainer, network(learner), name) == [expected]


@pytest.mark.parametrize("name", LATE)
def test_so_it_is_after_a_finished_run_without_the_learner(name: str, tmp_path: Path) -> None:
    make, reason = LATE[name]
    learner = make()
    plain = quiet_trainer(max_epochs=2)
    plain.fit(Reader(), data())
    plain.save_checkpoint(tmp_path / "dense.ckpt")
    if name == "MaskConnect":
        return  # its network has no such checkpoint
    said = said_in(
        quiet_trainer(callbacks=[learner], max_epochs=2), network(learner), name,
        ckpt_path=tmp_path / "dense.ckpt", weights_only=True,
    )  # fmt: skip
    assert said == [
        f"{name}: {reason}, but training ended after 2 epochs, before this callback began."
    ]


def test_phases_that_are_over_say_that_a_later_network_is_not_frozen() -> None:
    phases = PhaseSchedule([Phase(1), Phase(1, freeze=True)])
    trainer = quiet_trainer(callbacks=[DNW(density=0.25), phases])
    assert said_in(trainer, Reader(), "PhaseSchedule") == []
    (said,) = said_in(trainer, Reader(), "PhaseSchedule")
    assert said.endswith("after 2 epochs, so the wiring is not frozen.")


@pytest.mark.parametrize("name", LATE)
def test_a_second_network_is_told_that_epochs_are_those_of_the_trainer(name: str) -> None:
    make, reason = LATE[name]
    learner = make()
    trainer = quiet_trainer(callbacks=[learner], max_epochs=2)
    trainer.fit(network(learner), data())
    trainer.fit_loop.max_epochs = 3
    (said,) = said_in(trainer, network(learner), name)
    assert said.startswith(f"{name}: it has no state of the 8 steps that this trainer has taken")
    assert f"; {reason}, but this callback begins in epoch 2, so that is due at once" in said


@pytest.mark.parametrize("phases_first", [True, False])
def test_so_it_is_with_a_phase_that_freezes(phases_first: bool) -> None:
    callbacks: list[Callback] = [DNW(density=0.25)]
    phases = PhaseSchedule([Phase(1), Phase(2, freeze=True)])
    callbacks.insert(0 if phases_first else 1, phases)
    trainer = quiet_trainer(callbacks=callbacks, limit_train_batches=2)
    trainer.fit(Reader(), data())
    trainer.fit_loop.max_epochs = 5  # of which the second phase has three
    (said,) = said_in(trainer, Reader(), "DNW")
    assert "the wiring is to be frozen when epoch 2 (from 0) starts, but this callback" in said


@pytest.mark.parametrize("make", [lambda: DNW(density=0.25), lambda: MaskConnect(lr=0.5)])
def test_a_new_learner_of_a_second_fit_says_that_it_begins_anew(make: Make) -> None:
    """As `configure_callbacks` makes one for every fit."""
    kind = Gated if isinstance(make(), MaskConnect) else Reader

    class Configures(kind):  # type: ignore[misc, valid-type]
        def configure_callbacks(self) -> list[Callback]:
            return [make()]

    name, module = type(make()).__name__, Configures()
    trainer = quiet_trainer(max_epochs=1)
    assert said_in(trainer, module, name) == []
    trainer.fit_loop.max_epochs = 2
    (said,) = said_in(trainer, module, name)
    assert said == (
        f"{name}: it has no state of the 4 steps that this trainer has taken, so it begins anew."
    )


def test_a_learner_that_was_in_another_trainer_meanwhile_says_so() -> None:
    learner, module = DNW(density=0.25), Reader()
    trainer = quiet_trainer(callbacks=[learner], max_epochs=1)
    trainer.fit(module, data())
    quiet_trainer(callbacks=[learner]).fit(Reader(), data())
    trainer.fit_loop.max_epochs = 2
    (said,) = said_in(trainer, module, "DNW")
    assert "so it begins anew" in said


@pytest.mark.parametrize("name", LATE)
def test_fits_that_go_on_or_resume_say_nothing_of_it(name: str, tmp_path: Path) -> None:
    make, _ = LATE[name]
    learner = make()
    module, trainer = network(learner), quiet_trainer(callbacks=[learner], max_epochs=2)
    trainer.fit(module, data())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    trainer.fit_loop.max_epochs = 3
    assert said_in(trainer, module, name) == []
    again = quiet_trainer(callbacks=[make()], max_epochs=3)
    saved = {"ckpt_path": tmp_path / "end.ckpt", "weights_only": True}
    assert said_in(again, network(learner), name, **saved) == []
    done = quiet_trainer(callbacks=[make()], max_epochs=2)
    assert said_in(done, network(learner), name, **saved) == []


def test_a_second_network_gets_the_weights_of_a_warm_start(tmp_path: Path) -> None:
    saved = Reader().state_dict()
    torch.save(saved, tmp_path / "start.pt")
    begins: list[bool] = []

    class Look(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            begins.append(same_state(pl_module.state_dict(), saved))

    trainer = quiet_trainer(callbacks=[WarmStart(str(tmp_path / "start.pt")), Look()])
    networks = [Reader(), Reader()]
    for number, module in enumerate([*networks, networks[0]], 1):
        if number <= 2:
            torch.nn.init.zeros_(module.head.weight)
        trainer.fit_loop.max_epochs = number
        trainer.fit(module, data())
    assert begins == [True, True, False]
