"""Which parameters weight decay shrinks."""

import torch
from torch import nn
from torch.optim import SGD

from wiring_lightning.tasks import ClassificationTask


def network() -> nn.Module:
    parts = [
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
    ]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(4, 3))  # fmt: skip


def shrink(decay_norms: bool) -> dict[str, bool]:
    """Which parameters one step without any gradient changes."""
    task = ClassificationTask(
        network(), lambda groups: SGD(groups, lr=1.0, weight_decay=0.5), decay_norms=decay_norms
    )
    optimizer = task.configure_optimizers()
    assert isinstance(optimizer, SGD)
    for parameter in task.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {name: bool((p != 1).any()) for name, p in task.backbone.named_parameters()}


def test_all_parameters_decay_by_default() -> None:
    assert set(shrink(True).values()) == {True}


def test_what_two_norms_share_takes_one_step() -> None:
    backbone = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4), nn.Linear(4, 3))
    backbone[1].weight = backbone[0].weight
    task = ClassificationTask(backbone, lambda groups: SGD(groups, lr=1.0), decay_norms=False)
    optimizer = task.configure_optimizers()
    assert isinstance(optimizer, SGD)
    backbone[0].weight.grad = torch.full((4,), 0.25)
    optimizer.step()
    assert backbone[1].weight.tolist() == [0.75] * 4


def test_norms_can_be_left_out() -> None:
    changed = shrink(False)
    assert {name for name, moved in changed.items() if moved} == {
        "0.weight", "0.bias", "5.weight", "5.bias"
    }  # fmt: skip
    assert len(changed) == 10
