"""The variants of the rule as options of the callback."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch.optim import AdamW
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, IterableDataset

from tests.callbacks.foreign_module import (
    STEPS,
    Foreign,
    Net,
    Snapshots,
    WithoutScores,
    batches,
    copy_of,
    fit,
    gates_of,
    loss_of,
    weight_groups,
)
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.backbones import ResNet, ResNeXt
from wiring_lightning.callbacks import MaskConnect
from wiring_lightning.optim import GateSGD

VARIANTS: list[dict[str, Any]] = [
    {"update": "project", "draw_every": 3},
    {"center": True, "balance": True},
    {"explore": "swap", "draw_every": 2, "anneal_steps": 8},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_a_fit_is_a_plain_loop_with_the_same_options(options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    net = Net()
    start, snapshots = copy_of(net), Snapshots()
    fit(Foreign(net), MaskConnect(lr=0.7, seed=11, **options), snapshots)
    net.load_state_dict(start)
    optimizer = AdamW(weight_groups(net, 0.05))
    scheduler = StepLR(optimizer, 4, gamma=0.5)
    rule = GateSGD([net.gate, net.last], lr=0.7, seed=11, **options)
    for batch, seen in zip(batches(), snapshots.states, strict=True):
        optimizer.zero_grad()
        rule.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()
        rule.step()
        scheduler.step()
        assert same_state({name.removeprefix("net."): v for name, v in seen.items()}, copy_of(net))


@pytest.mark.parametrize("options", [{}, {"anneal_steps": 7}])
def test_swaps_end_at_the_freeze_unless_it_is_said(options: dict[str, Any]) -> None:
    learner = MaskConnect(lr=0.5, explore="swap", freeze_epoch=2, **options)
    fit(Foreign(), learner, max_epochs=3)
    assert learner.optimizer.group["anneal_steps"] == options.get("anneal_steps", 2 * STEPS)


@pytest.mark.parametrize(
    ("length", "more", "steps"),
    [
        ({"max_epochs": 10, "max_steps": 3}, [], 5 * STEPS),
        ({"max_epochs": -1, "max_steps": 3}, [], 5 * STEPS),
        ({"max_epochs": 10, "max_steps": 3, "accumulate_grad_batches": 4}, [], 5 * 3),
        ({"max_steps": 3}, [GradientAccumulationScheduler({3: 4})], 3 * STEPS + 2 * 3),
        ({"max_epochs": 10, "max_steps": 3, "limit_train_batches": 7}, [], 5 * 7),
    ],
)
def test_the_steps_until_the_freeze_are_those_of_its_epochs(
    length: dict[str, Any], more: list[Callback], steps: int
) -> None:
    learner = MaskConnect(lr=0.5, explore="swap", freeze_epoch=5)
    fit(Foreign(), learner, *more, **length)
    assert learner.optimizer.group["anneal_steps"] == steps


@pytest.mark.parametrize("begun", [STEPS, 15])  # at the end of an epoch, and inside of one
def test_a_learner_that_a_resumed_run_adds_swaps_until_the_freeze(
    begun: int, tmp_path: Path
) -> None:
    data = DataLoader(batches(1) * STEPS, batch_size=None)
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    saving: dict[str, Any] = {"callbacks": [saver], "enable_checkpointing": True}
    quiet_trainer(max_epochs=2, **saving).fit(WithoutScores(), data)
    learner = MaskConnect(lr=0.5, explore="swap", freeze_epoch=3)
    quiet_trainer(max_epochs=4, callbacks=[learner]).fit(
        WithoutScores(), data, ckpt_path=tmp_path / f"step={begun}.ckpt", weights_only=True
    )
    assert learner.optimizer is not None
    assert learner.optimizer.group["anneal_steps"] == 3 * STEPS - begun
    assert learner.optimizer.group["steps"] == 3 * STEPS - begun


def test_a_learner_that_comes_between_two_fits_swaps_until_the_freeze() -> None:
    trainer, module = quiet_trainer(max_epochs=1), WithoutScores()
    data = DataLoader(batches(1) * STEPS, batch_size=None)
    trainer.fit(module, data)
    learner = MaskConnect(lr=0.5, explore="swap", freeze_epoch=3)
    trainer.callbacks.insert(0, learner)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, data)
    assert learner.optimizer is not None
    assert learner.optimizer.group["anneal_steps"] == learner.optimizer.group["steps"] == 2 * STEPS


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        while True:
            yield batches(1)[0]


def test_the_steps_until_the_freeze_are_asked_for_if_an_epoch_has_no_length() -> None:
    data = DataLoader(Endless(), batch_size=None)
    for more in ({}, {"anneal_steps": 3}):
        learner = MaskConnect(lr=0.5, explore="swap", freeze_epoch=5, **more)
        trainer = quiet_trainer(callbacks=[learner], max_epochs=-1, max_steps=1)
        if more:
            trainer.fit(Foreign(), data)
            continue
        with pytest.raises(MisconfigurationException, match="is not known: give anneal_steps"):
            trainer.fit(Foreign(), data)


def test_a_freeze_without_any_swap_keeps_the_wiring_that_was_trained() -> None:
    module, seen = Foreign(), Snapshots()
    drawn = [gate.active.clone() for gate in gates_of(module)]
    learner = MaskConnect(lr=0.0, explore="swap", anneal_steps=100, freeze_epoch=1)
    fit(module, learner, seen, max_epochs=2)
    for gate, active in zip(gates_of(module), drawn, strict=True):
        assert gate.frozen
        assert torch.equal(gate.active, active)
        assert torch.equal(gate.best, active)


def test_a_balanced_freeze_limits_the_readers() -> None:
    module = Foreign()
    fit(module, MaskConnect(lr=5.0, balance=True, freeze_epoch=1), max_epochs=2)
    for gate in gates_of(module):
        assert gate.frozen
        limit = math.ceil(gate.targets * gate.fan_in / gate.candidates)
        assert gate.active.sum(0).max() <= limit
        assert torch.equal(gate.active, gate.best)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"update": "project", "center": True}, 'MaskConnect: update="project" does without'),
        ({"explore": "swap", "balance": True}, 'MaskConnect: explore="swap" holds its edges'),
        ({"anneal_steps": 5}, "MaskConnect: anneal_steps is for"),
        ({"draw_every": -1}, "MaskConnect: draw_every must be at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(MisconfigurationException, match=said):
        MaskConnect(**options)


@pytest.mark.parametrize(
    ("network", "options", "said"),
    [
        (
            ResNeXt(11, 1, 4, 2, num_classes=3, in_channels=1, image_size=8, wiring="real"),
            {"explore": "swap"},
            'MaskConnect: explore="swap" needs gates that choose',
        ),
        (
            ResNet(20, fan_in=2, num_classes=3, in_channels=1, image_size=8),
            {"balance": True},
            "MaskConnect: balance=True needs gates in which every target may read every source",
        ),
    ],
)
def test_gates_that_cannot_learn_by_a_variant_are_refused(
    network: torch.nn.Module, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(MisconfigurationException, match=said):
        fit(Foreign(network), MaskConnect(**options))
