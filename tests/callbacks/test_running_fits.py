"""What happens to learners in the middle of a fit: raw optimizers, and states that are loaded."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import cycle
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional
from torch.optim import LBFGS, SGD, Optimizer
from torch.utils.data import DataLoader

from tests.callbacks.foreign_module import Foreign, SelfMade, fit as foreign_fit, loader
from tests.callbacks.reader import Batch, Reader, batches, fit
from tests.callbacks.tiny_super_network import fit as search_fit, new_module, new_search
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import (
    ACDC,
    DNW,
    SET,
    SNIP,
    GradualPruning,
    L1Anneal,
    MaskConnect,
    NMSparsity,
    RigL,
    TargetedDropout,
    WiringError,
)

LEARNERS: dict[str, Callable[[], Any]] = {
    "L1Anneal": partial(L1Anneal, 0.05, density=0.2),
    "NMSparsity": partial(NMSparsity, decay=0.3),
    "RigL": partial(RigL, density=0.25, delta_t=2),
    "SET": partial(SET, density=0.25, every=2),
    "ACDC": partial(ACDC, density=0.25, every=1),
    "GradualPruning": partial(GradualPruning, density=0.25, every=2),
    "SNIP": partial(SNIP, density=0.25),
    "TargetedDropout": partial(TargetedDropout, density=0.25),
    "DNW": partial(DNW, density=0.25),
}


class Manual(Reader):
    """Steps its optimizer itself: the one of Lightning, or the one that it wraps."""

    def __init__(self, wrapped: bool, closure: bool = False, make: Any = None) -> None:
        super().__init__(make or partial(SGD, lr=0.05, momentum=0.9))
        self.automatic_optimization = False
        self.wrapped, self.closure = wrapped, closure

    def training_step(self, batch: Batch, index: int) -> None:
        optimizer: Any = self.optimizers(use_pl_optimizer=self.wrapped)

        def closure() -> Tensor:
            loss = functional.cross_entropy(self(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            return loss

        if self.closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()


# The wrapper is the same for all of them.
@pytest.mark.parametrize(("name", "closure"), zip(LEARNERS, cycle([False, True]), strict=False))
def test_an_optimizer_without_lightnings_wrapper_takes_the_same_steps(
    name: str, closure: bool
) -> None:
    ends = []
    for wrapped in (True, False):
        module, _ = fit(LEARNERS[name](), Manual(wrapped, closure), steps=4, max_epochs=2)
        ends.append(list(module.parameters()))
    assert all(map(torch.equal, *ends))


def test_a_closure_that_is_called_often_is_followed_each_time() -> None:
    make = partial(LBFGS, lr=0.1, max_iter=4)
    ends = []
    for wrapped in (True, False):
        learner = NMSparsity(decay=0.3)
        module, _ = fit(learner, Manual(wrapped, True, make), steps=2, max_epochs=1)
        ends.append(list(module.parameters()))
    assert all(map(torch.equal, *ends))


def test_gradients_change_once_and_before_clipping() -> None:
    """The norm that Lightning clips is that of the present weights, and there is one penalty."""
    norms, calls = list[float](), list[int]()

    class Counted(L1Anneal):
        def before_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
            super().before_step(trainer, optimizer)
            calls.append(trainer.global_step)

    class Clips(Reader):
        def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
            masked = [p.grad for p in self.parameters() if p.dim() > 1]
            norms.append(
                max(float(g[w == 0].abs().sum()) for g, w in zip(masked, self.weights, strict=True))
            )

        @property
        def weights(self) -> list[Tensor]:
            return [p for p in self.parameters() if p.dim() > 1]

    fit(Counted(0.01, density=0.1, freeze_epoch=0), Clips(), steps=3, max_epochs=2)
    assert norms == [0.0] * 6
    assert calls == list(range(6))


class Rewind(Callback):
    """Trains some steps with a large rate and takes them back, as a learning rate finder does."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch != 1:
            return
        learners: list[Any] = [c for c in trainer.callbacks if c is not self]
        (optimizer,) = trainer.optimizers
        parts = (pl_module, optimizer, *learners)
        saved = [deepcopy(part.state_dict()) for part in parts]
        optimizer.param_groups[0]["lr"] = 3.0
        with torch.random.fork_rng(devices=[]):
            for _ in range(5):
                for parameter in pl_module.parameters():
                    parameter.grad = torch.randn_like(parameter)
                optimizer.step()
        optimizer.zero_grad()
        for part, state in zip(parts, saved, strict=True):
            part.load_state_dict(state)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_state_that_is_loaded_during_a_fit_counts_at_once(name: str) -> None:
    ends = []
    for callbacks in ([], [Rewind()]):
        learner = LEARNERS[name]()
        trainer = quiet_trainer(callbacks=[learner, *callbacks], max_epochs=3)
        module = Reader()
        trainer.fit(module, _loader())
        rule = learner._rules[0]
        ends.append([*module.parameters(), torch.tensor(getattr(rule, "steps", 0))])
    assert all(map(torch.equal, *ends))


def test_gates_go_on_from_a_state_that_is_loaded_during_a_fit() -> None:
    ends = []
    for callbacks in ([], [Rewind()]):
        torch.manual_seed(0)
        learner, module = MaskConnect(lr=1.0), Foreign()
        quiet_trainer(callbacks=[learner, *callbacks], max_epochs=3).fit(module, loader())
        assert learner.optimizer is not None
        ends.append([*module.state_dict().values(), torch.tensor(learner.optimizer.group["steps"])])
    assert all(map(torch.equal, *ends))


def test_a_state_that_is_loaded_after_a_fit_is_for_the_next_one() -> None:
    learner, module = DNW(density=0.25), Reader()
    quiet_trainer(callbacks=[learner], max_epochs=1).fit(module, _loader())
    before = [parameter.detach().clone() for parameter in module.parameters()]
    state = deepcopy(learner.state_dict())
    state["rules"][0]["latent"][0].neg_()
    learner.load_state_dict(state)
    assert all(map(torch.equal, before, module.parameters()))


class NewOptimizers(Callback):
    """Replaces the optimizers when the second epoch starts."""

    def __init__(self, set_up: bool) -> None:
        self.set_up = set_up

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1 and self.set_up:
            trainer.strategy.setup_optimizers(trainer)
        elif trainer.current_epoch == 1:
            trainer.strategy.optimizers = [SGD(pl_module.parameters(), lr=0.05)]


@pytest.mark.parametrize("set_up", [True, False])
@pytest.mark.parametrize("name", [*LEARNERS, "MaskConnect", "BudgetedSearch"])
def test_optimizers_that_are_replaced_are_an_error(name: str, set_up: bool) -> None:
    new, settings = NewOptimizers(set_up), {"max_epochs": 2, "limit_train_batches": 1}
    if name == "MaskConnect":
        run = partial(foreign_fit, Foreign(), MaskConnect(), new, **settings)
    elif name == "BudgetedSearch":
        run = partial(search_fit, new_module(), new_search(), new, **settings)
    else:
        run = partial(fit, LEARNERS[name](), callbacks=[new], **settings)
    with pytest.raises(WiringError, match=f"{name}: the optimizers of the trainer were replaced"):
        run()


@pytest.mark.parametrize("name", [*LEARNERS, "MaskConnect", "BudgetedSearch"])
def test_a_network_that_is_moved_after_the_training_may_get_other_parameters(name: str) -> None:
    """As `.cpu()` gives on some devices; Lightning calls it before the last hooks of a fit."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        if name == "MaskConnect":
            foreign_fit(Foreign(), MaskConnect(), max_epochs=1)
        elif name == "BudgetedSearch":
            search_fit(new_module(), new_search(), max_epochs=1)
        else:
            fit(LEARNERS[name](), max_epochs=1)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def test_frozen_gates_follow_no_optimizer() -> None:
    module, settings = Foreign(), {"max_epochs": 3, "limit_train_batches": 1}
    foreign_fit(module, MaskConnect(freeze_epoch=1), NewOptimizers(set_up=True), **settings)
    search = new_search(warmup_epochs=0, freeze_epoch=1)
    search_fit(new_module(), search, NewOptimizers(set_up=False), **settings)


class Wrapper:
    """What Lightning takes as an optimizer, and no `torch.optim.Optimizer`."""

    def __init__(self, parameters: Any, lr: float = 0.05) -> None:
        self.inner = SGD(parameters, lr)
        self.param_groups, self.state = self.inner.param_groups, self.inner.state
        self.defaults, self.step = self.inner.defaults, self.inner.step
        self.zero_grad, self.state_dict = self.inner.zero_grad, self.inner.state_dict
        self.load_state_dict = self.inner.load_state_dict


@pytest.mark.parametrize("name", ["DNW", "L1Anneal", "MaskConnect"])
def test_an_optimizer_without_hooks_is_refused(name: str) -> None:
    if name == "MaskConnect":
        run = partial(foreign_fit, SelfMade(Wrapper), MaskConnect())
    else:
        run = partial(fit, LEARNERS[name](), Reader(Wrapper))
    with pytest.raises(MisconfigurationException, match=f"{name} acts in .* but Wrapper is no tor"):
        run()


def _loader() -> Any:
    return DataLoader(batches(4, torch.float32), batch_size=None)
