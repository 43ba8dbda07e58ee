"""Masks that change with optimizers that wrap others, or that move absent weights in a step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Muon, Optimizer

from wiring_lightning.functional import MaskTimes
from wiring_lightning.optim import EdgeSet, ScheduledMasks

Parameters = list[nn.Parameter]


class Wrapper(Optimizer):
    """Has no state itself: another optimizer, or one in a list, makes the steps."""

    def __init__(self, parameters: Parameters, in_list: bool = False) -> None:
        super().__init__(parameters, {})
        self.base: Any = SGD(parameters, lr=0.1, momentum=0.9)
        if in_list:
            self.base = [self.base]

    def step(self, closure: Any = None) -> Any:
        base = self.base[0] if isinstance(self.base, list) else self.base
        return base.step(closure)


def wrapped_twice(parameters: Parameters) -> Optimizer:
    outer = Wrapper(parameters)
    outer.base = Wrapper(parameters, in_list=True)
    outer.base.outer = outer  # which may also refer back
    return outer


class Noisy(SGD):
    """Moves every weight in its step, as Langevin dynamics does."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                weight.add_(0.01)
        return result


def run(make: Callable[[Parameters], Optimizer]) -> list[list[float]]:
    """The weights after each of some steps with a change; what comes is checked to be zero."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 6))
    times = MaskTimes(end=10, every=1, fraction=0.5)
    rule = ScheduledMasks(make([weight]), [EdgeSet([weight], k=12)], times, first="magnitude")
    seen, came = [], 0
    for _ in range(5):
        before, target = rule.masks[0], torch.randn(8, 6)

        def closure(target: Any = target) -> Any:
            weight.grad = weight.detach() - target
            rule.mask_gradients()
            return weight.grad.square().sum()

        closure()
        rule.optimizer.step(closure) if isinstance(rule.optimizer, LBFGS) else rule.optimizer.step()
        new = rule.masks[0] & ~before
        came += int(new.sum())
        assert not weight[new].any()
        assert not weight[~rule.masks[0]].any()
        seen.append(weight.flatten().tolist())
    assert came > 5
    return seen


@pytest.mark.parametrize("make", [Wrapper, partial(Wrapper, in_list=True), wrapped_twice])
def test_the_state_of_what_goes_or_comes_is_zero_in_wrapped_optimizers_too(make: Any) -> None:
    assert run(make) == run(partial(SGD, lr=0.1, momentum=0.9))


@pytest.mark.parametrize("make", [Noisy, partial(Muon, lr=0.1), partial(LBFGS, max_iter=3)])
def test_what_comes_starts_at_zero_where_a_step_moves_absent_weights(make: Any) -> None:
    run(make)
