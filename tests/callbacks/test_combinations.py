"""Several learners in one trainer, one learner in several fits, and optimizers of all kinds."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.optim import LBFGS, SGD, Optimizer

from tests.callbacks.reader import Reader, batches
from tests.methods import METHODS, digits
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import (
    DNW,
    BudgetedSearch,
    L1Anneal,
    MaskConnect,
    Phase,
    PhaseSchedule,
    PruneAndRetrain,
    RandomEdges,
    TargetedDropout,
    WiringError,
    WiringMonitor,
)
from wiring_lightning.nn import find_gates

FABRIC = next(method for method in METHODS if method.name == "resnet-fabric")


def fit(*callbacks: Callback, module: LightningModule | None = None, **kwargs: Any) -> Any:
    module = module or Reader()
    data = torch.utils.data.DataLoader(batches(4, torch.float32), batch_size=None)
    resume = kwargs.pop("ckpt_path", None)
    trainer = quiet_trainer(callbacks=list(callbacks), **kwargs)
    trainer.fit(module, data, data if kwargs.get("limit_val_batches") else None,
                ckpt_path=resume, weights_only=True)  # fmt: skip
    return module


def count(layer: nn.Module) -> int:
    return int(layer.weight.count_nonzero())


def both() -> list[Callback]:
    return [
        DNW(density=0.5, layers=["body.1"]),
        DNW(density=0.1, layers=["head"]),
        RandomEdges(density=0.25, layers=["first"]),
    ]


def test_learners_of_other_layers_work_together_and_resume(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    whole = fit(*both(), saver, max_epochs=3, enable_checkpointing=True)
    assert [count(whole.body[1]), count(whole.head), count(whole.first)] == [576, 16, 18]
    resumed = fit(*both(), max_epochs=3, ckpt_path=tmp_path / "step=4.ckpt")
    assert same_state(whole.state_dict(), resumed.state_dict())


@pytest.mark.parametrize(
    "callbacks",
    [
        [DNW(density=0.5, layers=["body.1"]), DNW(density=0.1, layers=["Conv2d"])],
        [DNW(density=0.5), RandomEdges(density=0.1, layers=["head"])],
        [L1Anneal(density=0.5), TargetedDropout(density=0.1)],
    ],
)
def test_two_learners_of_the_same_weights_are_refused(callbacks: list[Callback]) -> None:
    with pytest.raises(MisconfigurationException, match="learns the wiring of the same"):
        fit(*callbacks, max_epochs=2)


def test_two_schedules_two_monitors_and_two_learners_of_gates_are_refused() -> None:
    class OtherMonitor(WiringMonitor):
        @property
        def state_key(self) -> str:
            return "other"

    class OtherMaskConnect(MaskConnect):
        @property
        def state_key(self) -> str:
            return "other"

    pairs = [
        [PhaseSchedule([Phase(1)]), PhaseSchedule([Phase(2)])],
        [WiringMonitor(), OtherMonitor()],
        [MaskConnect(), OtherMaskConnect()],
    ]
    for first, second in pairs:
        learner = [] if isinstance(first, MaskConnect) else [MaskConnect()]
        trainer = quiet_trainer(callbacks=[*learner, first, second])
        with pytest.raises(MisconfigurationException, match="more than one"):
            trainer.fit(METHODS[0].task(), digits())


AGAIN: dict[str, Callable[[], Callback]] = {
    "DNW": lambda: DNW(density=0.25, freeze_epoch=1),
    "RandomEdges": lambda: RandomEdges(density=0.25),
    "L1Anneal": lambda: L1Anneal(density=0.25),
    "TargetedDropout": lambda: TargetedDropout(0.5, density=0.25, freeze_epoch=1),
    "PruneAndRetrain": lambda: PruneAndRetrain(1, density=0.25),
    "lottery ticket": lambda: PruneAndRetrain(1, rewind=True, density=0.25),
}


class Fails(Reader):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.current_epoch == 1 and batch_idx == 2:
            raise RuntimeError("out of memory")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("name", AGAIN)
def test_a_second_fit_with_one_callback_is_as_the_first(name: str, failing: bool) -> None:
    callback = AGAIN[name]()
    if failing:
        with pytest.raises(RuntimeError, match="out of memory"):
            fit(callback, module=Fails(), max_epochs=3)
    else:
        fit(callback, max_epochs=3)
    second = fit(callback, max_epochs=3)
    alone = fit(AGAIN[name](), max_epochs=3)
    assert same_state(second.state_dict(), alone.state_dict())
    assert count(second.body[1]) == 288


@pytest.mark.parametrize("make", [MaskConnect, lambda: MaskConnect(freeze_epoch=0)])
def test_a_second_fit_of_gates_is_as_the_first(make: Callable[[], Callback]) -> None:
    def train(callback: Callback, monitor: WiringMonitor) -> dict[str, Any]:
        torch.manual_seed(0)
        task = METHODS[0].task()
        callbacks = [callback, monitor]
        quiet_trainer(callbacks=callbacks, limit_train_batches=4).fit(task, digits())
        return {**task.state_dict(), **monitor._edges}

    callback, monitor = make(), WiringMonitor(pictures=False)
    first = train(callback, monitor)
    assert same_state(train(callback, monitor), first)


def test_a_second_search_is_as_the_first() -> None:
    def train(callback: Callback) -> dict[str, Any]:
        torch.manual_seed(0)
        task = FABRIC.task()
        quiet_trainer(callbacks=[callback], limit_train_batches=4).fit(task, digits())
        return task.state_dict()

    callback = BudgetedSearch(budget=1e5, lr=0.3)
    first = train(callback)
    assert same_state(train(callback), first)


def test_a_run_does_not_resume_with_another_number_of_edges(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, save_last=True)
    fit(DNW(density=0.25), saver, max_epochs=1, enable_checkpointing=True)
    with pytest.raises(MisconfigurationException, match=r"saved with 18 edges in first, but 36"):
        fit(DNW(density=0.5), max_epochs=2, ckpt_path=tmp_path / "last.ckpt")


def test_lbfgs_moves_no_scores() -> None:
    class Task(METHODS[0].task().__class__):  # type: ignore[misc]
        def configure_optimizers(self) -> Optimizer:
            return LBFGS(self.parameters(), lr=0.1, max_iter=3)

    task = Task(METHODS[0].backbone(**METHODS[0].arguments))
    before = [gate.scores.detach().clone() for gate in find_gates(task).values()]
    trainer = quiet_trainer(callbacks=[MaskConnect(lr=0.0)], limit_train_batches=2)
    trainer.fit(task, digits())
    for gate, old in zip(find_gates(task).values(), before, strict=True):
        torch.testing.assert_close(gate.scores.detach(), old, atol=1e-6, rtol=0)


class Unfreezes(BaseFinetuning):
    """Trains the head first, and everything, scores included, from the second epoch on."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(list(pl_module.backbone.blocks.children()))
        self.freeze(list(pl_module.backbone.connections.children()))

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer) -> None:
        if epoch == 1:
            parts = [pl_module.backbone.blocks, pl_module.backbone.connections]
            self.unfreeze_and_add_param_group(parts, optimizer)


def test_scores_that_a_callback_adds_later_do_not_reach_the_users_optimizer() -> None:
    task = METHODS[0].task()
    callbacks = [MaskConnect(lr=0.5), Unfreezes()]
    for gate in find_gates(task).values():
        gate.scores.requires_grad_(True)
    trainer = quiet_trainer(callbacks=callbacks, max_epochs=2, limit_train_batches=3)
    trainer.fit(task, digits())
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    for gate in find_gates(task).values():
        assert id(gate.scores) not in held
        assert (gate.active.sum(1) == 2).all()


_profiled = Optimizer.profile_hook_step  # runs the hooks


class Fused(SGD):
    """Decides by itself whether a step is skipped, as a fused optimizer does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._step_supports_amp_scaling = True

    @_profiled
    def step(self, closure: Any = None) -> None:
        if closure is not None:
            closure()
        if not bool(self.found_inf):
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        step = parameter.grad / self.grad_scale
                        parameter.data.add_(step, alpha=-group["lr"])


@pytest.mark.parametrize("number", [0, 1])
def test_a_step_that_a_fused_optimizer_skips_changes_no_wiring(number: int) -> None:
    method = (METHODS[0], FABRIC)[number]

    class Overflow(type(method.task())):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            losses = super().training_step(batch, batch_idx)
            return {"loss": losses["loss"] * (math.inf if batch_idx == 1 else 1.0),
                    "losses": losses["losses"]}  # fmt: skip

    class Wirings(Callback):
        def __init__(self) -> None:
            self.seen: list[dict[str, Any]] = []

        def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
            self.seen.append({name: value.clone() for name, value in module.state_dict().items()
                              if name.endswith(("scores", "active", "logits"))})  # fmt: skip

    wirings = Wirings()
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    plugin.forward_context = lambda: torch.autocast("cpu", enabled=False)
    task = Overflow(method.backbone(**method.arguments), optimizer=lambda p: Fused(p, lr=0.05))
    trainer = quiet_trainer(
        callbacks=[*method.new_callbacks(), wirings], plugins=[plugin], limit_train_batches=4
    )
    trainer.fit(task, digits())
    assert same_state(wirings.seen[1], wirings.seen[0])
    assert not same_state(wirings.seen[2], wirings.seen[1])


class TwoPass(Optimizer):
    """Sharpness-aware minimization in two passes, as its users write it."""

    def __init__(self, parameters: Any, base: Any, rho: float = 0.05) -> None:
        super().__init__(parameters, {"rho": rho})
        self.base = base(self.param_groups)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.data.clone()
                p.add_(p.grad, alpha=0.05)

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old"]
        self.base.step()

    def step(self, closure: Any = None) -> Any:
        raise NotImplementedError


class Sharpness(Reader):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers().optimizer
        for step in (optimizer.first_step, optimizer.second_step):
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            step()

    def configure_optimizers(self) -> Optimizer:
        return TwoPass(self.parameters(), lambda groups: SGD(groups, lr=0.1))


class Averaging(SGD):
    """A schedule-free optimizer: its weights are others in evaluation, between its steps."""

    def eval(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data.add_(0.01)


class ScheduleFree(Reader):
    def on_train_epoch_end(self) -> None:
        self.optimizers().optimizer.eval()

    def configure_optimizers(self) -> Optimizer:
        return Averaging(self.parameters(), lr=0.1)


@pytest.mark.parametrize("module", [Sharpness, ScheduleFree])
@pytest.mark.parametrize("learner", [lambda: DNW(density=0.25), lambda: RandomEdges(density=0.25)])
def test_weights_that_move_outside_of_a_step_end_in_one_sentence(
    module: Any, learner: Callable[[], Callback]
) -> None:
    with pytest.raises(WiringError, match=r"first has \d+ of 72 weights, not 18.*outside of the"):
        fit(learner(), module=module())
