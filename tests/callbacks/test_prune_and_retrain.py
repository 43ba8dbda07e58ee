"""Dense training, pruning and a second training in one run, against two runs by hand."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from torch.utils.data import DataLoader

from tests.callbacks.reader import (
    SPARSE,
    Batch,
    GraphReader,
    Masks,
    Reader,
    assert_same,
    batches,
    check_resuming,
    edges,
    fit,
    largest,
)
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import DNW, Phase, PhaseSchedule, PruneAndRetrain
from wiring_lightning.callbacks.prune_and_retrain import scale_rates
from wiring_lightning.optim import WarmupCosine
from wiring_lightning.tasks._warm_up import WarmUp


def scheduled(make: Any, parameters: Any) -> dict[str, Any]:
    optimizer = SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-2)
    return {"optimizer": optimizer, "lr_scheduler": make(optimizer)}


COSINE = partial(scheduled, partial(CosineAnnealingLR, T_max=2))


def train(parameters: Masks, masks: Masks, lr: float, data: list[Batch], schedule: Any) -> None:
    """Two epochs of a new optimizer and schedule, by plain autograd through masks."""
    optimizer = SGD(parameters.values(), lr=lr, momentum=0.9, weight_decay=1e-2)
    scheduler = schedule(optimizer)
    skeleton = Reader().double()
    for _ in range(2):
        for images, labels in data:
            used = {n: p * masks[n] if n in masks else p for n, p in parameters.items()}
            logits = torch.func.functional_call(skeleton, used, images)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()
        scheduler.step()


def two_runs(rewind: bool, lr: float, schedule: Any) -> tuple[Masks, Masks]:
    data, first = batches(3), dict(Reader().double().named_parameters())
    dense = {name: p.detach().clone().requires_grad_() for name, p in first.items()}
    train(dense, {}, 0.1, data, schedule)
    masks = {name: largest(dense[name], dense[name].numel() // 4) for name in SPARSE}
    again = first if rewind else {n: p.detach().clone().requires_grad_() for n, p in dense.items()}
    train(again, masks, lr, data, schedule)
    return again, masks


@pytest.mark.parametrize(
    ("rewind", "lr"), [(True, None), (False, None), (False, 0.01), (False, 0.001), (True, 0.03)]
)
def test_it_is_two_runs(rewind: bool, lr: float | None) -> None:
    callback = PruneAndRetrain(2, rewind, lr, density=0.25)
    module = Reader(COSINE)
    module, watch = fit(callback, module, data=batches(3), max_epochs=4)
    again, masks = two_runs(rewind, lr or 0.1, partial(CosineAnnealingLR, T_max=2))
    assert_same(watch.after, again, masks)
    assert [edges(layer) for layer in (module.first, module.body[1], module.head)] == [18, 288, 40]
    seen = [int((weights["body.1.weight"] != 0).sum()) for weights in watch.before]
    assert seen[:6] == [1152] * 6  # the dense run; the first batch of the second is recorded before
    assert seen[7:] == [288] * 5


def chained(optimizer: Any) -> SequentialLR:
    parts = [LinearLR(optimizer, 0.5, total_iters=1), CosineAnnealingLR(optimizer, T_max=2)]
    return SequentialLR(optimizer, parts, milestones=[1])


def warmed_up(optimizer: Any) -> WarmUp:
    return WarmUp(optimizer, CosineAnnealingLR(optimizer, T_max=2), 1)


@pytest.mark.parametrize(
    "schedule", [chained, warmed_up, partial(WarmupCosine, epochs=2, warmup_epochs=1)]
)
def test_a_rate_scales_schedules_of_all_kinds(schedule: Any) -> None:
    callback = PruneAndRetrain(2, lr=0.01, density=0.25)
    _, watch = fit(callback, Reader(partial(scheduled, schedule)), data=batches(3), max_epochs=4)
    assert_same(watch.after, *two_runs(False, 0.01, schedule))


@pytest.mark.parametrize(
    "make",
    [
        partial(OneCycleLR, max_lr=2.0, total_steps=9),
        partial(CyclicLR, base_lr=1.0, max_lr=4.0, step_size_up=3, cycle_momentum=False),
        partial(CosineAnnealingLR, T_max=6, eta_min=0.5),
        partial(ReduceLROnPlateau, patience=0, min_lr=0.3),
        lambda sgd: WarmUp(sgd, OneCycleLR(sgd, max_lr=2.0, total_steps=9), 2),
    ],
)
def test_all_rates_of_a_schedule_are_scaled(make: Any) -> None:
    def rates(scaled: bool) -> list[float]:
        sgd = SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        schedule, seen = make(sgd), []
        if scaled:
            first = sgd.param_groups[0]
            scale_rates([sgd], [schedule], 0.01 * first.get("initial_lr", first["lr"]))
        for _ in range(8):
            seen.append(sgd.param_groups[0]["lr"])
            sgd.step()
            plateau = isinstance(schedule, ReduceLROnPlateau)
            schedule.step(1.0) if plateau else schedule.step()
        return seen

    assert len(set(rates(scaled=False))) > 1
    assert rates(scaled=True) == pytest.approx([0.01 * rate for rate in rates(scaled=False)])


def test_the_second_training_goes_on_with_its_rate() -> None:
    rates, data = Rates(), torch.utils.data.DataLoader(batches(2), batch_size=None)
    learner = PruneAndRetrain(1, lr=0.02, density=0.25)
    trainer = quiet_trainer(callbacks=[learner, rates], precision="64-true", max_epochs=2)
    module = Reader()
    trainer.fit(module, data)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, data)
    assert rates.seen == pytest.approx([0.05] * 2 + [0.02] * 4)
    assert edges(module.head) == 40


def test_the_ticket_is_rewound_exactly_with_its_buffers() -> None:
    class WithNorm(Reader):
        def __init__(self) -> None:
            super().__init__(partial(SGD, lr=0.1))
            self.body[0] = torch.nn.BatchNorm2d(8)

        def on_train_batch_start(self, batch: Any, index: int) -> None:
            if self.trainer.current_epoch == 2 and index == 0:
                self.seen = {name: value.clone() for name, value in self.state_dict().items()}

    module, _ = fit(PruneAndRetrain(2, True, density=0.25), WithNorm(), max_epochs=3)
    first = WithNorm().double().state_dict()
    assert "body.0.running_mean" in first
    for name, value in module.seen.items():
        kept = value != 0 if name in SPARSE else torch.ones_like(value)
        torch.testing.assert_close(value, first[name] * kept)
        assert name not in SPARSE or int(kept.sum()) == value.numel() // 4


def test_a_graph_is_complete_first_and_frozen_later() -> None:
    callback = PruneAndRetrain(1, rewind=True)
    module, watch = fit(callback, GraphReader(), data=batches(3), max_epochs=2)
    counts = [int((weights["body.4.weight"] != 0).sum()) for weights in watch.before]
    assert counts == [120] * 3 + [20] * 3
    assert not ((module.graph.weight != 0) & ~module.graph.usable).any()
    assert not module.graph.learnable


@pytest.mark.parametrize(
    ("rewind", "at"), [*((True, at) for at in (3, 4, 8, 9, 13)), (False, 4), (False, 13)]
)
def test_it_resumes_in_both_trainings(rewind: bool, at: int, tmp_path: Path) -> None:
    make = lambda: PruneAndRetrain(2, rewind, 0.05, density=0.25)  # noqa: E731
    check_resuming(make, tmp_path, at, module=partial(Reader, COSINE), max_epochs=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dense_epochs": 0}, "dense_epochs must be at least 1, got 0"),
        ({"dense_epochs": 1.5}, "dense_epochs must be a whole number, got 1.5"),
        ({"dense_epochs": 1, "lr": 0.0}, "lr must be above 0, got 0"),
        ({"dense_epochs": 3}, "stops after 2 epochs, but the second training begins after 3"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit(PruneAndRetrain(**arguments, density=0.5), max_epochs=2)


def test_what_cannot_be_combined_is_refused() -> None:
    callbacks = [PruneAndRetrain(1, density=0.5), DNW(density=0.5)]
    trainer = quiet_trainer(callbacks=callbacks, max_epochs=2)
    with pytest.raises(MisconfigurationException, match="DNW holds on to an optimizer"):
        trainer.fit(Reader(), batches(1))
    phases = [PhaseSchedule([Phase(1), Phase(1, freeze=True), Phase(2)])]
    with pytest.raises(MisconfigurationException, match="not known before epoch 2"):
        fit(PruneAndRetrain(2, density=0.5), max_epochs=4, callbacks=phases)


@pytest.mark.parametrize(
    ("start", "least", "first"), [(1, 3, False), (2, 3, False), (0.5, 4, True), (3, 4, True)]
)
def test_an_average_that_would_begin_before_the_pruning_is_refused(
    start: float, least: int, first: bool
) -> None:
    learner, averaging = PruneAndRetrain(2, density=0.5), StochasticWeightAveraging(0.01, start)
    callbacks = [averaging, learner] if first else [learner, averaging]
    trainer = quiet_trainer(callbacks=callbacks, max_epochs=6)
    with pytest.raises(MisconfigurationException, match=rf"swa_epoch_start of at least {least}\."):
        trainer.fit(Reader(), batches(1, torch.float32))


class Halves(Reader):
    """A backbone that a finetuning thaws, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = self.first

    def configure_optimizers(self) -> Any:
        return self.make([p for p in self.parameters() if p.requires_grad])


@pytest.mark.parametrize(
    ("at", "least", "first"), [(1, 2, False), (1, 3, True), (2, 3, True), (2, 0, False)]
)
def test_a_backbone_that_would_be_thawed_before_the_pruning_is_refused(
    at: int, least: int, first: bool
) -> None:
    learner = PruneAndRetrain(2, density=0.5, exclude=["first", "backbone"])
    tuning = BackboneFinetuning(at, verbose=False)
    callbacks = [tuning, learner] if first else [learner, tuning]
    trainer = quiet_trainer(callbacks=callbacks, max_epochs=4)
    sentence = rf"unfreeze_backbone_at_epoch of at least {least}\."
    with pytest.raises(MisconfigurationException, match=sentence) if least else nullcontext():
        trainer.fit(Halves(), DataLoader(batches(1, torch.float32), batch_size=None))


class Thawing(BaseFinetuning):
    """A finetuning of the user's own, which thaws before the pruning."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.first)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.first, optimizer)


@pytest.mark.parametrize("at", [1, 2, 3])  # before the thaw, before the pruning, and after it
def test_a_run_with_a_finetuning_can_be_resumed(at: int, tmp_path: Path) -> None:
    def run(resume: Path | None = None) -> Trainer:
        learner = PruneAndRetrain(2, density=0.5, exclude=["first", "backbone"])
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        callbacks = [Thawing(), learner, saver]
        trainer = quiet_trainer(callbacks=callbacks, max_epochs=4, enable_checkpointing=True)
        data = DataLoader(batches(1, torch.float32), batch_size=None)
        trainer.fit(Halves(), data, ckpt_path=resume, weights_only=True)
        return trainer

    run()
    assert run(tmp_path / f"step={at}.ckpt").global_step == 4


def test_an_average_of_the_second_training_has_its_own_rate() -> None:
    class Rates(Callback):
        def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    seen: list[float] = []
    averaging = StochasticWeightAveraging(0.01, 3, annealing_epochs=1, annealing_strategy="linear")
    learner = PruneAndRetrain(2, lr=0.02, density=0.5)
    fit(learner, steps=2, callbacks=[averaging, Rates()], max_epochs=5)
    assert seen == pytest.approx([0.05, 0.05, 0.02, 0.01, 0.01])


@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
def test_early_stopping_compares_the_second_training_with_itself(mode: str, sign: float) -> None:
    """The scores are given: 3 epochs of a good network, then others that are worse and improve."""
    scores = [3.0, 2.0, 1.0, 9.0, 8.0, 7.0, 6.0, 5.0, 5.5, 5.5, 4.0]

    class Scored(Reader):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("score", sign * scores[self.current_epoch])

    stopping = EarlyStopping("score", patience=2, mode=mode)
    data = torch.utils.data.DataLoader(batches(1), batch_size=None)
    trainer = quiet_trainer(
        callbacks=[stopping, PruneAndRetrain(3, rewind=True, density=0.5)],
        precision="64-true",
        max_epochs=11,
        limit_val_batches=1,
    )
    trainer.fit(Scored(), data, data)
    assert trainer.current_epoch == 10  # two epochs without a better one than 5
    assert float(stopping.best_score) == sign * 5


class Rates(Callback):
    """The rate of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


class Thaws(Callback):
    """A layer does not learn from one epoch to another, as in fine-tuning."""

    def __init__(self, frozen: list[int]) -> None:
        self.frozen = frozen

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.body[1].requires_grad_(trainer.current_epoch not in self.frozen)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("rewind", [False, True])
@pytest.mark.parametrize("frozen", [[1], [1, 2], [2]])
def test_a_layer_that_does_not_learn_at_the_pruning_is_pruned(
    frozen: list[int], rewind: bool, first: bool
) -> None:
    callback = PruneAndRetrain(1, rewind=rewind, density=0.25)
    both = [Thaws(frozen), callback] if first else [callback, Thaws(frozen)]
    trainer = quiet_trainer(callbacks=both, precision="64-true", max_epochs=3)
    module = Reader()
    trainer.fit(module, torch.utils.data.DataLoader(batches(2), batch_size=None))
    assert [edges(module.get_submodule(n.removesuffix(".weight"))) for n in SPARSE] == [18, 288, 40]


@pytest.mark.parametrize("lr", [None, 0.7])
@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_phases_set_the_rates_whichever_callback_comes_first(
    first: bool, freeze: bool, lr: float | None
) -> None:
    phases = PhaseSchedule([Phase(2, lr=0.3), Phase(2, lr=0.03, freeze=freeze)])
    rates, callback = Rates(), PruneAndRetrain(2, lr=lr, density=0.25)
    both: list[Callback] = [phases, callback] if first else [callback, phases]
    trainer = quiet_trainer(callbacks=[*both, rates], precision="64-true")
    module = Reader()
    trainer.fit(module, torch.utils.data.DataLoader(batches(2), batch_size=None))
    assert rates.seen == [0.3] * 4 + [0.03] * 4
    assert edges(module.head) == 40
