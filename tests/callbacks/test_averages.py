"""Averages of the weights have the wiring of their network, and are averages otherwise."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor
from torch.optim import SGD

from tests.callbacks.averaged import (
    AVERAGES,
    ExponentialCopy,
    History,
    Inside,
    Normalized,
    ema,
    fit,
    mean,
    values_of,
)
from tests.callbacks.reader import GraphReader, Reader, batches
from tests.methods import METHODS, digits
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import (
    DNW,
    L1Anneal,
    MaskConnect,
    PruneAndRetrain,
    RandomEdges,
    TargetedDropout,
)

K = {"first.weight": 18, "body.1.weight": 288, "head.weight": 40}  # a quarter


def _largest(value: Tensor, k: int) -> Tensor:
    order = value.flatten().abs().argsort(descending=True, stable=True)
    kept = torch.zeros(value.numel(), dtype=torch.bool)
    kept[order[:k]] = True
    return value * kept.view(value.shape)


def assert_is_average(found: dict[str, Tensor], average: dict[str, Tensor]) -> None:
    """Exactly k weights are there, and what is there is the average."""
    for name, expected in average.items():
        value = found[name].to(expected.dtype)
        if name in K:
            assert int(value.count_nonzero()) == K[name]
            torch.testing.assert_close(value[value != 0], expected[value != 0])
        else:
            torch.testing.assert_close(value, expected)


LEARNERS: dict[str, Callable[[], Callback]] = {
    "DNW": lambda: DNW(density=0.25),
    "DNW, frozen": lambda: DNW(density=0.25, freeze_epoch=1),
    "RandomEdges": lambda: RandomEdges(density=0.25),
    "L1Anneal": lambda: L1Anneal(1e-4, density=0.25),
    "TargetedDropout": lambda: TargetedDropout(0.5, density=0.25),
    "PruneAndRetrain": lambda: PruneAndRetrain(1, density=0.25),
}


# Each learner with both averages, once before the average among the callbacks and once after it.
@pytest.mark.parametrize(("average", "first"), zip(AVERAGES, (True, False), strict=True))
@pytest.mark.parametrize("learner", LEARNERS)
def test_what_is_kept_and_saved_has_exactly_k_and_is_the_average(
    learner: str, average: str, first: bool, tmp_path: Path
) -> None:
    make, expect = AVERAGES[average]
    history, saver = History(), ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    both = [LEARNERS[learner](), make()] if first else [make(), LEARNERS[learner]()]
    module = fit(history, *both, saver, enable_checkpointing=True)
    expected = expect(history.seen)
    kept = dict(module.state_dict())
    assert_is_average(kept, expected)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert_is_average(saved, expected)
    if learner == "DNW":
        for name, k in K.items():
            torch.testing.assert_close(kept[name], _largest(expected[name], k))


@pytest.mark.parametrize("learner", ["DNW", "RandomEdges", "TargetedDropout"])
def test_what_is_validated_has_exactly_k_and_training_goes_on_undisturbed(learner: str) -> None:
    alone, validated = History(), History()
    fit(LEARNERS[learner](), WeightAveraging(), validated)
    steps = len(validated.seen) // 3
    for epoch, values in enumerate(validated.validated):
        assert_is_average(values, mean(validated.seen[: steps * (epoch + 1)]))
    fit(LEARNERS[learner](), alone)
    for ours, theirs in zip(validated.seen, alone.seen, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("learner", ["DNW", "DNW, frozen", "RandomEdges", "L1Anneal"])
def test_stochastic_weight_averaging(learner: str) -> None:
    history = History()
    module = fit(
        history,
        LEARNERS[learner](),
        StochasticWeightAveraging(0.05, swa_epoch_start=2, annealing_epochs=1),
        max_epochs=5,
    )
    starts = history.seen[4::5][:-1]  # the weights at the start of the second epoch, and so on
    assert_is_average(dict(module.state_dict()), mean(starts))


def test_stochastic_weight_averaging_with_batch_norm() -> None:
    """It trains for one more epoch, in which only the statistics of the norms change."""
    history = History()
    module = fit(
        history,
        DNW(density=0.25),
        StochasticWeightAveraging(0.05, swa_epoch_start=2, annealing_epochs=1),
        module=Normalized(),
        max_epochs=4,
    )
    assert_is_average(dict(module.state_dict()), mean(history.seen[4:15:5]))


class Beside(Callback):
    """Keeps a copy of the network as a callback."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ema = ExponentialCopy(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.ema.update(pl_module)


def _from_copy(seen: list[dict[str, Tensor]], start: dict[str, Tensor]) -> dict[str, Tensor]:
    return ema([start, *seen])


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("learner", ["DNW", "RandomEdges"])
def test_a_copy_inside_of_the_module(learner: str, late: bool, tmp_path: Path) -> None:
    history, saver = History(), ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    module = Inside(late)
    start = values_of(module.net)
    fit(history, LEARNERS[learner](), saver, module=module, enable_checkpointing=True)
    seen = [
        {n.removeprefix("net."): v for n, v in values.items() if n.startswith("net.")}
        for values in history.seen
    ]
    copy = dict(module.ema.module.state_dict())
    for name, k in K.items():
        assert int(copy[name].count_nonzero()) == k
        if not late:
            expected = _from_copy(seen, start)[name]
            torch.testing.assert_close(copy[name][copy[name] != 0], expected[copy[name] != 0])
    assert set(module.validated_copies) == {K["body.1.weight"]}
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    for name, k in K.items():
        assert int(saved[f"net.{name}"].count_nonzero()) == k
        assert int(saved[f"ema.module.{name}"].count_nonzero()) == k


def test_a_copy_that_a_callback_keeps() -> None:
    for callbacks in ([Beside(), DNW(density=0.25)], [DNW(density=0.25), Beside()]):
        beside = next(callback for callback in callbacks if isinstance(callback, Beside))
        fit(*callbacks)
        copy = beside.ema.module.state_dict()
        assert {name: int(copy[name].count_nonzero()) for name in K} == K


def test_a_frozen_network_of_the_same_kind_is_no_average() -> None:
    """Such as the teacher of a distillation."""

    class Taught(Reader):
        def __init__(self) -> None:
            super().__init__()
            self.net = Reader()
            self.teacher = Reader().requires_grad_(False)
            with torch.no_grad():
                for parameter in self.teacher.parameters():
                    parameter.add_(0.1)
            del self.first, self.body, self.head

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)

        def validation_step(self, batch: Any, _: int) -> None:
            assert self.teacher.body[1].weight.all()

        def configure_optimizers(self) -> Any:
            return self.make(self.net.parameters())

    with pytest.warns(UserWarning, match=r"teacher.* stay as they are"):
        module = fit(DNW(density=0.25), module=Taught())
    assert module.teacher.head.weight.all()
    assert int(module.net.head.weight.count_nonzero()) == K["head.weight"]


def test_a_deep_copy_is_a_network_of_its_own() -> None:
    class Copies(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
            self.copy = deepcopy(module.body)

    copies = Copies()
    module = fit(TargetedDropout(0.5, density=0.25), copies)
    before = copies.copy[1].weight.clone()
    assert torch.equal(copies.copy.state_dict()["1.weight"], before)
    assert int(before.count_nonzero()) > K["body.1.weight"]
    assert int(module.state_dict()["body.1.weight"].count_nonzero()) == K["body.1.weight"]


@pytest.mark.parametrize("learner", ["DNW", "TargetedDropout"])
@pytest.mark.parametrize("average", AVERAGES)
def test_a_resumed_run_with_an_average_equals_the_uninterrupted_one(
    learner: str, average: str, tmp_path: Path
) -> None:
    make, _ = AVERAGES[average]
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=10, save_top_k=-1)
    whole = fit(LEARNERS[learner](), make(), saver, enable_checkpointing=True)
    resumed = fit(LEARNERS[learner](), make(), ckpt_path=tmp_path / "step=10.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_graph_keeps_its_edges() -> None:
    module = fit(DNW(), EMAWeightAveraging(decay=0.5), module=GraphReader())
    assert int(module.graph.weight.count_nonzero()) == 20
    assert not module.graph.weight[~module.graph.usable].any()


@pytest.mark.parametrize("average", [WeightAveraging, lambda: EMAWeightAveraging(decay=0.5)])
@pytest.mark.parametrize("freeze", [None, 1])
def test_a_learned_wiring_is_never_averaged(
    average: Callable[[], Callback], freeze: int | None, tmp_path: Path
) -> None:
    class Wirings(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
            self.last = {
                name: value.clone()
                for name, value in module.state_dict().items()
                if name.endswith(("scores", "active", "frozen"))
            }

    wirings, saver = Wirings(), ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    task = METHODS[0].task()
    callbacks = [MaskConnect(lr=0.5, freeze_epoch=freeze), average(), wirings, saver]
    limits = {"max_epochs": 2, "limit_train_batches": 4}
    trainer = quiet_trainer(callbacks=callbacks, enable_checkpointing=True, **limits)
    trainer.fit(task, digits(8))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in wirings.last.items():
        assert torch.equal(task.state_dict()[name], value), name
        assert torch.equal(saved[name], value), name
        if name.endswith("active"):
            assert (value.sum(1) == 2).all()


class Prober(Callback):
    """Writes dense values into the layers of a group, and looks at what a `state_dict` says."""

    def __init__(self, learner: DNW) -> None:
        self.learner, self.calls = learner, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        settled = self.learner.settled

        def counted(*arguments: Any) -> list[Tensor]:
            self.calls += 1
            return settled(*arguments)

        self.learner.settled = counted  # type: ignore[method-assign]

    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = {name: pl_module.get_parameter(name) for name in K}
        kept: dict[str, Any] = {}
        for destination in (kept, kept, None):  # the same dict again, and one of torch
            for value in weights.values():
                value.normal_()
            flat = torch.cat([value.flatten() for value in weights.values()])
            expected = _largest(flat, sum(K.values())).split([w.numel() for w in weights.values()])
            self.calls = 0
            head = pl_module.get_submodule("head").state_dict()["weight"]
            assert self.calls == 1
            torch.testing.assert_close(head.flatten(), expected[-1])
            found = pl_module.state_dict(**({} if destination is None else {"destination": kept}))
            assert self.calls == 2
            for name, value in zip(weights, expected, strict=True):
                assert torch.equal(found[name].flatten(), value)


def test_a_group_is_settled_once_for_a_state_dict() -> None:
    learner = DNW(density=0.25, groups={"all": ["first", "body.1", "head"]})
    fit(learner, WeightAveraging(), Prober(learner), max_epochs=1)


class Fails(Callback):
    """Raises an error after a step of the last epoch."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 13:
            raise ValueError("boom")


@pytest.mark.parametrize(("learner", "first"), zip(LEARNERS, cycle((True, False)), strict=False))
def test_what_is_saved_at_an_exception_is_the_average_with_exactly_k(
    learner: str, first: bool, tmp_path: Path
) -> None:
    """Twice: by the checkpoint callbacks, which come last, and by one that comes first."""
    history, module = History(), Reader(partial(SGD, lr=0.3, momentum=0.9))
    saver = OnExceptionCheckpoint(tmp_path, "late")
    own = LEARNERS[learner]()
    both = [own, EMAWeightAveraging(decay=0.7)][:: 1 if first else -1]

    class Early(Callback):
        def on_exception(self, trainer: Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "early.ckpt")
            self.trainer = trainer

    early = Early()
    with pytest.raises(ValueError, match="boom"):
        fit(early, history, *both, Fails(), saver, module=module, enable_checkpointing=True)
    for name in ("early", "late"):
        saved = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["state_dict"]
        assert_is_average(saved, ema(history.seen))
    # The learner has let go of the network and of the trainer.
    assert {type(callback) for callback in early.trainer.callbacks} == {
        *map(type, [early, history, *both, saver, Fails()])
    }
    with torch.no_grad():
        module.head.weight.fill_(1)
    assert module.state_dict()["head.weight"].all()


@pytest.mark.parametrize("learner", ["DNW", "TargetedDropout"])
def test_an_error_while_an_exception_is_handled_leaves_the_network_alone(learner: str) -> None:
    class FailsTwice(Fails):
        on = True

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if self.on:
                super().on_train_batch_end(trainer)

        def on_exception(self, *_: Any) -> None:
            raise OSError("disk full")

    module, failing = Reader(), FailsTwice()
    callbacks = [LEARNERS[learner](), failing]
    trainer = quiet_trainer(callbacks=callbacks, max_epochs=3)
    data = torch.utils.data.DataLoader(batches(5, torch.float32), batch_size=None)
    with pytest.raises(OSError, match="disk full"):
        trainer.fit(module, data)
    with torch.no_grad():
        before = module.head.weight.fill_(1).clone()
    assert torch.equal(module.state_dict()["head.weight"], before)
    # Another fit with this trainer cleans up.
    failing.on = False
    trainer.fit(Reader(), data)
    assert trainer.callbacks == callbacks
    assert not any(each._state_dict_hooks for each in module.modules())
