"""Every method learns real digits, and what should learn about the wiring does."""

import pytest
import torch

from tests.methods import LEARNING, METHODS, Method, digits
from tests.trainers import Recorder, quiet_trainer
from wiring_lightning.nn import find_gates


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_accuracy_rises_far_above_chance(method: Method) -> None:
    trainer = quiet_trainer(max_epochs=4, callbacks=method.new_callbacks())
    task = method.task()
    trainer.fit(task, digits(batch_size=32, augment=False))
    assert trainer.callback_metrics["train/acc"] > 0.7  # chance is 0.1


@pytest.mark.parametrize("method", LEARNING, ids=lambda method: method.name)
def test_scores_move_stay_in_bounds_and_sum_to_one(method: Method) -> None:
    recorder = Recorder()
    trainer = quiet_trainer(callbacks=[*method.new_callbacks(), recorder])
    task = method.task()
    trainer.fit(task, digits())
    first, last = recorder.scores[0], recorder.scores[-1]
    assert (first - last).abs().max() > 1e-3
    for gate in find_gates(task).values():
        scores = gate.scores.detach()
        candidates = scores[scores != -1]  # what a target may choose
        assert candidates.min() >= 0
        assert candidates.max() <= 1
        rows = scores.clamp_min(0).sum(1)
        torch.testing.assert_close(rows, torch.ones_like(rows))


def test_a_learned_wiring_is_drawn_anew_after_each_step() -> None:
    recorder = Recorder()
    trainer = quiet_trainer(callbacks=[*LEARNING[0].new_callbacks(), recorder], max_steps=10)
    trainer.fit(LEARNING[0].task(), digits())
    changes = [
        not torch.equal(before, after)
        for before, after in zip(recorder.active, recorder.active[1:], strict=False)
    ]
    # Eight targets choose 2 of 4: the chance that none changes is below 1e-5 per step.
    assert all(changes)
    assert all(int(active.sum()) == 8 * 2 for active in recorder.active)
