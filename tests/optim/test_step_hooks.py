"""Hooks that see each step once, whatever an optimizer's `step` calls."""

import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR

from wiring_lightning.functional import MaskTimes
from wiring_lightning.optim import (
    DroppedEdgeSet,
    EdgeSet,
    MaskedWeights,
    ScheduledMasks,
    StraightThrough,
    WeightDropout,
)
from wiring_lightning.optim._step_hooks import StepHooks
from wiring_lightning.optim.n_of_m import BlockEdgeSet, SparseRefined


class Child(SGD):
    """Calls the step of its parent."""

    fails = False

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        if self.fails:
            raise RuntimeError("out of memory")
        return result


class Grandchild(Child):
    """Evaluates the closure itself, and calls that of its parent."""

    def step(self, closure: Any = None) -> Any:
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        super().step()
        return result


RULES: dict[str, Callable[[Optimizer, Tensor], Any]] = {
    "dnw": lambda sgd, weight: StraightThrough(sgd, [EdgeSet([weight], 8)]),
    "n_of_m": lambda sgd, weight: SparseRefined(sgd, [BlockEdgeSet([weight], 12)]),
    "dropout": lambda sgd, weight: WeightDropout(sgd, [DroppedEdgeSet([weight], 8, rho=0.5)]),
    "masked": lambda sgd, weight: MaskedWeights(sgd, [weight], [torch.ones(6, 4).tril() > 0]),
    "scheduled": lambda sgd, weight: ScheduledMasks(
        sgd, [EdgeSet([weight], 8)], MaskTimes(end=10, every=2, fraction=0.5)
    ),
}


class Wrapper(Optimizer):
    """Steps with another optimizer, and does not call its parent's `__init__`, as timm's Lookahead.

    Torch has no hooks for this class before the first `zero_grad`.
    """

    def __init__(self, parameters: Any, lr: float) -> None:
        self._optimizer_step_pre_hooks = OrderedDict[int, Any]()
        self._optimizer_step_post_hooks = OrderedDict[int, Any]()
        self.base = SGD(parameters, lr)
        self.param_groups, self.state = self.base.param_groups, defaultdict(dict)

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)


def hooked_parents() -> None:
    """Make torch hook the steps of all these classes, as other optimizers of a process do."""
    for kind in (SGD, Child, Grandchild):
        kind([nn.Parameter(torch.ones(1))], lr=0.1)


def run(kind: type[Optimizer], rule: str, closure: bool) -> tuple[list[Tensor], Any]:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 4))
    optimizer = kind([weight], lr=0.1)  # type: ignore[call-arg]
    learner = RULES[rule](optimizer, weight)
    data, seen = torch.randn(9, 5, 4), list[Tensor]()
    for batch in data:

        def loss(batch: Tensor = batch) -> Tensor:
            optimizer.zero_grad()
            value = (batch @ weight.T - 1).square().mean()
            value.backward()  # type: ignore[no-untyped-call]
            learner.mask_gradients() if rule in ("masked", "scheduled") else None
            return value

        if closure:
            optimizer.step(loss)
        else:
            loss()
            optimizer.step()
        seen.append(weight.detach().clone())
    return seen, learner


def test_a_wrapper_that_torch_has_not_seen_has_its_first_step_counted() -> None:
    seen = list[str]()
    wrapper = Wrapper([nn.Parameter(torch.ones(1))], lr=0.1)
    StepHooks(wrapper, lambda *_: seen.append("before"), lambda *_: seen.append("after"))
    wrapper.step()
    assert seen == ["before", "after"]


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("kind", [Child, Grandchild])
@pytest.mark.parametrize("rule", RULES)
def test_an_optimizer_that_calls_its_parents_step_takes_the_parents_steps(
    rule: str, kind: type[Optimizer], closure: bool
) -> None:
    hooked_parents()
    expected, plain = run(SGD, rule, closure)
    seen, learner = run(kind, rule, closure)
    assert all(map(torch.equal, seen, expected))
    if rule == "scheduled":
        assert learner.steps == plain.steps == 9
    if rule == "dropout":
        assert learner.dropped_sets[0].draw == 9
    if rule in ("dnw", "n_of_m", "dropout"):
        assert torch.equal(learner.latent[0], plain.latent[0])
        assert int(learner.latent[0].count_nonzero()) == 24  # none is lost


@pytest.mark.parametrize("kind", [SGD, Child, Grandchild])
def test_an_error_inside_of_a_step_does_not_change_the_count(kind: type[Optimizer]) -> None:
    hooked_parents()
    weight = nn.Parameter(torch.ones(2))
    optimizer, calls = kind([weight], lr=0.1), list[str]()  # type: ignore[call-arg]
    StepHooks(optimizer, lambda *_: calls.append("before"), lambda *_: calls.append("after"))

    def failing() -> float:
        raise RuntimeError("out of memory")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            optimizer.step(failing)
        assert calls.pop() == "before"
        assert not calls
    for _ in range(2):
        optimizer.step()
    assert calls == ["before", "after"] * 2


def test_several_hooks_and_several_optimizers_do_not_disturb_each_other() -> None:
    hooked_parents()
    first, second = (Grandchild([nn.Parameter(torch.ones(1))], lr=0.1) for _ in range(2))
    calls = list[str]()
    StepHooks(first, after=lambda *_: calls.append("a"))
    StepHooks(first, after=lambda *_: calls.append("b"))
    StepHooks(second, after=lambda *_: calls.append("c"))
    first.step(lambda: second.step())  # a step inside of another one's
    assert calls == ["c", "a", "b"]


@pytest.mark.parametrize("copy", [deepcopy, lambda rule: pickle.loads(pickle.dumps(rule))])
def test_a_rule_can_be_copied_in_the_middle_of_a_step(copy: Any) -> None:
    weight = nn.Parameter(torch.arange(1.0, 9.0))
    optimizer = AdamW([weight], lr=0.1)
    rule, copies = StraightThrough(optimizer, [EdgeSet([weight], 3)]), list[Any]()

    def closure() -> float:
        copies.append(copy(rule))
        return 0.0

    optimizer.step(closure)
    assert torch.equal(copies[0].masks[0], weight != 0)


@pytest.mark.parametrize("scheduled", [False, True])
def test_an_optimizer_that_torch_does_not_know_yet_is_followed_from_its_first_step(
    scheduled: bool,
) -> None:
    class Wrapper(Optimizer):  # as timm's Lookahead; a new class, so torch has not seen it
        def __init__(self, base: Optimizer) -> None:
            self._optimizer_step_pre_hooks: Any = OrderedDict()
            self._optimizer_step_post_hooks: Any = OrderedDict()
            self.base, self.defaults = base, base.defaults
            self.param_groups, self.state = base.param_groups, base.state

        def step(self, closure: Any = None) -> Any:
            return self.base.step(closure)

    weight = nn.Parameter(torch.ones(2))
    optimizer, calls = Wrapper(SGD([weight], lr=0.1)), []
    schedule = StepLR(optimizer, 1) if scheduled else None
    hooks = StepHooks(
        optimizer, lambda *_: calls.append("before"), lambda *_: calls.append("after")
    )
    StepHooks(optimizer, after=lambda *_: calls.append("second"))
    for _ in range(2):
        weight.grad = torch.ones(2)
        optimizer.step()
        optimizer.zero_grad()  # torch patches the class here
        if schedule is not None:
            schedule.step()
    assert calls == ["before", "after", "second"] * 2
    hooks.remove()
    optimizer.step()
    assert calls[6:] == ["second"]


def test_removed_hooks_are_gone() -> None:
    optimizer, calls = SGD([nn.Parameter(torch.ones(1))], lr=0.1), list[int]()
    hooks = StepHooks(optimizer, lambda *_: calls.append(0), lambda *_: calls.append(1))
    hooks.remove()
    optimizer.step()
    assert not calls


@pytest.mark.parametrize("rule", ["dnw", "n_of_m", "dropout"])
def test_an_error_inside_of_a_step_leaves_sparse_weights(rule: str) -> None:
    """After `detach`, or from the next step on; the latent weights are those that it left."""
    for detach in (True, False):
        hooked_parents()
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(6, 4))
        optimizer = Child([weight], lr=0.1)
        learner, address = RULES[rule](optimizer, weight), weight.data_ptr()
        before = learner.latent[0].clone()
        weight.grad = torch.randn(6, 4)
        optimizer.fails = True
        with pytest.raises(RuntimeError, match="out of memory"):
            optimizer.step()
        optimizer.fails = False
        latent = before - 0.1 * weight.grad
        if rule == "dropout":
            learner.evaluate()
        if detach:
            learner.detach()
        else:
            weight.grad = None
            optimizer.step()
        torch.testing.assert_close(learner.latent[0], latent)
        latent = learner.latent[0]
        assert weight.data_ptr() == address != learner.latent[0].data_ptr()
        blocks = latent.abs() if rule == "n_of_m" else latent.abs().view(1, -1)
        k = 2 if rule == "n_of_m" else 8
        mask = blocks >= blocks.topk(k).values[:, -1:]
        assert torch.equal(weight.detach(), latent * mask.view_as(latent))
