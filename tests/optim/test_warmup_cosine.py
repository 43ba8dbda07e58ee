"""The schedule of DNW's ResNet-50, against its formula."""

import math
from typing import Any

import pytest
import torch
from torch.optim import SGD

from wiring_lightning.optim import WarmupCosine


def optimizer(*rates: float) -> SGD:
    groups: list[dict[str, Any]] = [
        {"params": [torch.nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates
    ]
    return SGD(groups, lr=1.0)


def rates(schedule: WarmupCosine, epochs: int) -> list[list[float]]:
    seen = []
    for _ in range(epochs):
        seen.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return seen


def test_the_paper_s_hundred_epochs() -> None:
    seen = rates(WarmupCosine(optimizer(0.256, 0.1), epochs=100), 101)
    for epoch, (first, second) in enumerate(seen):
        if epoch < 5:
            expected = 0.256 * (epoch + 1) / 5
        else:
            expected = 0.5 * 0.256 * (1 + math.cos(math.pi * (epoch - 5) / 95))
        assert first == pytest.approx(expected, abs=1e-12)
        assert second == pytest.approx(expected * 0.1 / 0.256, abs=1e-12)
    assert max(first for first, _ in seen) == seen[4][0] == seen[5][0] == 0.256
    assert seen[100] == [0.0, 0.0]


def test_without_warm_up_it_is_torch_s_cosine() -> None:
    ours = rates(WarmupCosine(optimizer(0.3), epochs=7, warmup_epochs=0), 7)
    sgd = optimizer(0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=7)
    for (rate,) in ours:
        assert rate == pytest.approx(sgd.param_groups[0]["lr"])
        sgd.step()
        theirs.step()


def test_it_continues_from_its_state() -> None:
    whole = rates(WarmupCosine(optimizer(0.3), epochs=9, warmup_epochs=3), 9)
    first = WarmupCosine(optimizer(0.3), epochs=9, warmup_epochs=3)
    rates(first, 4)
    second = WarmupCosine(optimizer(0.3), epochs=9, warmup_epochs=3)
    second.load_state_dict(first.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert rates(second, 5) == whole[4:]


@pytest.mark.parametrize(("epochs", "warmup"), [(5, 5), (5, 6), (5, -1)])
def test_a_warm_up_that_does_not_fit_is_refused(epochs: int, warmup: int) -> None:
    with pytest.raises(ValueError, match=f"from 0 to 4 of the 5 epochs, got {warmup}"):
        WarmupCosine(optimizer(0.1), epochs, warmup)
