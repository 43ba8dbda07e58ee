"""Pruning step by step under an L1 penalty."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins.precision import MixedPrecision

from tests.callbacks.reader import (
    SPARSE,
    GraphReader,
    Masks,
    Reader,
    assert_same,
    batches,
    by_hand,
    check_resuming,
    edges,
    fit,
    largest,
)
from tests.callbacks.test_run_length import Endless
from wiring_lightning.callbacks import L1Anneal, Phase, PhaseSchedule

SIZES = (72, 1152, 160)


def counts(masks: Masks) -> list[int]:
    return [int(masks[name].sum()) for name in SPARSE]


def test_the_number_of_edges_falls_in_equal_parts_to_k_in_the_last_epoch() -> None:
    _, watch = fit(L1Anneal(density=0.25), data=batches(2), max_epochs=4)
    seen = [counts(masks) for masks in watch.masks()][1::2]  # as every epoch trains
    kept = (18, 288, 40)
    assert seen == [
        [size - round((size - k) * done / 3) for size, k in zip(SIZES, kept, strict=True)]
        for done in range(4)
    ]


@pytest.mark.parametrize(("epoch", "full", "last"), [(0, False, 0), (2, True, 2)])
def test_the_freeze_epoch_is_where_k_is_reached(epoch: int, full: bool, last: int) -> None:
    callback = L1Anneal(density=0.25, freeze_epoch=epoch)
    _, watch = fit(callback, data=batches(2), max_epochs=4)
    seen = [counts(masks) for masks in watch.masks()][1::2]
    assert (seen[0] == list(SIZES)) == full
    assert seen[last:] == [[18, 288, 40]] * (4 - last)


def test_a_phase_that_freezes_prunes_at_once() -> None:
    schedule = PhaseSchedule([Phase(1), Phase(3, freeze=True)])
    _, watch = fit(L1Anneal(density=0.25), data=batches(2), max_epochs=4, callbacks=[schedule])
    seen = [counts(masks) for masks in watch.masks()][1::2]
    assert seen == [list(SIZES), *[[18, 288, 40]] * 3]


@pytest.mark.parametrize("clip", [None, 0.1])
def test_it_is_pruning_by_magnitude_and_autograd_of_the_penalty(clip: float | None) -> None:
    _, watch = fit(L1Anneal(0.01, density=0.25), data=batches(2), max_epochs=3,
                   gradient_clip_val=clip)  # fmt: skip
    masks = {name: torch.ones_like(weight) for name, weight in _sparse(Reader()).items()}
    start = dict(masks)

    def anneal(step: int, dense: Masks) -> Masks:
        if step % 2 == 0 and step < 6:
            for name, size in zip(SPARSE, SIZES, strict=True):
                number = size - round((size - size // 4) * (step // 2) / 2)
                left = dense[name] * masks[name]
                masks[name] = largest(left, number) & (left != 0)
        return {name: start[name] * masks[name] for name in SPARSE}

    expected, last = by_hand(anneal, data=batches(2) * 3, penalty=0.01, clip=clip)
    assert_same(watch.after, expected, last)


def _sparse(module: Reader) -> Masks:
    return {name: p for name, p in module.named_parameters() if name in SPARSE}


def test_the_penalty_is_that_of_a_step_not_of_its_batches_and_not_scaled() -> None:
    whole, _ = fit(L1Anneal(0.1, density=1.0), steps=3)
    halves = [
        (images[part], labels[part])
        for images, labels in batches(3)
        for part in (slice(4), slice(4, None))
    ]
    parts, _ = fit(L1Anneal(0.1, density=1.0), data=halves, accumulate_grad_batches=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    single = batches(3, torch.float32)
    kw: dict[str, Any] = {"precision": None, "plugins": [plugin], "data": single}
    scaled, _ = fit(L1Anneal(0.1, density=1.0), **kw)
    for ours, other, expected in zip(
        parts.parameters(), scaled.parameters(), whole.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, expected)
        assert (other - expected).abs().mean() < 0.01  # the penalty moves weights by 0.03


def test_a_graph_starts_complete_and_ends_with_its_edges() -> None:
    module, watch = fit(L1Anneal(), GraphReader(), data=batches(2), max_epochs=3)
    name = "body.4.weight"
    assert [int(masks[name].sum()) for masks in watch.masks()][1::2] == [120, 70, 20]
    assert edges(module.graph) == 20
    assert not ((module.graph.weight != 0) & ~module.graph.usable).any()


def test_it_resumes(tmp_path: Path) -> None:
    check_resuming(lambda: L1Anneal(1e-3, density=0.25), tmp_path, at=6, max_epochs=3)
    check_resuming(lambda: L1Anneal(1e-3, density=0.25), tmp_path, at=8, max_epochs=3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ({"penalty": -1.0, "density": 0.5}, {}, "L1Anneal: penalty must be .* got -1"),
        (
            {"density": 0.5},
            {"max_epochs": -1, "max_steps": 2, "data": Endless()},
            "give the trainer `max_epochs`",
        ),
        ({"density": 2.0}, {}, "L1Anneal: density must be above 0"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(
    arguments: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit(L1Anneal(**arguments), **options)
