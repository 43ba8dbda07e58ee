"""Accumulation, precision, clipping and any optimizer: the wiring takes exactly the real steps."""

from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader

from tests.methods import LEARNERS, SCORED, Method, digits, freeze_batch_norm, over
from tests.trainers import Recorder, learned_parameters, quiet_trainer
from wiring_lightning.tasks import ClassificationTask

# What a learner does in a step is the same in any network.
LEARNING = [method for method in LEARNERS if method.callbacks]
GATES = [method for method in LEARNERS if method in SCORED]


class FrozenNorm(Recorder):
    """Records, and keeps batch norm out of the comparison."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        freeze_batch_norm(pl_module)


def _train(method: Method, batch_size: int, **kwargs: Any) -> Recorder:
    torch.manual_seed(0)
    recorder = FrozenNorm()
    callbacks = [*method.new_callbacks(), recorder]
    trainer = quiet_trainer(callbacks=callbacks, **{"max_epochs": method.epochs, **kwargs})
    trainer.fit(method.task(), digits(batch_size))
    return recorder


@over(LEARNING, "cut batches")
def test_accumulated_batches_are_one_step(method: Method) -> None:
    exact: dict[str, Any] = {"precision": "64-true"}  # float32 may round a ReLU to its other side
    whole = _train(method, 16, limit_train_batches=2, **exact)
    halves = _train(method, 8, limit_train_batches=4, accumulate_grad_batches=2, **exact)
    assert len(whole.scores) == 2 * method.epochs
    assert len(halves.scores) == 2 * len(whole.scores)
    for step, expected in enumerate(whole.scores):
        inside, after = halves.active[2 * step], halves.active[2 * step + 1]
        torch.testing.assert_close(halves.scores[2 * step + 1], expected, atol=1e-8, rtol=1e-8)
        assert torch.equal(after, whole.active[step])
        if step % 2:  # no new draw between the two halves; what a new epoch changes comes before
            assert torch.equal(inside, halves.active[2 * step - 1])


@over(GATES)
def test_gradient_clipping_does_not_touch_the_gates(method: Method) -> None:
    """The first update of the scores sees the same gradients, however the weights are clipped."""
    free = _train(method, 8, limit_train_batches=2)
    clipped = _train(method, 8, limit_train_batches=1, gradient_clip_val=1e-6)
    assert torch.equal(free.scores[0], clipped.scores[0])
    assert not torch.equal(free.scores[0], free.scores[1])


@over(GATES)
def test_the_users_optimizer_never_touches_the_scores(method: Method) -> None:
    def learned_with(optimizer: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        torch.manual_seed(0)
        callbacks = method.new_callbacks()
        callbacks[0].lr = 0.0  # the learner holds the scores, too
        task = method.task(optimizer=optimizer)
        trainer = quiet_trainer(callbacks=callbacks, max_steps=2)
        trainer.fit(task, digits(8))
        groups = trainer.optimizers[0].param_groups
        return learned_parameters(task), [one for group in groups for one in group["params"]]

    expected, _ = learned_with(partial(SGD, lr=0.0))  # which moves nothing
    for make in (partial(AdamW, lr=0.01, weight_decay=0.5), partial(SGD, lr=0.1, weight_decay=0.5)):
        found, moved = learned_with(make)
        for own, other in zip(found, expected, strict=True):
            torch.testing.assert_close(own.detach(), other.detach(), atol=1e-6, rtol=0)
            assert all(own is not parameter for parameter in moved)


@over(GATES)
def test_bf16_mixed_updates_the_scores_in_full_precision(method: Method) -> None:
    full = _train(method, 16, limit_train_batches=1)
    mixed = _train(method, 16, limit_train_batches=1, precision="bf16-mixed")
    assert mixed.scores[-1].dtype == torch.float32
    moved = (full.scores[0] - full.scores[0].mean()).abs().max()
    assert (mixed.scores[0] - full.scores[0]).abs().max() < 0.2 * moved


class OverflowAt(ClassificationTask):
    """Gives an infinite loss in chosen steps, as fp16 does when the scale is too high."""

    overflow = (1, 3)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        losses = super().training_step(batch, batch_idx)
        factor = torch.inf if batch_idx in self.overflow else 1.0
        return {**losses, "loss": losses["loss"] * factor}  # those of the examples stay finite


def _train_scaled(method: Method, batches: list[Any], fused: bool, scaled: bool = True) -> Recorder:
    """As many epochs as the method needs on these batches, with a gradient scaler or without.

    Fused optimizers are called, and their hooks run, even if the step is skipped.
    """
    torch.manual_seed(0)
    recorder = FrozenNorm()
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    # The scaler is under test, not half precision: keep the arithmetic in float32.
    plugin.forward_context = _float32_context
    trainer = quiet_trainer(
        callbacks=[*method.new_callbacks(), recorder],
        max_epochs=method.epochs,
        plugins=[plugin] if scaled else [],
    )
    make, arguments = method.optimizer
    task = OverflowAt if scaled else ClassificationTask
    network = method.backbone(**method.arguments)
    loader = DataLoader(batches, batch_size=None)
    trainer.fit(task(network, optimizer=partial(make, fused=fused, **arguments)), loader)
    return recorder


def _batches(count: int) -> list[Any]:
    data = digits(8, augment=False)
    data.setup("fit")
    return list(islice(data.train_dataloader(), count))


@over(LEARNING)
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_gradient_scaler_skips_changes_nothing(method: Method, fused: bool) -> None:
    """It leaves nothing behind, and the scale is taken out: the others are those without one."""
    batches = _batches(5)
    skipping = _train_scaled(method, batches, fused)
    for step in OverflowAt.overflow:
        assert torch.equal(skipping.scores[step], skipping.scores[step - 1])
        assert torch.equal(skipping.active[step], skipping.active[step - 1])
        assert not torch.equal(skipping.scores[step + 1], skipping.scores[step])
    if "skipped steps" in method.without:
        return
    kept = [step for step in range(5) if step not in OverflowAt.overflow]
    plain = _train_scaled(method, [batches[step] for step in kept], fused, scaled=False)
    steps = [5 * epoch + step for epoch in range(method.epochs) for step in kept]
    for step, scores, active in zip(steps, plain.scores, plain.active, strict=True):
        torch.testing.assert_close(skipping.scores[step], scores, atol=1e-6, rtol=1e-5)
        assert torch.equal(skipping.active[step], active)


def _float32_context() -> Any:
    return torch.autocast("cpu", enabled=False)
