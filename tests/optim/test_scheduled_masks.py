"""Masks that change by rule, by hand on small tensors."""

from collections import Counter
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop, Rprop

from tests.simulated.process import in_own_process
from tests.simulated_device import RECORD, simulated
from wiring_lightning.functional import MaskTimes, change_masks
from wiring_lightning.functional.mask_times import AlternatingTimes
from wiring_lightning.optim import EdgeSet, ScheduledMasks
from wiring_lightning.optim.mask_scores import SCORES, Seen

RIGL = MaskTimes(end=100, every=2, fraction=0.5)


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def step(rule: ScheduledMasks, *gradients: list[float]) -> None:
    for weight, own in zip(rule.weights, gradients, strict=True):
        weight.grad = torch.tensor(own)
    rule.mask_gradients()
    rule.optimizer.step()


def test_rigl_by_hand() -> None:
    weight = parameter(0.5, -0.4, 0.3, 0.2, 0.1, 0.05)
    rule = ScheduledMasks(SGD([weight], lr=0.1), [EdgeSet([weight], k=4)], RIGL, first="magnitude")
    assert weight.tolist() == pytest.approx([0.5, -0.4, 0.3, 0.2, 0, 0])
    step(rule, [1.0, 0.0, 0.0, 0.0, 9.0, 0.0])  # no change yet; absent ones do not move
    assert weight.tolist() == pytest.approx([0.4, -0.4, 0.3, 0.2, 0, 0])
    step(rule, [1.0, 0.0, 0.0, -3.0, 2.0, -4.0])
    # The step first: 0.3, -0.4, 0.3, 0.5. The two smallest go: 0.3 and 0.3; of equal ones the first
    # would stay, but both go. Of 0.3, 0.3 and the absent ones the gradients are 1, 0, 2 and 4.
    assert rule.masks[0].tolist() == [False, True, False, True, True, True]
    assert weight.tolist() == pytest.approx([0, -0.4, 0, 0.5, 0, 0])
    step(rule, [5.0, 0.0, 5.0, 0.0, 1.0, 1.0])
    assert weight.tolist() == pytest.approx([0, -0.4, 0, 0.5, -0.1, -0.1])


def test_a_weight_that_is_dropped_and_chosen_again_stays_as_it_is() -> None:
    weight = parameter(0.5, 0.4, 0.0)
    optimizer = SGD([weight], lr=0.1, momentum=0.9)
    times = MaskTimes(end=100, every=1, fraction=0.5)
    rule = ScheduledMasks(optimizer, [EdgeSet([weight], k=2)], times, first="magnitude")
    step(rule, [0.0, 3.0, 1.0])  # 0.5 and 0.1: the second goes, and has the largest gradient
    assert rule.masks[0].tolist() == [True, True, False]
    assert weight.tolist() == pytest.approx([0.5, 0.1, 0])
    assert optimizer.state[weight]["momentum_buffer"].tolist() == pytest.approx([0, 3, 0])


def test_several_tensors_of_a_set_share_their_number_and_each_keeps_its_least() -> None:
    first, second = parameter(0.9, 0.8, 0.7), parameter(0.3, 0.2, 0.1)
    times = MaskTimes(end=3, every=1, initial_density=1.0, density_decay="linear")

    def rule_with(least: int) -> ScheduledMasks:
        weights = [nn.Parameter(first.detach().clone()), nn.Parameter(second.detach().clone())]
        return ScheduledMasks(SGD(weights, lr=0.0), [EdgeSet(weights, 3, least=least)], times)

    for least, expected in [(0, [3, 0]), (1, [2, 1])]:
        rule = rule_with(least)
        numbers = []
        for _ in range(3):
            step(rule, [0.0] * 3, [0.0] * 3)
            numbers.append(sum(int(mask.sum()) for mask in rule.masks))
        assert numbers == [5, 4, 3]
        assert [int(mask.sum()) for mask in rule.masks] == expected


def test_set_by_hand() -> None:
    """Half of four weights goes. Any two of the four that are then absent come equally often."""
    values = [0.5, -0.4, 0.2999, 0.2, 0.1, 0.05]
    pairs = Counter[tuple[int, ...]]()
    for seed in range(900):
        weight = parameter(*values)
        rule = ScheduledMasks(
            SGD([weight], lr=0.1),
            [EdgeSet([weight], k=4)],
            MaskTimes(end=10, every=1, fraction=0.5),
            grow=SCORES["random"],
            first="magnitude",
            seed=seed,
        )
        step(rule, [2.0, 0.0, 0.0, -6.0, 9.0, 9.0])
        stepped = [0.3, -0.4, 0.2999, 0.8, 0.0, 0.0]  # the second and the fourth stay
        there = rule.masks[0].tolist()
        assert (there[1], there[3], sum(there)) == (True, True, 4)
        pairs[tuple(index for index in (0, 2, 4, 5) if there[index])] += 1
        kept = [value * present for value, present in zip(stepped, there, strict=True)]
        assert weight.tolist() == pytest.approx(kept)
    assert len(pairs) == 6
    assert sum((number - 150) ** 2 / 150 for number in pairs.values()) < 20.5  # 1 of 1,000


def test_ac_dc_by_hand() -> None:
    """Two dense steps, then sparse and dense phases of two, and sparse from the seventh step on."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(12, dtype=torch.float64))
    times = AlternatingTimes(start=2, every=2, end=7, initial_density=1.0)
    optimizer = SGD([weight], lr=0.3, momentum=0.9)
    rule = ScheduledMasks(optimizer, [EdgeSet([weight], k=3)], times, first="magnitude")
    twin, velocity = weight.detach().clone(), torch.zeros(12, dtype=torch.float64)
    mask = torch.ones(12, dtype=torch.bool)
    sparse_from, dense_from = (2, 6, 7), (4,)
    for number in range(1, 10):
        gradient = torch.randn(12, dtype=torch.float64)
        weight.grad = gradient.clone()
        rule.mask_gradients()
        optimizer.step()
        velocity = 0.9 * velocity + gradient * mask
        twin = (twin - 0.3 * velocity) * mask
        if number in sparse_from:
            mask = torch.zeros(12, dtype=torch.bool).index_fill_(
                0, twin.abs().topk(3).indices, True
            )
        if number in dense_from:
            mask = torch.ones(12, dtype=torch.bool)
        twin, velocity = twin * mask, velocity * mask
        torch.testing.assert_close(weight.detach(), twin, rtol=0, atol=1e-14)
        assert torch.equal(rule.masks[0], mask)
    assert rule.due
    assert int(weight.count_nonzero()) == 3


def test_gradual_pruning_by_hand_never_brings_back_a_weight() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(10, 10, dtype=torch.float64))
    times = MaskTimes(end=10, every=2, initial_density=1.0)
    rule = ScheduledMasks(SGD([weight], lr=0.3), [EdgeSet([weight], k=10)], times)
    twin, mask = weight.detach().clone(), torch.ones(100, dtype=torch.bool)
    for number in range(1, 13):
        gradient = torch.randn(10, 10, dtype=torch.float64)
        weight.grad = gradient.clone()
        rule.mask_gradients()
        rule.optimizer.step()
        twin -= 0.3 * gradient * mask.view(10, 10)
        if number % 2 == 0 and number <= 10:
            left = round(10 + 90 * (1 - number / 10) ** 3)
            order = twin.abs().flatten().masked_fill(~mask, -1).argsort(descending=True)
            mask = torch.zeros(100, dtype=torch.bool).index_fill_(0, order[:left], True)
        twin *= mask.view(10, 10)
        torch.testing.assert_close(weight.detach(), twin, rtol=0, atol=1e-14)
    assert int(mask.sum()) == 10


@pytest.mark.parametrize(
    "make",
    [
        partial(SGD, lr=0.1, momentum=0.9),
        partial(Adam, lr=0.1, amsgrad=True),
        partial(AdamW, lr=0.1),
        partial(RMSprop, lr=0.1, momentum=0.5),
    ],
    ids=["SGD", "Adam", "AdamW", "RMSprop"],
)
def test_the_state_of_what_goes_or_comes_is_zero_and_of_what_stays_is_kept(make: Any) -> None:
    weight = parameter(0.5, -0.4, 0.3, 0.02, 0.0, 0.0)
    optimizer: Optimizer = make([weight])
    rule = ScheduledMasks(optimizer, [EdgeSet([weight], k=4)], RIGL, first="magnitude")
    step(rule, [0.1, 0.2, -0.1, 0.3, 0.5, 0.6])
    plain = nn.Parameter(torch.tensor([0.5, -0.4, 0.3, 0.02, 0.0, 0.0]))
    twin: Optimizer = make([plain])
    for gradients in ([0.1, 0.2, -0.1, 0.3, 0.0, 0.0], [0.1, 0.2, -0.1, 0.3, 0.0, 0.0]):
        plain.grad = torch.tensor(gradients)
        twin.step()
    before = rule.masks[0].clone()
    step(rule, [0.1, 0.2, -0.1, 0.3, 8.0, 9.0])
    stays = before & rule.masks[0]
    assert int(stays.sum()) == 2
    checked = 0
    for name, value in optimizer.state[weight].items():
        if isinstance(value, Tensor) and value.dim():
            torch.testing.assert_close(value[stays], twin.state[plain][name][stays])
            assert not value[~stays].any()
            checked += 1
    assert checked >= 1


def test_steps_of_rprop_stay_as_long_as_they_are() -> None:
    weight = parameter(0.5, -0.4, 0.3, 0.2)
    optimizer = Rprop([weight], lr=0.1)
    rule = ScheduledMasks(optimizer, [EdgeSet([weight], k=2)], RIGL, first="magnitude")
    for _ in range(2):
        step(rule, [1.0, 1.0, 1.0, 2.0])
    assert rule.masks[0].tolist() == [False, True, False, True]
    step(rule, [0.0, 0.0, 0.0, 1.0])
    assert float(weight[3].detach()) == pytest.approx(-0.1)


def test_without_a_gradient_weights_go_by_magnitude() -> None:
    weight = parameter(0.1, -0.4, 0.3, 0.2)
    times = MaskTimes(end=1, every=1, initial_density=1.0, fraction=0.5)
    rule = ScheduledMasks(
        SGD([weight]), [EdgeSet([weight], k=2)], times, SCORES["sensitivity"], SCORES["random"]
    )
    rule.mask_gradients()
    rule.optimizer.step()
    assert rule.masks[0].tolist() == [False, True, True, False]


def test_what_has_too_many_weights_is_found_whatever_the_masks_are() -> None:
    weight = parameter(0.5, -0.4, 0.3)
    times = MaskTimes(start=1, end=1, initial_density=1.0)
    rule = ScheduledMasks(SGD([weight]), [EdgeSet([weight], k=1)], times, names=["layer"])
    assert rule.excess() == []
    rule.steps = 2  # as if the only change had been missed
    assert rule.excess() == ["layer has 3 of 3 weights, not 1"]


def test_sensitivity_chooses_by_the_first_gradient_before_the_step() -> None:
    weight = parameter(0.5, -0.4, 0.3, 0.2)
    sets = [EdgeSet([weight], k=2)]
    rule = ScheduledMasks(SGD([weight], lr=0.1), sets, MaskTimes(end=0), first="sensitivity")
    assert int(weight.count_nonzero()) == 4
    assert not rule.due
    weight.grad = torch.tensor([torch.inf, 0.0, 0.0, 0.0])
    rule.mask_gradients()  # such a step is skipped
    assert int(weight.count_nonzero()) == 4
    step(rule, [0.1, 1.0, -2.0, 0.5])  # |g w| = 0.05, 0.4, 0.6, 0.1
    assert rule.due
    assert weight.tolist() == pytest.approx([0, -0.5, 0.5, 0])


def test_the_average_is_that_of_dense_gradients() -> None:
    weight = parameter(0.5, 0.4, 0.0)
    rule = ScheduledMasks(
        SGD([weight], lr=0.0),
        [EdgeSet([weight], k=2)],
        MaskTimes(end=10, every=3, fraction=0.5),
        grow=SCORES["momentum"],
        first="magnitude",
        average=0.5,
    )
    for gradient in ([0.0, 0.0, 8.0], [0.0, 0.0, 0.0], [2.0, 1.0, 0.0]):
        step(rule, gradient)
    assert rule.averages[0].tolist() == pytest.approx([1.0, 0.5, 1.0])
    assert rule.masks[0].tolist() == [True, False, True]  # 1.0 of the average against 0.5


def test_random_choices_depend_on_the_seed_and_the_step_only() -> None:
    def masks(seed: int) -> list[Tensor]:
        weight = nn.Parameter(torch.ones(200))
        rule = ScheduledMasks(
            SGD([weight], lr=0.0),
            [EdgeSet([weight], k=50)],
            MaskTimes(end=100, every=1, fraction=0.4),
            drop=SCORES["random"],
            grow=SCORES["random"],
            seed=seed,
            names=["layer"],
        )
        torch.rand(seed + 1)  # other draws in between change nothing
        seen = [rule.masks[0].clone()]
        for _ in range(3):
            weight.grad = torch.zeros(200)
            rule.mask_gradients()
            rule.optimizer.step()
            seen.append(rule.masks[0].clone())
        return seen

    one, again, other = masks(0), masks(0), masks(1)
    assert all(map(torch.equal, one, again))
    assert not any(map(torch.equal, one, other))
    assert all(int(mask.sum()) == 50 for mask in one)
    assert not any(map(torch.equal, one, one[1:]))


def test_a_state_is_restored_to_the_same_steps() -> None:
    def made(first: Any) -> tuple[nn.Parameter, ScheduledMasks]:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(30))
        sets = [EdgeSet([weight], k=10)]
        optimizer = SGD([weight], lr=0.1, momentum=0.9)
        return weight, ScheduledMasks(optimizer, sets, RIGL, first=first)

    generator = torch.Generator().manual_seed(1)
    gradients = torch.randn(8, 30, generator=generator).tolist()
    weight, rule = made("random")
    for own in gradients[:3]:
        step(rule, own)
    state, memory = deepcopy(rule.state_dict()), deepcopy(rule.optimizer.state_dict())
    saved = weight.detach().clone()
    resumed, other = made(None)
    with torch.no_grad():
        resumed.copy_(saved)
    other.load_state_dict(state)
    other.optimizer.load_state_dict(memory)
    for own in gradients[3:]:
        step(rule, own)
        step(other, own)
    assert torch.equal(weight, resumed)
    assert torch.equal(rule.masks[0], other.masks[0])


def test_a_freeze_prunes_to_the_final_number_and_nothing_changes_after_it() -> None:
    weight = parameter(0.5, -0.4, 0.3, 0.2)
    times = MaskTimes(end=10, every=1, initial_density=1.0, fraction=0.5)
    rule = ScheduledMasks(SGD([weight], lr=0.0), [EdgeSet([weight], k=1)], times)
    rule.freeze()
    assert rule.due
    assert weight.tolist() == pytest.approx([0.5, 0, 0, 0])
    for _ in range(3):
        step(rule, [0.0, 1.0, 2.0, 3.0])
    assert rule.masks[0].tolist() == [True, False, False, False]


@pytest.mark.parametrize("seed", range(5))
def test_a_change_is_that_of_a_sort(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 5), (7,), (2, 3, 2)]
    drop = [torch.rand(shape, generator=generator) for shape in shapes]
    grow = [torch.rand(shape, generator=generator) for shape in shapes]
    masks = [torch.rand(shape, generator=generator) < 0.5 for shape in shapes]
    usable = [torch.rand(shape, generator=generator) < 0.9 for shape in shapes]
    masks = [one & other for one, other in zip(masks, usable, strict=True)]
    present = sum(int(mask.sum()) for mask in masks)
    kept = present // 2
    changed = change_masks(masks, drop, grow, kept, 4, usable)
    flat = [torch.cat([one.flatten() for one in group]) for group in (masks, drop, grow, usable)]
    inside, stay, come, can = (part.tolist() for part in flat)
    survivors = sorted((i for i in range(len(stay)) if inside[i]), key=lambda i: -stay[i])[:kept]
    free = [i for i in range(len(come)) if can[i] and i not in survivors]
    new = sorted(free, key=lambda i: -come[i])[:4]
    found = torch.cat([one.flatten() for one in changed]).nonzero().flatten().tolist()
    assert found == sorted([*survivors, *new])


def test_growth_by_momentum_needs_an_average() -> None:
    zero = torch.zeros(2)
    with pytest.raises(ValueError, match="needs the averaged gradient"):
        SCORES["momentum"](Seen(zero, zero, lambda: zero))


@pytest.mark.parametrize("grow", ["random", "gradient"])
def test_the_default_device_does_not_matter_for_random_numbers(grow: str) -> None:
    both = []
    for device in ("cpu", "meta"):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(6, 7))
        sgd = SGD([weight], lr=0.1)
        times = MaskTimes(end=9, every=1, fraction=0.5)
        weight.grad = torch.randn(6, 7)
        with torch.device(device):
            rule = ScheduledMasks(sgd, [EdgeSet([weight], k=9)], times, grow=SCORES[grow])
            for _ in range(3):
                rule.mask_gradients()
                sgd.step()
        both.append(weight.detach())
    assert torch.equal(*both)


@in_own_process
def test_sensitivity_waits_once_for_all_parameters() -> None:
    with simulated() as device:
        weights = [nn.Parameter(torch.randn(6, 7, device=device)) for _ in range(5)]
        for weight in weights:
            weight.grad = torch.randn(6, 7, device=device)
        sets = [EdgeSet([weight], k=9) for weight in weights]
        rule = ScheduledMasks(SGD(weights, lr=0.1), sets, RIGL, first="sensitivity")
        with RECORD.recording():
            rule.mask_gradients()
        assert sum(RECORD.waits.values()) == 1, RECORD.waits
        assert [int(weight.detach().cpu().count_nonzero()) for weight in weights] == [9] * 5
