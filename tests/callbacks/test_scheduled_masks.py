"""Masks that change by rule, in a trainer: times, densities, and what a user may get wrong."""

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from tests.callbacks.reader import Batch, Reader, Watch, batches, check_resuming, fit
from wiring_lightning.callbacks import (
    ACDC,
    DNW,
    SET,
    SNIP,
    GradualPruning,
    MaskSchedule,
    Phase,
    PhaseSchedule,
    PruneAtStart,
    RigL,
    WiringError,
)

PLAIN = partial(SGD, lr=0.05)


def numbers(watch: Watch, name: str = "body.1.weight") -> list[int]:
    """How many weights of a layer each step trained with."""
    return [int(weights[name].count_nonzero()) for weights in watch.before]


class Masks(Callback):
    """The masks of a learner's only rule in every step."""

    def __init__(self, learner: MaskSchedule) -> None:
        self.learner = learner
        self.seen: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.seen.append(torch.cat([mask.flatten() for mask in self.learner._rules[0].masks]))

    def changes(self) -> list[int]:
        """Before which steps, from 0, they changed."""
        pairs = enumerate(pairwise(self.seen), start=1)
        return [step for step, (one, two) in pairs if not torch.equal(one, two)]


def test_rigl_grows_where_the_dense_gradient_of_all_accumulated_batches_is_largest() -> None:
    """The twin computes that gradient by autograd, from both batches, at the same weights."""
    module, data = Reader(PLAIN), batches(4)
    learner = RigL(density=0.25, delta_t=2, until=1.0, alpha=0.5, total_steps=100)
    _, watch = fit(learner, module, data=data, accumulate_grad_batches=2)
    twin, name = Reader(PLAIN).double(), "body.1.weight"
    start = watch.before[2]  # the weights of the second step
    for key, parameter in twin.named_parameters():
        if key in start:
            parameter.data.copy_(start[key])
        elif "bias" in key:
            parameter.data.copy_(_bias_after_first_step(key, data))
    loss = sum(functional.cross_entropy(twin(x), y) / 2 for x, y in data[2:])
    gradient = torch.autograd.grad(loss, twin.body[1].weight)[0]
    old = start[name] != 0
    stepped = start[name] - 0.05 * gradient * old
    k = 288
    moved = round(0.25 * (1 + torch.cos(torch.tensor(2 / 100 * torch.pi)).item()) * k)
    order = stepped.abs().flatten().masked_fill(~old.flatten(), -1).argsort(descending=True)
    kept = torch.zeros(old.numel(), dtype=torch.bool).index_fill_(0, order[: k - moved], True)
    order = gradient.abs().flatten().masked_fill(kept, -1).argsort(descending=True)
    expected = kept.index_fill(0, order[:moved], True).view_as(old)
    rule = learner._rules[0]
    assert torch.equal(rule.masks[1], expected)


def _bias_after_first_step(key: str, data: list[Batch]) -> Tensor:
    """A bias after one plain step with the same sparse weights."""
    module = Reader(PLAIN)
    learner = RigL(density=0.25, delta_t=2, until=1.0, alpha=0.5, total_steps=100)
    fit(learner, module, data=data[:2], accumulate_grad_batches=2)
    return dict(module.named_parameters())[key].detach()


@pytest.mark.parametrize(
    ("learner", "expected"),
    [
        (RigL(density=0.25, delta_t=2, until=0.75), [2, 4]),  # of 8 steps; none after the sixth
        (RigL(density=0.25, delta_t=2, until=0.75, total_steps=4), [2]),
        (SET(density=0.25), [4]),  # after every epoch of four steps but the last
        (SET(density=0.25, every=3, unit="step", until=1.0), [3, 6]),
        (PruneAtStart(density=0.25), []),
    ],
)
def test_edges_move_when_they_should(learner: MaskSchedule, expected: list[int]) -> None:
    masks = Masks(learner)
    _, watch = fit(learner, Reader(PLAIN), steps=4, max_epochs=2, callbacks=[masks])
    assert masks.changes() == expected
    assert {int(mask.sum()) for mask in masks.seen} == {18 + 288 + 40}
    assert all(number <= 288 for number in numbers(watch))


STATIC = [
    partial(RigL, density=0.25),  # delta_t is 100
    partial(RigL, density=0.25, delta_t=3, until=0.5),  # 0 at T_end
    partial(SET, density=0.25),  # one epoch
    partial(MaskSchedule, density=0.25, every=6, until=1.0, fraction=0.3),  # after the last step
    partial(MaskSchedule, density=0.25, every=2, fraction=0.001),  # less than half a weight
]
MOVING = [
    partial(RigL, density=0.25, delta_t=2),
    partial(SET, density=0.25, every=4, unit="step"),
    partial(MaskSchedule, density=0.25, fraction=0.3),  # the only change is at the end of `until`
    partial(MaskSchedule, density=0.25, every=2, until=0.34, fraction=0.3),
    partial(RigL, density=0.25, total_steps=10**6),  # this run is a part of a longer one
]


@pytest.mark.parametrize("make", STATIC)
def test_a_run_in_which_nothing_moves_is_told_once(make: Any) -> None:
    learner = make()
    masks = Masks(learner)
    with pytest.warns(UserWarning, match="no change in this run moves a weight") as caught:
        fit(learner, callbacks=[masks])
    assert sum("no change in this run" in str(one.message) for one in caught) == 1
    assert masks.changes() == []


@pytest.mark.parametrize("make", MOVING)
def test_a_run_in_which_something_moves_is_not(make: Any, recwarn: pytest.WarningsRecorder) -> None:
    learner = make()
    masks = Masks(learner)
    fit(learner, callbacks=[masks])
    assert bool(masks.changes()) == (learner.total_steps is None)
    assert not any("no change in this run" in str(one.message) for one in recwarn)


def test_a_freeze_before_the_first_change_is_told_too(recwarn: pytest.WarningsRecorder) -> None:
    for every, told in ((3, True), (2, False)):
        learner = RigL(density=0.25, delta_t=every, freeze_epoch=1)
        fit(learner, steps=2, max_epochs=4)
        assert any("no change in this run" in str(one.message) for one in recwarn) == told
        recwarn.clear()
    for quiet in (GradualPruning(density=0.25), PruneAtStart(density=0.25)):
        fit(quiet)
    assert not any("no change in this run" in str(one.message) for one in recwarn)


@pytest.mark.parametrize("kwargs", [{"max_steps": 8, "max_epochs": -1}, {"max_epochs": 2}])
def test_the_length_of_the_training_is_that_of_the_trainer(kwargs: dict[str, Any]) -> None:
    _, watch = fit(GradualPruning(density=0.25, every=2, until=1.0), steps=4, **kwargs)
    cubic = [round(288 + 864 * (1 - step / 8) ** 3) for step in (0, 2, 4, 6)]
    assert numbers(watch) == [number for number in cubic for _ in range(2)]
    assert int(watch.after["body.1.weight"].count_nonzero()) == 288


@pytest.mark.parametrize(
    ("make", "start", "until", "fall"),
    [
        (GradualPruning, 0.5, 0.5, 4),
        (GradualPruning, 0.5, 0.54, 4),  # the same step of eight
        (DNW, 0.5, 0.5, 4),
        (GradualPruning, 0.0, 0.05, 0),
    ],
)
def test_a_span_of_no_step_prunes_at_once(make: Any, start: float, until: float, fall: int) -> None:
    _, watch = fit(make(density=0.25, initial_density=1.0, start=start, until=until), steps=8)
    assert numbers(watch) == [1152] * fall + [288] * (8 - fall)
    if not fall:
        largest = torch.topk(Reader().body[1].weight.flatten().abs(), 288).indices
        assert watch.before[0]["body.1.weight"].flatten()[largest].all()


def test_phases_say_how_long_the_training_is() -> None:
    learner = GradualPruning(density=0.25, every=2, until=1.0)
    _, watch = fit(learner, steps=4, callbacks=[PhaseSchedule([Phase(1), Phase(1)])])
    assert len(watch.before) == 8
    assert numbers(watch)[-1] == round(288 + 864 / 64)


def test_ac_dc_is_dense_and_sparse_by_turns() -> None:
    learner = ACDC(density=0.25, every=2, unit="step", start=0.25, until=0.75)
    _, watch = fit(learner, steps=8)
    # What comes back starts at zero, so it is seen one step later.
    assert numbers(watch) == [1152] * 2 + [288] * 3 + [1152] * 1 + [288] * 2


def test_the_density_of_dnw_falls_step_by_step_and_resumes(tmp_path: Path) -> None:
    learner = DNW(density=0.25, initial_density=1.0, until=0.5)
    _, watch = fit(learner, steps=8)
    cubic = [round(288 + 864 * (1 - min(step / 4, 1)) ** 3) for step in range(8)]
    assert numbers(watch) == cubic
    check_resuming(partial(DNW, density=0.3, initial_density=0.9), tmp_path, at=3)
    early = DNW(density=0.25, initial_density=1.0, freeze_epoch=1)
    _, watch = fit(early, steps=3, max_epochs=2, limit_val_batches=1)
    assert numbers(watch)[:1] + numbers(watch)[3:] == [1152, 288, 288, 288]
    with pytest.warns(UserWarning, match="only after step 75, but"):
        fit(DNW(density=0.5, initial_density=1.0, total_steps=100))


def test_snip_is_the_sensitivity_of_the_first_batch_in_all_layers_together() -> None:
    data = batches(2)
    _, watch = fit(SNIP(density=0.1), Reader(PLAIN), data=data)
    twin = Reader(PLAIN).double()
    layers = [twin.first.weight, twin.body[1].weight, twin.head.weight]
    loss = functional.cross_entropy(twin(data[0][0]), data[0][1])
    scores = [
        (w * g).abs().flatten()
        for w, g in zip(layers, torch.autograd.grad(loss, layers), strict=True)
    ]
    order = torch.cat(scores).argsort(descending=True)[:138]  # of 72 + 1152 + 160
    expected = torch.zeros(1384, dtype=torch.bool).index_fill_(0, order, True)
    names = ("first.weight", "body.1.weight", "head.weight")
    found = torch.cat([(watch.before[1][name] != 0).flatten() for name in names])
    assert torch.equal(found, expected)


def test_densities_by_pattern_and_dense_ends() -> None:
    def counts(**choice: Any) -> list[int]:
        groups = DNW(**choice).find_groups(None, Reader())  # type: ignore[arg-type]
        return [group.k for group in groups]

    assert counts(density={"Conv2d": 0.5, "head": 0.1}) == [36, 576, 16]
    assert counts(density={"first": 0.25, "Conv2d": 0.5}) == [18, 576]
    assert counts(density=0.5, first_dense=True, last_dense=True) == [576]
    assert counts(density=0.1, distribution="global") == [138]
    assert counts(density=0.01, min_edges=5) == [5, 12, 5]
    assert sum(counts(density=0.1, distribution="erk")) == 138
    assert counts(density=0.5, layers=["head"], vectors=["*.bias", "GroupNorm"]) == [
        80, 4, 4, 4, 8, 8, 8, 5
    ]  # fmt: skip


def test_vectors_are_sparse_only_if_asked_for() -> None:
    _, watch = fit(PruneAtStart(density=0.5, vectors=["body.2.weight"]))
    assert numbers(watch, "body.2.weight") == [8] * 6
    assert numbers(watch, "body.0.weight") == [8] * 6  # the scale of the other norm, all of it


def test_every_layer_keeps_its_least_number_when_all_compete() -> None:
    class Uneven(Reader):
        def __init__(self) -> None:
            super().__init__()
            with torch.no_grad():
                self.first.weight.mul_(1e-6)

    for learner in (DNW, PruneAtStart):
        kept = [
            numbers(fit(learner(density=0.1, distribution="global", min_edges=n), Uneven())[1],
                    "first.weight")[0]
            for n in (0, 7)
        ]  # fmt: skip
        assert kept == [0, 7]


@pytest.mark.parametrize(
    ("make", "at"),
    [
        (partial(RigL, density=0.3, delta_t=2, until=1.0), 3),
        (partial(SET, density=0.3), 2),
        (partial(MaskSchedule, density=0.3, every=3, fraction=0.5, grow="momentum"), 4),
        (partial(ACDC, density=0.3, every=1, unit="step", start=0.25), 3),
        (partial(SNIP, density=0.3), 2),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one(make: Any, at: int, tmp_path: Path) -> None:
    check_resuming(make, tmp_path, at)


def test_what_moves_weights_elsewhere_is_found() -> None:
    class Fill(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            nn.init.ones_(pl_module.body[1].weight)

    with pytest.raises(WiringError, match=r"body.1 has 1,152 of 1,152 weights, not 288"):
        fit(RigL(density=0.25), callbacks=[Fill()])


def test_a_fit_that_ends_before_the_final_density_is_told() -> None:
    with pytest.warns(UserWarning, match="only after step 75, but"):
        fit(GradualPruning(density=0.5, every=25, total_steps=100))


class EveryOther(Reader):
    """Steps its optimizer in every second batch only, which no trainer knows."""

    def __init__(self) -> None:
        super().__init__(PLAIN)
        self.automatic_optimization = False

    def training_step(self, batch: Batch, index: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(functional.cross_entropy(self(batch[0]), batch[1]))
        if index % 2:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("make", [RigL, SET, MaskSchedule])
def test_masks_that_were_to_change_longer_are_told(make: Any) -> None:
    options = {"alpha": 0.3, "delta_t": 2} if make is RigL else {"fraction": 0.3, "every": 1}
    with pytest.warns(UserWarning, match=r"until step (18|24), of which there were 12, but"):
        fit(make(density=0.5, **options), EveryOther(), max_epochs=4)  # of 24 batches


@pytest.mark.parametrize(
    "learner",
    [
        RigL(density=0.5, delta_t=2),  # in a whole training
        RigL(density=0.5, delta_t=5, total_steps=9),  # nothing changes between step 6 and the end
        SNIP(density=0.5),
        RigL(density=0.5, delta_t=2, freeze_epoch=0, total_steps=99),
    ],
)
def test_masks_that_have_changed_as_planned_are_not_told(
    learner: MaskSchedule, recwarn: pytest.WarningsRecorder
) -> None:
    fit(learner, max_epochs=1)
    assert not [w for w in recwarn if "masks change until" in str(w.message)]


@pytest.mark.parametrize("limits", [{"limit_train_batches": 0}, {"max_steps": 0}])
def test_a_training_without_steps_is_told(limits: dict[str, int]) -> None:
    with pytest.raises(MisconfigurationException, match="the training has no step: give"):
        fit(RigL(density=0.5), **limits)


@pytest.mark.parametrize(("before", "after"), [("gradient", "momentum"), ("momentum", "random")])
def test_a_run_may_resume_with_another_way_to_grow(before: Any, after: Any, tmp_path: Path) -> None:
    """The average of gradients starts with the first step after the resume."""
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    make = partial(MaskSchedule, density=0.5, every=2, fraction=0.3, average=0.5, total_steps=99)
    fit(make(grow=before), callbacks=[saver], enable_checkpointing=True, max_epochs=1)
    learner = make(grow=after)
    fit(learner, resume=tmp_path / "step=6.ckpt", max_epochs=2)
    assert learner._rules[0].steps == 12
    averages = learner._rules[0].averages
    assert all(bool(own.isfinite().all() and own.any()) for own in averages)
    assert bool(averages) == (after == "momentum")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"start": 0.5, "until": 0.4}, "0 <= start <= until <= 1"),
        ({"until": 1.5}, "0 <= start <= until <= 1"),
        ({"fraction": 1.5}, "fraction must be at least 0 and at most 1, got 1.5"),
        ({"fraction": float("nan")}, "fraction must be at least 0"),
        ({"average": 1.0}, "average must be at least 0 and below 1, got 1.0"),
        ({"initial_density": 0.0}, "initial_density must be above 0"),
        ({"initial_density": 0.1}, "initial_density=0.1 is below the final density 0.5"),
        ({"density": {"*": 0.3}, "initial_density": 0.1}, "is below the final density 0.3"),
        ({"density": None, "edges": 72, "initial_density": 0.05}, "the final density 0.0625"),
        ({"total_steps": 0}, "total_steps must be at least 1"),
        ({"unit": "batch"}, "unit must be one of step, epoch, got batch"),
        ({"density_decay": "constant"}, "density_decay must be one of linear, cosine, cubic"),
        ({"grow": "hope"}, "grow must be one of gradient, random, momentum, got hope"),
        ({"distribution": "even"}, "no distribution even; there are uniform, erdos_renyi, erk"),
        ({"density": {}}, "density has no pattern"),
        ({"density": {"Conv2d": 2.0}}, "density of Conv2d must be above 0 and at most 1, got 2.0"),
        ({"density": {"LSTM": 0.5}}, "matches LSTM"),
        (
            {"density": {"Conv2d": 0.5}, "layers": ["Linear"]},
            "no pattern in `density` matches head",
        ),
        ({"density": {"Conv2d": 0.5}, "distribution": "erk"}, "shares out one density"),
        ({"density": {"Conv2d": 0.5}, "distribution": "global"}, "one density for all layers"),
        ({"distribution": "global", "groups": {"a": ["Linear"]}}, "remove `groups`"),
        ({"min_edges": -1}, "min_edges must be at least 0, got -1"),
        ({"min_edges": 1.5}, "min_edges must be a whole number, got 1.5"),
        ({"density": None, "edges": 5.5}, "edges must be a whole number, got 5.5"),
        ({"density": None, "edges": True}, "edges must be a whole number, got True"),
        ({"every": 1.5}, "every must be a whole number, got 1.5"),
        ({"total_steps": 9.5}, "total_steps must be a whole number, got 9.5"),
        ({"density": 0.001, "distribution": "global", "min_edges": 9}, "min_edges asks for 27"),
        ({"vectors": ["LSTM"]}, "no parameter of one axis in Reader .* LSTM"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit(MaskSchedule(**{"density": 0.5, **arguments}))
