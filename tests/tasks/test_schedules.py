"""Schedules by step and by epoch, with a warm-up, and by a number that is logged."""

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from tests.bad_input.configs import config_with, model, trainer
from tests.cli.commands import refused, succeed, write
from tests.trainers import quiet_trainer
from wiring_lightning.data import Digits
from wiring_lightning.optim import WarmupCosine
from wiring_lightning.tasks import ClassificationTask
from wiring_lightning.tasks._schedules import Schedule


class Rates(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def task(**options: Any) -> ClassificationTask:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return ClassificationTask(network, lambda given: SGD(given, lr=0.8), **options)


def rates(epochs: int = 4, batches: int = 3, **options: Any) -> list[float]:
    seen = Rates()
    fit = quiet_trainer(max_epochs=epochs, limit_train_batches=batches, callbacks=[seen],
                        limit_val_batches=1)  # fmt: skip
    fit.fit(task(**options), Digits(batch_size=16))
    return seen.seen


def cosine(total: int) -> Any:
    return lambda optimizer: CosineAnnealingLR(optimizer, T_max=total)


@pytest.mark.parametrize("warmup", [0, 1, 2])
@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_cosine_after_a_warm_up(warmup: int, interval: Any) -> None:
    total = (4 if interval == "epoch" else 12) - warmup

    def expected(step: int) -> float:
        if step < warmup:
            return 0.8 * (step + 1) / (warmup + 1)
        return 0.4 * (1 + math.cos(math.pi * (step - warmup) / total))

    seen = rates(lr_scheduler=cosine(total), lr_interval=interval, lr_warmup=warmup)
    steps = [batch if interval == "step" else batch // 3 for batch in range(12)]
    assert seen == pytest.approx([expected(step) for step in steps])


def test_the_rates_of_rigls_resnet50_are_those_of_its_paper() -> None:
    """RigL, Section 4.1: up to 1.6 in five epochs, and a tenth after epochs 30, 70 and 90."""
    path = Path(__file__).parents[2] / "configs/sparse/imagenet_resnet50_rigl.yaml"
    given = yaml.safe_load(path.read_text())["model"]["init_args"]
    optimizer = SGD([nn.Parameter(torch.ones(1))], **given["optimizer"]["init_args"])
    schedule = Schedule(
        lambda one: MultiStepLR(one, **given["lr_scheduler"]["init_args"]),
        warmup=given["lr_warmup"],
    ).configure(optimizer)["lr_scheduler"]
    seen = []
    for _ in range(100):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen[:5] == sorted(seen[:5])
    assert 0 < seen[0] < seen[4] < 1.6
    assert seen[5:] == pytest.approx([1.6] * 25 + [0.16] * 40 + [0.016] * 20 + [0.0016] * 10)


def test_steps_of_a_schedule_are_steps_of_the_optimizer() -> None:
    seen = Rates()
    fit = quiet_trainer(accumulate_grad_batches=2, limit_train_batches=6, callbacks=[seen])
    schedule = task(lr_scheduler=lambda given: StepLR(given, 1, 0.5), lr_interval="step")
    fit.fit(schedule, Digits(batch_size=16))
    assert seen.seen == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.2, 0.2])


def test_a_warm_up_alone() -> None:
    seen = rates(epochs=1, batches=6, lr_warmup=3, lr_interval="step")
    assert seen == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_a_warm_up_goes_on_where_it_stopped(tmp_path: Path) -> None:
    options = {"lr_scheduler": cosine(9), "lr_interval": "step", "lr_warmup": 5}
    whole, first, rest = Rates(), Rates(), Rates()
    for seen, epochs, path in ((whole, 4, None), (first, 1, None), (rest, 4, tmp_path / "x.ckpt")):
        fit = quiet_trainer(max_epochs=epochs, limit_train_batches=3, callbacks=[seen])
        fit.fit(task(**options), Digits(batch_size=16), ckpt_path=path)
        fit.save_checkpoint(tmp_path / "x.ckpt")
    assert first.seen + rest.seen == pytest.approx(whole.seen)


def falling(optimizer: Any) -> MultiplicativeLR:
    return MultiplicativeLR(optimizer, lambda step: 0.9 if step % 2 else 0.5)


ALL: dict[str, Any] = {
    "multiplied": falling,
    "chained": lambda one: ChainedScheduler([falling(one), ExponentialLR(one, 0.5)], one),
    "one after the other": lambda one: SequentialLR(one, [falling(one), StepLR(one, 2)], [3]),
    "multiplied later": lambda one: SequentialLR(one, [ConstantLR(one, 0.5, 9), falling(one)], [2]),
    "averaged": lambda one: torch.optim.swa_utils.SWALR(one, 0.05, 4),
    "cosine": cosine(5),
    "restarts": lambda one: CosineAnnealingWarmRestarts(one, 3),
    "steps": lambda one: StepLR(one, 2),
    "exponential": lambda one: ExponentialLR(one, 0.5),
    "polynomial": lambda one: PolynomialLR(one, 5),
    "linear": lambda one: LinearLR(one, total_iters=4),
    "one cycle": lambda one: OneCycleLR(one, 1.0, total_steps=9),
    "cycles": lambda one: CyclicLR(one, 0.0, 1.0, step_size_up=2),
    "function": lambda one: LambdaLR(one, lambda step: 0.9**step),
}


def two_groups() -> SGD:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.8, 0.3)]
    return SGD(groups, lr=0.1, momentum=0.9)


def stepped(optimizer: SGD, schedule: Any, steps: int) -> list[list[float]]:
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("warmup", [1, 4])
@pytest.mark.parametrize("name", ALL)
def test_after_a_warm_up_every_schedule_is_as_without(name: str, warmup: int) -> None:
    plain, optimizer = two_groups(), two_groups()
    expected = stepped(plain, ALL[name](plain), 8)
    whole = [group["initial_lr"] for group in plain.param_groups]
    options = Schedule(ALL[name], "step", warmup)
    schedule = options.configure(optimizer)["lr_scheduler"]["scheduler"]
    seen = stepped(optimizer, schedule, warmup + 3)
    state, rest = (deepcopy(one.state_dict()) for one in (schedule, optimizer))
    resumed = two_groups()  # the rest in another process
    schedule = options.configure(resumed)["lr_scheduler"]["scheduler"]
    schedule.load_state_dict(state)
    resumed.load_state_dict(rest)
    seen += stepped(resumed, schedule, 5)
    rise = [[lr * (step + 1) / (warmup + 1) for lr in whole] for step in range(warmup)]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(rise + expected))
    assert schedule.get_last_lr() == [group["lr"] for group in resumed.param_groups]


@pytest.mark.parametrize("monitor", [None, "val/acc"])
def test_a_plateau_lowers_the_rate(monitor: str | None) -> None:
    """An accuracy that is to rise and never does, and a loss that never falls by so much."""

    def never_better(optimizer: Any) -> ReduceLROnPlateau:
        mode = "min" if monitor is None else "max"
        return ReduceLROnPlateau(
            optimizer, mode, 0.5, patience=0, threshold=1e3, threshold_mode="abs"
        )

    seen = rates(batches=1, lr_scheduler=never_better, lr_monitor=monitor)
    assert seen == pytest.approx([0.8, 0.8, 0.4, 0.2])


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [
        (None, [0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.2]),
        ("train/loss", [0.8, 0.8, 0.4, 0.2, 0.1, 0.05, 0.025]),
    ],
)
def test_a_plateau_looks_when_there_is_something_new(
    monitor: str | None, expected: list[float]
) -> None:
    seen = Rates()
    fit = quiet_trainer(max_epochs=7, limit_train_batches=1, limit_val_batches=1, callbacks=[seen],
                        check_val_every_n_epoch=2)  # fmt: skip
    fit.fit(task(lr_scheduler=hopeless, lr_monitor=monitor), Digits(batch_size=16))
    assert seen.seen == pytest.approx(expected)


def hopeless(optimizer: Any) -> ReduceLROnPlateau:
    return ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=1e3, threshold_mode="abs")


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize(("val_size", "limit"), [(0, 1.0), (100, 0)])
def test_a_plateau_without_validation_is_refused_before_training(
    val_size: int, limit: float, sanity: int, every: int
) -> None:
    options: dict[str, Any] = {"limit_val_batches": limit, "num_sanity_val_steps": sanity}
    seen = Rates()
    fit = quiet_trainer(max_epochs=3, limit_train_batches=1, callbacks=[seen],
                        check_val_every_n_epoch=every, **options)  # fmt: skip
    with pytest.raises(MisconfigurationException, match=r"val/loss, but there is no validation"):
        fit.fit(task(lr_scheduler=hopeless), Digits(batch_size=16, val_size=val_size))
    assert seen.seen == []
    fit = quiet_trainer(max_epochs=2, limit_train_batches=1, **options)
    plateau = task(lr_scheduler=hopeless, lr_monitor="train/loss")
    fit.fit(plateau, Digits(batch_size=16, val_size=val_size))


@pytest.mark.parametrize("every", [1, 2, None])
def test_a_misspelt_number_is_named_with_those_that_there_are(every: int | None) -> None:
    interval = {"val_check_interval": 1} if every is None else {}
    fit = quiet_trainer(max_epochs=2, limit_train_batches=1, limit_val_batches=1,
                        check_val_every_n_epoch=every, **interval)  # fmt: skip
    with pytest.raises(MisconfigurationException, match=r"val/los, .* lr_monitor .*val/loss") as it:
        fit.fit(task(lr_scheduler=hopeless, lr_monitor="val/los"), Digits(batch_size=16))
    assert "\n" not in str(it.value)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda given: StepLR(given, 0),
        lambda given: StepLR(given, "two"),
        lambda given: LambdaLR(given, lambda step: [1.0][step]),
    ],
)
def test_a_schedule_that_cannot_step_is_named(schedule: Any) -> None:
    said = r"LR cannot make a step with the options that lr_scheduler gives it: "
    with pytest.raises(MisconfigurationException, match=said):
        rates(epochs=2, batches=1, lr_scheduler=schedule)


PLATEAU: Any = ReduceLROnPlateau
WRONG = {
    "a number below 0": ({"lr_warmup": -1}, "lr_warmup must be at least 0, got -1"),
    "an interval": ({"lr_interval": "day", "lr_warmup": 1}, "lr_interval must be epoch or step"),
    "an interval of nothing": ({"lr_interval": "step"}, "lr_interval has no effect without"),
    "a monitor of nothing": ({"lr_monitor": "val/acc"}, "lr_monitor is what ReduceLROnPlateau"),
    "a monitor of a cosine": (
        {"lr_scheduler": cosine(3), "lr_monitor": "val/acc"},
        "CosineAnnealingLR looks at no number",
    ),
    "two warm-ups": (
        {"lr_scheduler": lambda given: WarmupCosine(given, 9), "lr_warmup": 2},
        "WarmupCosine has a warm-up of its own",
    ),
    "a plateau by step": (
        {"lr_scheduler": PLATEAU, "lr_interval": "step"},
        "leave lr_interval=step out",
    ),
    "a plateau after a warm-up": ({"lr_scheduler": PLATEAU, "lr_warmup": 2}, "leave lr_warmup out"),
}


@pytest.mark.parametrize("name", WRONG)
def test_options_that_do_not_fit_are_refused(name: str) -> None:
    options, said = WRONG[name]
    with pytest.raises(MisconfigurationException, match=said):
        rates(epochs=1, batches=1, **options)


def test_from_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = trainer(limit_train_batches=2, max_epochs=2, logger=True, limit_test_batches=1)
    plateau = {"class_path": "ReduceLROnPlateau", "init_args": {"factor": 0.5, "patience": 0}}
    steps = {"class_path": "CosineAnnealingLR", "init_args": {"T_max": 3}}
    by_step = model(lr_scheduler=steps, lr_interval="step", lr_warmup=1, loss="focal",
                    class_weights=[1.0] * 10)  # fmt: skip
    for change in (model(lr_scheduler=plateau, lr_monitor="val/acc"), by_step):
        succeed("fit", "--config", write(config_with(change, short), tmp_path / "c.yaml"))
    # Lightning saves after a validation, before the plateau looks at it.
    first, second = (
        torch.load(path, weights_only=True)["lr_schedulers"][0]
        for path in sorted(tmp_path.rglob("*.ckpt"))
    )
    assert (first["factor"], first["num_bad_epochs"], first["last_epoch"]) == (0.5, 0, 1)
    assert (second["steps"], second["last_epoch"]) == (1, 4)
    assert second["parts"][0]["last_epoch"] == 3
    missing = config_with(model(lr_scheduler=plateau, lr_monitor="val/accuracy"), short)
    assert "val/accuracy" in refused("fit", "--config", write(missing, tmp_path / "c.yaml"))
