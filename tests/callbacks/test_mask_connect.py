"""MaskConnect in LightningModules that know nothing of this package."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import StepLR

from tests.callbacks.foreign_module import (
    STEPS,
    Foreign,
    Net,
    SelfMade,
    Snapshots,
    WithoutScores,
    batches,
    copy_of,
    differs,
    fit,
    gates_of,
    loader,
    loss_of,
    update_and_draw,
    weight_groups,
)
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.callbacks import DNW, MaskConnect, Phase, PhaseSchedule, WiringMonitor
from wiring_lightning.nn import Gate
from wiring_lightning.optim import GateSGD


def plain_loop(net: nn.Module, lr: float, gate_lr: float, seed: int) -> list[dict[str, Tensor]]:
    """What a foreign module with MaskConnect has to do, without any of this package's machinery."""
    optimizer = AdamW(weight_groups(net, lr))
    scheduler = StepLR(optimizer, 4, gamma=0.5)
    states = []
    for step, batch in enumerate(batches(), start=1):
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()
        update_and_draw([net.gate, net.last], gate_lr, seed, step)
        scheduler.step()
        states.append(copy_of(net))
    return states


def test_ten_steps_are_those_of_a_plain_loop_bit_by_bit() -> None:
    torch.manual_seed(3)
    net = Net()
    start = copy_of(net)
    snapshots = Snapshots()
    fit(Foreign(net), MaskConnect(lr=0.7, seed=11), snapshots)
    net.load_state_dict(start)
    expected = plain_loop(net, lr=0.05, gate_lr=0.7, seed=11)
    assert len(expected) == STEPS
    for ours, theirs in zip(snapshots.states, expected, strict=True):
        assert same_state({name.removeprefix("net."): v for name, v in ours.items()}, theirs)
    # And the comparison was about something: scores, wiring and weights all moved.
    moved = differs(start, expected[-1])
    assert moved == {name for name in start if not name.endswith("frozen")}


def test_the_scores_are_not_in_the_optimizer_that_is_saved(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "last")
    trainer = fit(Foreign(), MaskConnect(), saver, enable_checkpointing=True)
    (optimizer,) = torch.load(tmp_path / "last.ckpt", weights_only=True)["optimizer_states"]
    weights = [name for name, _ in Net().named_parameters() if not name.endswith("scores")]
    assert [len(group["params"]) for group in optimizer["param_groups"]] == [4, 2, 0]
    assert len(optimizer["state"]) == len(weights) == 6
    (live,) = trainer.optimizers
    scores = {gate.scores for gate in gates_of(trainer.lightning_module)}
    assert not scores & {p for group in live.param_groups for p in group["params"]}


class FreezesWeights(Callback):
    """After the first epoch only the wiring learns."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, parameter in pl_module.named_parameters():
            parameter.requires_grad_(trainer.current_epoch == 0 or name.endswith("scores"))


def test_gates_learn_beside_weights_that_are_frozen() -> None:
    module, snapshots = Foreign(), Snapshots()
    fit(module, MaskConnect(lr=0.5), FreezesWeights(), snapshots, max_epochs=2)
    first, last = snapshots.states[STEPS], snapshots.states[-1]
    assert {"net.gate.scores", "net.last.scores"} <= differs(first, last)
    assert not [name for name in differs(first, last) if name.endswith("weight")]


def test_scores_that_no_optimizer_holds_learn_as_well() -> None:
    module = WithoutScores()
    start = copy_of(module)
    fit(module, MaskConnect())
    assert {"net.gate.scores", "net.last.scores"} <= differs(start, copy_of(module))


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_other_stages_leave_everything_alone(stage: str, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "last")
    trained = Foreign()
    fit(trained, MaskConnect(lr=0.4), saver, enable_checkpointing=True)
    module, learner = Foreign(), MaskConnect(lr=0.1, seed=5)
    trainer = quiet_trainer(callbacks=[learner], limit_val_batches=2, limit_test_batches=2)
    run = getattr(trainer, stage)
    (untrained,) = run(module, loader(), verbose=False)
    (measured,) = run(module, loader(), verbose=False, ckpt_path=str(tmp_path / "last.ckpt"))
    assert measured["loss"] != untrained["loss"]
    assert same_state(module.state_dict(), trained.state_dict())
    # What the checkpoint knew of its own run is not for a fit that starts afresh.
    fit(module, learner)
    group = learner.optimizer.group
    assert (group["lr"], group["seed"], group["steps"]) == (0.1, 5, STEPS)


def test_validation_inside_a_fit_sees_the_best_wiring_and_changes_nothing() -> None:
    class Watches(Callback):
        def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.before = copy_of(pl_module)

        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert same_state(self.before, pl_module.state_dict())
            for gate in gates_of(pl_module):
                assert torch.equal(gate.weights().detach(), gate.best.float())

    module, watches = Foreign(), Watches()
    trainer = quiet_trainer(callbacks=[MaskConnect(), watches], limit_val_batches=2)
    trainer.fit(module, loader(), loader())
    assert watches.before


def test_gates_of_several_networks_learn_together_with_phases() -> None:
    """A module with no base class of ours, an optimizer of its own, and phases from the outside."""
    module, snapshots = SelfMade(AdamW), Snapshots()
    phases = [Phase(1, lr=0.01, gate_lr=0.5), Phase(1, lr=0.001, freeze=True)]
    trainer = fit(module, PhaseSchedule(phases), MaskConnect(), snapshots, max_epochs=2)
    assert trainer.current_epoch == 2
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.001
    learning, frozen = snapshots.states[:STEPS], snapshots.states[STEPS:]
    assert not torch.equal(learning[0]["net.gate.scores"], learning[-1]["net.gate.scores"])
    assert torch.equal(frozen[0]["net.gate.scores"], frozen[-1]["net.gate.scores"])
    assert all(gate.frozen for gate in gates_of(module))


@pytest.mark.parametrize("wiring", ["random", "full"])
def test_there_must_be_a_gate_to_learn(wiring: str) -> None:
    network = ResNeXt(11, 1, 4, 2, num_classes=3, in_channels=1, image_size=8, wiring=wiring)
    with pytest.raises(MisconfigurationException, match="found no gate to learn in Foreign"):
        fit(Foreign(network), MaskConnect())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"lr": -0.1}, "lr must be from 0 up, got -0.1"),
        ({"lr": float("nan")}, "lr must be from 0 up, got nan"),
        ({"freeze_epoch": -1}, "freeze_epoch must be at least 0, got -1"),
        ({"freeze_epoch": 1.5}, "freeze_epoch must be a whole number, got 1.5"),
    ],
)
def test_bad_arguments_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(MisconfigurationException, match=named):
        MaskConnect(**settings)


def test_two_of_the_same_are_refused() -> None:
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `MaskConnect`"):
        quiet_trainer(callbacks=[MaskConnect(), MaskConnect()])


@pytest.mark.parametrize("parts", [["gate"], ["gate", "last"]])
def test_gates_whose_scores_take_no_gradient_are_named_and_stay(parts: list[str]) -> None:
    module, snapshots = Foreign(), Snapshots()
    for part in parts:
        module.net.get_submodule(part).requires_grad_(False)
    before = copy_of(module)
    learner = MaskConnect(lr=0.5, freeze_epoch=1)
    named = ", ".join(f"net.{part}" for part in parts)
    with pytest.warns(UserWarning, match=f"MaskConnect: {named} stay as they are, because their"):
        fit(module, learner, snapshots, max_epochs=2)
    learned = differs(before, snapshots.states[STEPS - 1])
    assert ("net.last.scores" in learned) == ("last" not in parts)
    assert not [name for name in learned if any(name.startswith(f"net.{part}.") for part in parts)]
    # The freeze is for all gates: the mark, the callback, and what training uses agree.
    assert learner.frozen
    for gate in gates_of(module):
        assert bool(gate.frozen)
        assert torch.equal(gate.active, gate.best)


def test_gates_that_learn_are_not_named(recwarn: pytest.WarningsRecorder) -> None:
    fit(Foreign(), MaskConnect(lr=0.5), max_steps=1)
    assert not any("gradient" in str(one.message) for one in recwarn)


@pytest.mark.parametrize("freeze_epoch", [None, 1])
def test_gates_that_no_gradient_has_reached_are_named(
    freeze_epoch: int | None, recwarn: pytest.WarningsRecorder
) -> None:
    module = Foreign()
    module.net.unused = Gate(4, 4, 2)
    module.net.whole = Gate(4, 4, 4)  # has nothing to learn
    fit(module, MaskConnect(freeze_epoch=freeze_epoch), max_epochs=2, limit_train_batches=1)
    (said,) = [text for one in recwarn if "gradient" in (text := str(one.message))]
    assert said.startswith("MaskConnect: no gradient has reached net.unused in this fit")


class ByHand(Foreign):
    """Steps a `GateSGD` of its own, beside an optimizer of the weights."""

    automatic_optimization = False

    def configure_optimizers(self) -> Any:
        self.automatic_optimization = False
        return [AdamW(weight_groups(self.net, self.lr)), GateSGD(gates_of(self.net), lr=0.5)]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss_of(self.net, batch))
        for optimizer in self.optimizers():
            optimizer.step()


def some_callback(name: str) -> Callback:
    if name == "DNW":
        return DNW(density=0.5)
    return PhaseSchedule([Phase(1)]) if name == "PhaseSchedule" else WiringMonitor()


@pytest.mark.parametrize("name", ["DNW", "PhaseSchedule", "WiringMonitor"])
def test_gates_that_the_users_optimizer_would_move_are_refused(name: str) -> None:
    """After a fit with MaskConnect, too."""
    module = Foreign()
    fit(module, MaskConnect(), max_steps=1)
    before = copy_of(module)
    with pytest.raises(
        MisconfigurationException,
        match=r"learned wiring \(2 layers\), but no callback learns it.* add MaskConnect",
    ):
        fit(module, some_callback(name))
    assert not differs(before, copy_of(module))


@pytest.mark.parametrize("name", ["DNW", "PhaseSchedule", "WiringMonitor"])
def test_gates_that_it_does_not_move_are_the_users_own_affair(name: str) -> None:
    frozen, no_gradient = Foreign(), Foreign()
    for gate in gates_of(frozen):
        gate.freeze()
    for gate in gates_of(no_gradient):
        gate.requires_grad_(False)
    for module in (frozen, no_gradient, WithoutScores(), ByHand()):
        fit(module, some_callback(name), limit_train_batches=1)


class Late(Foreign):
    """Its network is built by `setup`, which Lightning calls after that of the callbacks."""

    def __init__(self) -> None:
        super().__init__()
        del self.net

    def setup(self, stage: str) -> None:
        if not hasattr(self, "net"):
            torch.manual_seed(3)
            self.net = Net()


def test_a_network_that_setup_builds_learns_and_resumes_as_any_other(tmp_path: Path) -> None:
    torch.manual_seed(3)
    early, late = Foreign(Net()), Late()
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    settings: dict[str, Any] = {"max_epochs": 2, "enable_checkpointing": True}
    fit(early, MaskConnect(lr=0.7, freeze_epoch=1), **settings)
    fit(late, MaskConnect(lr=0.7, freeze_epoch=1), saver, **settings)
    assert same_state(copy_of(early), copy_of(late))
    resumed = Late()
    fit(
        resumed,
        MaskConnect(lr=0.7, freeze_epoch=1),
        max_epochs=2,
        ckpt_path=tmp_path / "epoch=0.ckpt",
    )
    assert same_state(copy_of(early), copy_of(resumed))


def test_with_ddp_the_gates_must_be_there_before_setup() -> None:
    trainer = quiet_trainer(strategy="ddp", callbacks=[MaskConnect()])
    with pytest.raises(MisconfigurationException, match="`setup` of Late builds the network: with"):
        trainer.callbacks[0].setup(trainer, Late(), "fit")
    module = Foreign()
    trainer.callbacks[0].setup(trainer, module, "fit")
    assert module._ddp_params_and_buffers_to_ignore == ["net.gate.scores", "net.last.scores"]
