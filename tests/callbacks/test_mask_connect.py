"""MaskConnect in LightningModules that know nothing of this package."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from tests.trainers import quiet_trainer, same_state
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.callbacks import MaskConnect, Phase, PhaseSchedule
from wiring_lightning.nn import Gate, find_gates

STEPS = 10  # in an epoch


class Net(nn.Module):
    """Two layers of units, with a gate before each unit of the second and of the last one."""

    def __init__(self, features: int = 5, classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(features, 4 * 6)
        self.gate = Gate(4, 4, 2)
        self.second = nn.Linear(6, 6)
        self.last = Gate(2, 4, 1)
        self.head = nn.Linear(2 * 6, classes)

    def forward(self, x: Tensor) -> Tensor:
        units = torch.tanh(self.first(x).unflatten(1, (4, 6)))
        units = torch.tanh(self.second(self.gate(units)))
        return self.head(self.last(units).flatten(1))


class Foreign(LightningModule):
    """AdamW with a group for the head, one for the scores alone, and a schedule by step."""

    def __init__(self, net: nn.Module | None = None, lr: float = 0.05) -> None:
        super().__init__()
        self.net = net or Net()
        self.lr = lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return loss_of(self.net, batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("loss", loss_of(self.net, batch))

    test_step = validation_step

    def configure_optimizers(self) -> dict[str, Any]:
        scores = {gate.scores for gate in self.net.modules() if isinstance(gate, Gate)}
        optimizer = AdamW([*weight_groups(self.net, self.lr), {"params": list(scores), "lr": 9.0}])
        scheduler = StepLR(optimizer, 4, gamma=0.5)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


class SelfMade(Foreign):
    """Brings its own optimizer, which outlives a fit."""

    def __init__(self, make: Callable[..., Optimizer] = SGD, **settings: Any) -> None:
        super().__init__()
        self.made = make(self.net.parameters(), **{"lr": 0.05, **settings})

    def configure_optimizers(self) -> Optimizer:
        return self.made


class Snapshots(Callback):
    """The module's state after every batch."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.states.append(copy_of(pl_module))


def loss_of(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


def weight_groups(net: nn.Module, lr: float) -> list[dict[str, Any]]:
    """The weights without the scores, with another rate and decay for the head."""
    weights = {name: p for name, p in net.named_parameters() if not name.endswith("scores")}
    head = [weight for name, weight in weights.items() if name.startswith("head")]
    body = [weight for name, weight in weights.items() if not name.startswith("head")]
    return [
        {"params": body, "lr": lr, "weight_decay": 0.3},
        {"params": head, "lr": 2 * lr, "weight_decay": 0.0},
    ]


def batches(steps: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(8, 5, generator=generator),
            torch.randint(0, 3, (8,), generator=generator),
        )
        for _ in range(steps)
    ]


def loader(steps: int = STEPS) -> DataLoader[Any]:
    images, labels = zip(*batches(steps), strict=True)
    return DataLoader(TensorDataset(torch.cat(images), torch.cat(labels)), batch_size=8)


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def differs(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
    assert first.keys() == second.keys()
    return {name for name, value in first.items() if not torch.equal(value, second[name])}


def gates_of(module: nn.Module) -> list[Gate]:
    return list(find_gates(module).values())


def fit(module: LightningModule, *callbacks: Callback, **settings: Any) -> Trainer:
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    trainer.fit(module, loader(), ckpt_path=ckpt_path)
    return trainer


def update_and_draw(gates: list[Gate], lr: float, seed: int, step: int) -> None:
    """Algorithm 1 in a few lines: clip(scores - lr * gradient), normalise, write back, draw."""
    with torch.no_grad():
        scores = torch.cat([gate.scores - lr * gate.scores.grad for gate in gates]).clamp(0, 1)
        scores = scores / scores.sum(1, keepdim=True)
        generator = torch.Generator()
        generator.manual_seed((seed * 0x9E3779B97F4A7C15 + step) & (2**63 - 1))
        noise = torch.empty_like(scores).exponential_(generator=generator)
        keys = torch.where(scores > 0, scores.log(), -1e4) - noise.log()
        start = 0
        for gate in gates:
            rows = slice(start, start + gate.targets)
            gate.scores.copy_(scores[rows])
            gate.active.zero_()
            best = keys[rows].topk(gate.fan_in).indices
            gate.active.scatter_(1, best, torch.ones_like(best, dtype=torch.bool))
            gate.scores.grad = None
            start += gate.targets


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


def test_a_foreign_module_resumes_bit_identical(tmp_path: Path) -> None:
    def run(resume: str | None) -> tuple[dict[str, Tensor], MaskConnect]:
        torch.manual_seed(1 if resume else 0)
        module, learner = Foreign(), MaskConnect(lr=0.5, seed=4)
        saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
        callbacks = [learner] if resume else [learner, saver]
        fit(module, *callbacks, max_epochs=2, ckpt_path=resume, enable_checkpointing=not resume)
        return copy_of(module), learner

    whole, first = run(None)
    resumed, second = run(str(tmp_path / "epoch=0.ckpt"))
    assert same_state(whole, resumed)
    assert first.state_dict() == second.state_dict()
    assert second.optimizer.group["steps"] == 2 * STEPS


def test_the_state_is_restored_from_the_checkpoint(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "last")
    fit(Foreign(), MaskConnect(lr=0.25, seed=9), saver, enable_checkpointing=True)
    learner = MaskConnect(lr=0.9, seed=1)
    fit(Foreign(), learner, max_epochs=1, ckpt_path=str(tmp_path / "last.ckpt"))  # no step left
    group = learner.optimizer.group
    assert (group["lr"], group["seed"], group["steps"]) == (0.25, 9, STEPS)


class BuiltLate(Foreign):
    """Has no network before `configure_model`."""

    def __init__(self) -> None:
        LightningModule.__init__(self)
        self.lr = 0.05
        self.net: Any = None

    def configure_model(self) -> None:
        if self.net is None:
            torch.manual_seed(7)
            self.net = Net()


def test_a_network_that_is_built_in_configure_model_learns_and_resumes(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    late, resumed = BuiltLate(), BuiltLate()
    fit(late, MaskConnect(lr=0.5), saver, max_epochs=2, enable_checkpointing=True)
    fit(resumed, MaskConnect(lr=0.5), max_epochs=2, ckpt_path=str(tmp_path / "epoch=0.ckpt"))
    torch.manual_seed(7)
    early = Foreign(Net())
    uniform = copy_of(early)
    fit(early, MaskConnect(lr=0.5), max_epochs=2)
    assert same_state(late.state_dict(), early.state_dict())
    assert same_state(late.state_dict(), resumed.state_dict())
    assert {"net.gate.scores", "net.last.scores"} <= differs(uniform, copy_of(late))


class Adversaries(LightningModule):
    """Two networks with gates and opposed losses, trained by hand."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.style = style
        self.maker, self.judge = Net(classes=5), Net(classes=2)

    def losses(self, batch: tuple[Tensor, Tensor], turn: int) -> Tensor:
        real, target = batch[0], torch.zeros(len(batch[0]), dtype=torch.long)
        made = self.maker(real.flip(0))
        if turn == 0:
            return nn.functional.cross_entropy(self.judge(made), target)
        judged = self.judge(torch.cat([real, made]))  # `made` is not detached
        return nn.functional.cross_entropy(judged, torch.cat([target, target + 1]))

    def steps_now(self, turn: int, batch_idx: int) -> bool:
        """The judge may collect the gradients of two batches."""
        return turn == 0 or batch_idx % 2 == 1 or self.style != "toggle, judge accumulates"

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        for turn, optimizer in enumerate(self.optimizers()):
            if self.style == "zero before":
                optimizer.zero_grad()
                self.manual_backward(self.losses(batch, turn))
                optimizer.step()
                continue
            self.toggle_optimizer(optimizer)
            self.manual_backward(self.losses(batch, turn))
            if self.steps_now(turn, batch_idx):
                optimizer.step()
                optimizer.zero_grad(set_to_none=self.style != "toggle, zeros")
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> list[Optimizer]:
        return [
            AdamW(self.maker.parameters(), lr=0.01),
            SGD(self.judge.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1),
        ]


def play_by_hand(module: Adversaries, gate_lr: float) -> None:
    """Every player's weights and gates follow its own loss only."""
    players = (module.maker, module.judge)
    scores = [[gate.scores for gate in gates_of(player)] for player in players]
    weights = [
        [p for name, p in player.named_parameters() if not name.endswith("scores")]
        for player in players
    ]
    optimizers = [
        AdamW(weights[0], lr=0.01),
        SGD(weights[1], lr=0.05, momentum=0.9, weight_decay=0.1),
    ]
    module.zero_grad()
    step = 0
    for batch_idx, batch in enumerate(batches()):
        for turn, optimizer in enumerate(optimizers):
            everything = [*weights[turn], *scores[turn]]
            gradients = torch.autograd.grad(module.losses(batch, turn), everything)
            for parameter, gradient in zip(everything, gradients, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            if module.steps_now(turn, batch_idx):
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                update_and_draw(gates_of(players[turn]), gate_lr, 0, step)


@pytest.mark.parametrize(
    "style", ["zero before", "toggle", "toggle, zeros", "toggle, judge accumulates"]
)
def test_two_players_under_manual_optimization_learn_from_their_own_loss(style: str) -> None:
    module = Adversaries(style)
    start = copy_of(module)
    fit(module, MaskConnect(lr=0.3))
    learned = copy_of(module)
    module.load_state_dict(start)
    play_by_hand(module, gate_lr=0.3)
    assert {"maker.gate.scores", "judge.last.scores"} <= differs(start, learned)
    assert same_state(learned, module.state_dict())


class AccumulatesByHand(Foreign):
    """Zeroes and steps after every second batch only; the scores may have their own optimizer."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.apart = apart

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.manual_backward(loss_of(self.net, batch) / 2)
        if batch_idx % 2:
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

    def configure_optimizers(self) -> list[Optimizer]:
        named = list(self.net.named_parameters())
        first = [p for name, p in named if name.endswith("weight")]
        scores = [p for name, p in named if name.endswith("scores")]
        biases = [p for name, p in named if name.endswith("bias")]
        rest = [scores, biases] if self.apart else [[*scores, *biases]]
        return [SGD(parameters, lr=0.1) for parameters in (first, *rest)]


@pytest.mark.parametrize("apart", [True, False])
def test_gradients_that_are_accumulated_by_hand_are_not_lost(apart: bool) -> None:
    torch.manual_seed(0)
    by_hand = AccumulatesByHand(apart)
    torch.manual_seed(0)
    automatic = SelfMade(lr=0.1)
    snapshots = Snapshots()
    fit(by_hand, MaskConnect(lr=0.5), snapshots)
    fit(automatic, MaskConnect(lr=0.5), accumulate_grad_batches=2)
    for name, value in automatic.state_dict().items():
        torch.testing.assert_close(by_hand.state_dict()[name], value)
    scores = [state["net.gate.scores"] for state in snapshots.states]
    assert torch.equal(scores[1], scores[2])
    assert not torch.equal(scores[2], scores[3])


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


class WithoutScores(Foreign):
    """An optimizer that was never given the scores."""

    def configure_optimizers(self) -> Optimizer:
        return AdamW(weight_groups(self.net, self.lr))


def test_scores_that_no_optimizer_holds_learn_as_well() -> None:
    module = WithoutScores()
    start = copy_of(module)
    fit(module, MaskConnect())
    assert {"net.gate.scores", "net.last.scores"} <= differs(start, copy_of(module))


def test_the_wiring_is_fixed_from_the_freeze_epoch_on() -> None:
    module, snapshots, learner = Foreign(), Snapshots(), MaskConnect(lr=0.7, freeze_epoch=1)
    fit(module, learner, snapshots, max_epochs=3)
    wired = [name for name in snapshots.states[0] if "gate." in name or "last." in name]
    before, after = snapshots.states[STEPS - 1], snapshots.states[STEPS:]
    assert not before["net.gate.frozen"]
    for name in ("net.gate.scores", "net.last.scores"):
        assert torch.equal(after[0][name], before[name])
    for state in after:
        assert not {name for name in differs(state, after[0]) if name in wired}
    for gate in gates_of(module):
        best = gate.scores.topk(gate.fan_in).indices.sort().values
        drawn = [row.nonzero().flatten().tolist() for row in gate.active]
        assert drawn == best.tolist()
        assert gate.frozen
        assert not gate.scores.requires_grad
        assert gate.scores.grad is None
    assert "net.second.weight" in differs(after[0], after[-1])
    assert learner.optimizer.group["steps"] == STEPS


def test_a_freeze_at_epoch_zero_learns_nothing() -> None:
    module, learner = Foreign(), MaskConnect(freeze_epoch=0)
    scores = [gate.scores.detach().clone() for gate in gates_of(module)]
    fit(module, learner)
    for gate, old in zip(gates_of(module), scores, strict=True):
        assert gate.frozen
        assert torch.equal(gate.scores, old)


@pytest.mark.parametrize("callbacks", [(), (MaskConnect,)], ids=["alone", "with the callback"])
def test_a_frozen_wiring_is_fine_tuned_as_it_is(callbacks: tuple[Any, ...], tmp_path: Path) -> None:
    trained = Foreign()
    fit(trained, MaskConnect(lr=0.7, freeze_epoch=0))
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    module = SelfMade(AdamW, weight_decay=0.5)
    module.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    learners = [make(lr=0.9) for make in callbacks]
    fit(module, *learners)
    changed = differs(trained.state_dict(), copy_of(module))
    assert changed == {name for name, _ in module.named_parameters() if "scores" not in name}
    assert all(learner.optimizer.group["steps"] == 0 for learner in learners)


@pytest.mark.parametrize("shared", [True, False], ids=["same optimizer", "new optimizer"])
def test_the_same_callback_serves_two_fits(shared: bool) -> None:
    module: LightningModule = SelfMade() if shared else Foreign()
    learner = MaskConnect(lr=0.5)
    for _ in range(2):
        start = copy_of(module)
        trainer = fit(module, learner)
        assert learner.optimizer.group["steps"] == STEPS  # and not twice that
        assert "net.gate.scores" in differs(start, copy_of(module))
        assert not trainer.optimizers[0]._optimizer_step_post_hooks


def test_a_fit_that_continues_on_the_same_trainer_learns_on() -> None:
    module, learner = SelfMade(), MaskConnect(lr=0.5)
    trainer = quiet_trainer(callbacks=[learner], max_epochs=1)
    trainer.fit(module, loader())
    middle = copy_of(module)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader())
    assert "net.gate.scores" in differs(middle, copy_of(module))


class Fails(Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            raise self.error


def test_hooks_are_gone_after_an_error() -> None:
    module, learner = SelfMade(), MaskConnect()
    with pytest.raises(ZeroDivisionError):
        fit(module, learner, Fails(ZeroDivisionError()))
    assert not module.made._optimizer_step_post_hooks
    fit(module, learner)
    assert learner.optimizer.group["steps"] == STEPS


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
        ({"lr": -0.1}, "lr must be a number from 0 up, got -0.1"),
        ({"lr": float("nan")}, "lr must be a number from 0 up, got nan"),
        ({"freeze_epoch": -1}, "freeze_epoch must not be negative, got -1"),
    ],
)
def test_bad_arguments_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(MisconfigurationException, match=named):
        MaskConnect(**settings)


def test_two_of_the_same_are_refused() -> None:
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `MaskConnect`"):
        quiet_trainer(callbacks=[MaskConnect(), MaskConnect()])
