"""Rules that go on from a state of a training of another length."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from wiring_lightning.functional import MaskTimes
from wiring_lightning.functional.mask_times import AlternatingTimes
from wiring_lightning.optim import EdgeSet, ScheduledMasks, StraightThrough

Rule = StraightThrough | ScheduledMasks
RULES: dict[str, Callable[[SGD, list[EdgeSet], MaskTimes], Rule]] = {
    "latent": StraightThrough,
    "masks": lambda sgd, sets, times: ScheduledMasks(sgd, sets, times, first="magnitude"),
}
K, COUNT = 4, 60


def falling(end: int) -> MaskTimes:
    return MaskTimes(end=end, every=1, initial_density=1.0)


def make(name: str, times: MaskTimes) -> Rule:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(COUNT))
    return RULES[name](SGD([weight], lr=0.1), [EdgeSet([weight], K)], times)


def steps(rule: Rule, count: int) -> list[int]:
    """How many edges there are after each of some steps."""
    numbers = []
    weight: Tensor = rule.edge_sets[0].weights[0]
    for _ in range(count):
        weight.grad = torch.randn(COUNT)
        rule.mask_gradients()
        rule.optimizer.step()
        numbers.append(sum(int(mask.sum()) for mask in rule.masks))
    return numbers


@pytest.mark.parametrize("at", [4, 8])
@pytest.mark.parametrize("name", RULES)
def test_what_is_gone_stays_gone_in_a_longer_training(name: str, at: int) -> None:
    first = make(name, falling(end=6))
    before = steps(first, at)
    assert before == [falling(6).edges(step, K, COUNT) for step in range(1, at + 1)]
    second = make(name, falling(end=12))
    second.load_state_dict(deepcopy(first.state_dict()))
    after = steps(second, 12 - at)
    planned = [falling(12).edges(step, K, COUNT) for step in range(at + 1, 13)]
    assert after == [min(before[-1], number) for number in planned]
    assert second.due
    assert second.steps == 12


@pytest.mark.parametrize("name", RULES)
def test_a_shorter_training_has_its_final_number_at_once(name: str) -> None:
    first = make(name, falling(end=8))
    assert steps(first, 5)[-1] > K
    second = make(name, falling(end=4))
    second.load_state_dict(deepcopy(first.state_dict()))
    assert second.due
    assert int(second.masks[0].sum()) == K
    assert steps(second, 2) == [K, K]


@pytest.mark.parametrize("name", RULES)
def test_dense_phases_come_in_a_longer_training_too(name: str) -> None:
    times = [AlternatingTimes(end=end, every=2, start=2, initial_density=1.0) for end in (6, 12)]
    first = make(name, times[0])
    steps(first, 3)
    second = make(name, times[1])
    second.load_state_dict(deepcopy(first.state_dict()))
    assert steps(second, 9) == [COUNT, COUNT, K, K, COUNT, COUNT, K, K, K]


def test_a_state_of_an_earlier_version_has_the_number_of_its_steps() -> None:
    first = make("latent", falling(end=6))
    before = steps(first, 3)
    state = deepcopy(first.state_dict())
    del state["present"]
    second = make("latent", falling(end=6))
    second.load_state_dict(state)
    assert int(second.masks[0].sum()) == before[-1]


def test_a_state_without_times_is_that_of_the_final_number() -> None:
    weight = nn.Parameter(torch.randn(COUNT))
    first = StraightThrough(SGD([weight], lr=0.1), [EdgeSet([weight], K)])
    second = make("latent", falling(end=6))
    second.load_state_dict(deepcopy(first.state_dict()))
    assert second.due
    assert steps(second, 3) == [K, K, K]
