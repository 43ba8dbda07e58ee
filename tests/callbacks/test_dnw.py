from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import SGD, AdamW

from tests.callbacks.reader import (
    SPARSE,
    Masks,
    Reader,
    assert_same,
    batches,
    by_hand,
    check_resuming,
    edges,
    fit as fit_reader,
    largest,
)
from tests.methods import digits
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import DNW, Phase, PhaseSchedule


class Counter(Callback):
    """Edges of every layer after every step, and the weights themselves."""

    def __init__(self) -> None:
        self.counts: list[list[int]] = []
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        layers = [pl_module.first, pl_module.body[1], pl_module.head]
        self.counts.append([edges(layer) for layer in layers])
        flat = torch.cat([layer.weight.detach().flatten() for layer in layers])
        self.weights.append(flat.clone())


def fit(callback: DNW, module: Reader | None = None, **kwargs: Any) -> Counter:
    counter = Counter()
    trainer = quiet_trainer(callbacks=[callback, counter], **{"max_steps": 6, **kwargs})
    trainer.fit(module or Reader(), digits())
    return counter


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"density": 0.25}, [18, 288, 40]),
        ({"density": 0.25, "first_dense": True}, [72, 288, 40]),
        ({"edges": 30}, [30, 30, 30]),
        ({"edges": 30, "layers": ["body.*"]}, [72, 30, 160]),
        ({"density": 0.1, "layers": ["Linear"]}, [72, 1152, 16]),
    ],
)
def test_exactly_k_weights_survive_every_step(
    arguments: dict[str, Any], expected: list[int]
) -> None:
    assert fit(DNW(**arguments)).counts == [expected] * 6


def test_a_group_shares_one_number_of_edges() -> None:
    counts = fit(DNW(density=0.5, groups={"all": ["Conv2d", "Linear"]})).counts
    assert {sum(row) for row in counts} == {(72 + 1152 + 160) // 2}
    assert counts[0] != [36, 576, 80]


def test_edges_swap_and_the_network_learns_digits() -> None:
    module = Reader(partial(AdamW, lr=0.03))
    counter = fit(
        DNW(density=0.5, first_dense=True), module, max_epochs=10, max_steps=-1, limit_val_batches=1
    )
    first, last = counter.weights[0] != 0, counter.weights[-1] != 0
    assert int((first & ~last).sum()) > 10
    assert set(module.validated) == {576}  # validation sees the sparse network, too
    data = digits()
    data.setup("test")
    images, labels = next(iter(data.test_dataloader()))
    module.eval()
    assert (module(images).argmax(1) == labels).float().mean() > 0.6


def test_accumulated_batches_are_one_step() -> None:
    whole = fit(DNW(density=0.2), max_steps=3)
    counter = Counter()
    trainer = quiet_trainer(
        callbacks=[DNW(density=0.2), counter], max_steps=3, accumulate_grad_batches=2
    )
    trainer.fit(Reader(), digits(batch_size=32))
    assert torch.equal(counter.weights[2], counter.weights[1])  # nothing changes in between
    torch.testing.assert_close(counter.weights[-1], whole.weights[-1], atol=1e-6, rtol=1e-4)


def test_a_step_that_the_gradient_scaler_skips_changes_nothing() -> None:
    class Overflow(Reader):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * torch.inf if batch_idx == 2 else loss

    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    counter = Counter()
    trainer = quiet_trainer(
        callbacks=[DNW(density=0.2), counter], limit_train_batches=5, plugins=[plugin]
    )
    trainer.fit(Overflow(), digits())
    assert torch.equal(counter.weights[2], counter.weights[1])
    assert not torch.equal(counter.weights[3], counter.weights[2])
    assert {row[1] for row in counter.counts} == {230}


def test_bf16_keeps_exactly_k() -> None:
    assert fit(DNW(density=0.2), precision="bf16-mixed").counts == [[14, 230, 32]] * 6


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    def train(resume: Path | None) -> Reader:
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=12, save_top_k=-1)
        module = Reader()
        trainer = quiet_trainer(
            callbacks=[DNW(density=0.2), *([] if resume else [saver])],
            enable_checkpointing=resume is None,
            max_epochs=2,
        )
        trainer.fit(module, digits(), ckpt_path=resume, weights_only=True)
        return module

    whole = train(None)
    resumed = train(tmp_path / "step=12.ckpt")
    for ours, expected in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, expected)


def test_the_freeze_keeps_the_edges() -> None:
    phases = [Phase(1), Phase(1, freeze=True)]
    counter = Counter()
    trainer = quiet_trainer(callbacks=[DNW(density=0.2), PhaseSchedule(phases), counter])
    trainer.fit(Reader(), digits())
    steps = len(counter.weights) // 2
    kept = counter.weights[steps - 1] != 0
    assert all(torch.equal(weights != 0, kept) for weights in counter.weights[steps:])
    early = fit(DNW(density=0.2, freeze_epoch=0))
    assert all(torch.equal(w != 0, early.weights[0] != 0) for w in early.weights)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_after_the_freeze_only_the_edges_have_a_gradient(
    clip: float | None, tmp_path: Path
) -> None:
    """By hand it is autograd through fixed masks, so clipping sees the edges only."""
    start = dict(Reader().double().named_parameters())
    masks = {name: largest(start[name], start[name].numel() // 4) for name in SPARSE}

    def fixed(*_: Any) -> Masks:
        return masks

    _, watch = fit_reader(DNW(density=0.25, freeze_epoch=0), gradient_clip_val=clip)
    assert_same(watch.after, *by_hand(fixed, clip=clip))
    learner = DNW(density=0.25, freeze_epoch=1)
    fit_reader(learner, data=batches(2), max_epochs=3, gradient_clip_val=clip)
    for weight, mask in zip(learner._rules[0]._weights, learner._rules[0].masks, strict=True):
        assert weight.grad is not None
        assert not weight.grad[~mask].any()
    make = partial(DNW, density=0.25, freeze_epoch=1)
    check_resuming(make, tmp_path, at=6, gradient_clip_val=clip)


def test_a_compiled_module_is_one_graph() -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    module = Reader()
    compiled = torch.compile(module.forward, backend=counter)
    module.forward = compiled  # type: ignore[method-assign]
    seen = fit(DNW(density=0.2), module, max_steps=6)
    assert counter.frame_count == 1
    assert not torch.equal(seen.weights[0] != 0, seen.weights[-1] != 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0.0}, "above 0 and at most 1, got 0"),
        ({"density": 1.5}, "above 0 and at most 1, got 1.5"),
        ({"edges": 0}, "at least 1, got 0"),
        ({"density": 0.5, "edges": 3}, "a density or a number of edges, not both"),
        ({"density": 0.5, "freeze_epoch": -1}, "freeze_epoch must be at least 0"),
        ({"density": 0.5, "layers": ["LSTM"]}, "found no layer .* Reader: .* LSTM"),
        ({"edges": 100}, "100 edges were asked for in first, but it has only 72 weights"),
        ({}, "either a density or"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit(DNW(**arguments))


def test_weights_outside_every_optimizer_are_refused() -> None:
    class Partly(Reader):
        def configure_optimizers(self) -> Any:
            return SGD(self.head.parameters(), lr=0.1)

    with pytest.raises(MisconfigurationException, match="are in no optimizer"):
        fit(DNW(density=0.5), Partly())
    callbacks = [DNW(density=0.5), PhaseSchedule([Phase(1, gate_lr=0.1)])]
    trainer = quiet_trainer(callbacks=callbacks)
    with pytest.raises(MisconfigurationException, match="remove `gate_lr`"):
        trainer.fit(Reader(), digits())
