"""Every method learns real digits, and what should learn about the wiring does."""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from tests.methods import LEARNING, METHODS, SCORED, Method, digits, named, over
from tests.trainers import Recorder, quiet_trainer
from wiring_lightning.callbacks import MaskSchedule
from wiring_lightning.callbacks.sparse_layers import SparseLayers
from wiring_lightning.data import Digits
from wiring_lightning.nn import Gate, find_bernoulli_gates, find_gates

SPARSE = [
    method
    for method in METHODS
    if any(isinstance(callback, SparseLayers) for callback in method.new_callbacks())
]


class UntilLearned(Recorder):
    """Ends the fit when most labels are right, but not before the schedules of the masks ended."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        right = trainer.callback_metrics["train/acc"] > 0.5  # chance is 0.1
        trainer.should_stop = bool(right) and trainer.global_step > 12


@over(METHODS)
def test_it_learns_and_the_wiring_changes_if_and_only_if_the_method_learns_it(
    method: Method,
) -> None:
    recorder, task = UntilLearned(), method.task()
    trainer = quiet_trainer(max_epochs=40, callbacks=[*method.new_callbacks(), recorder])
    # One batch of sixteen digits, again and again.
    trainer.fit(task, Digits(batch_size=16, val_size=1381, augment=False))
    assert len(recorder.active) == trainer.global_step == trainer.current_epoch > 12
    if "accuracy" not in method.without:
        assert trainer.callback_metrics["train/acc"] > 0.5
    changed = [not torch.equal(recorder.active[0], active) for active in recorder.active[1:]]
    assert any(changed) if method in LEARNING else not any(changed)
    if method in SCORED:
        _check_scores(recorder, task)
    if method in SPARSE:
        _check_weights(trainer, task)


def _check_scores(recorder: Recorder, task: nn.Module) -> None:
    """They moved, stayed in their bounds, and sum to one."""
    first, last = recorder.scores[0], recorder.scores[-1]
    assert (first - last).abs().max() > 1e-3
    gates, drawn = find_gates(task), find_bernoulli_gates(task)
    assert gates or drawn
    for gate in gates.values():
        _check(gate)


def _check(gate: Gate) -> None:
    scores = gate.scores.detach()
    candidates = scores[scores != -1]  # what a target may choose
    assert candidates.min() >= 0
    assert candidates.max() <= 1
    rows = scores.clamp_min(0).sum(1)
    torch.testing.assert_close(rows, torch.ones_like(rows))


def _check_weights(trainer: Trainer, task: LightningModule) -> None:
    """As many are left as were asked for."""
    learner = next(c for c in trainer.callbacks if isinstance(c, SparseLayers))
    for group in learner.find_groups(trainer, task):
        kept = sum(int(weight.count_nonzero()) for weight in group.weights)
        if isinstance(learner, MaskSchedule):  # what came to a dead channel is still zero
            assert 0.5 * group.k < kept <= group.k
        else:
            assert kept == group.k
        assert group.k < sum(weight.numel() for weight in group.weights)
    if isinstance(learner, MaskSchedule):
        masks = [mask for rule in learner._rules for mask in rule.masks if mask is not None]
        wanted = sum(group.k for group in learner.find_groups(trainer, task))
        assert sum(int(mask.sum()) for mask in masks) == wanted


def test_a_learned_wiring_is_drawn_anew_after_each_step() -> None:
    method, recorder = named("resnext-learned"), Recorder()
    trainer = quiet_trainer(callbacks=[*method.new_callbacks(), recorder], max_steps=10)
    trainer.fit(method.task(), digits(batch_size=8))
    changes = [
        not torch.equal(before, after)
        for before, after in zip(recorder.active, recorder.active[1:], strict=False)
    ]
    # Eight targets choose 2 of 4: the chance that none changes is below 1e-5 per step.
    assert all(changes)
    assert all(int(active.sum()) == 8 * 2 for active in recorder.active)
