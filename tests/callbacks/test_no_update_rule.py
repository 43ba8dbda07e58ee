"""DNW without its update rule, against autograd through the masked weights."""

from functools import partial
from pathlib import Path

import torch
from torch.optim import AdamW

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
from wiring_lightning.callbacks import DNW, NoUpdateRule


def half(_: int, dense: Masks) -> Masks:
    return {name: largest(dense[name], dense[name].numel() // 2) for name in SPARSE}


def test_it_is_autograd_through_the_masked_weights() -> None:
    _, watch = fit(NoUpdateRule(density=0.5))
    assert_same(watch.after, *by_hand(half))


def test_clipping_sees_the_gradients_of_edges_only() -> None:
    _, watch = fit(NoUpdateRule(density=0.5), gradient_clip_val=0.1)
    assert_same(watch.after, *by_hand(half, clip=0.1))


def test_accumulated_batches_are_one_step() -> None:
    _, whole = fit(NoUpdateRule(density=0.5), steps=3)
    halves = [
        (images[part], labels[part])
        for images, labels in batches(3)
        for part in (slice(4), slice(4, None))
    ]
    _, parts = fit(NoUpdateRule(density=0.5), data=halves, accumulate_grad_batches=2)
    for name in SPARSE:
        torch.testing.assert_close(parts.after[name], whole.after[name])


def test_fewer_edges_swap_than_with_the_rule() -> None:
    def swapped(callback: DNW) -> int:
        module = Reader(partial(AdamW, lr=0.02, weight_decay=0.0))
        _, watch = fit(callback, module, steps=12)
        first, *_, last = watch.masks()
        return sum(int((first[name] & ~last[name]).sum()) for name in SPARSE)

    assert swapped(DNW(density=0.5)) > 1.5 * swapped(NoUpdateRule(density=0.5)) > 0


def test_exactly_k_edges_of_a_graph_at_every_step() -> None:
    module, watch = fit(NoUpdateRule(), GraphReader(), steps=8)
    assert edges(module.graph) == module.graph.edges == 20
    for masks in watch.masks():
        assert int(masks["body.4.weight"].sum()) == 20
        assert not (masks["body.4.weight"] & ~module.graph.usable).any()


def test_it_resumes(tmp_path: Path) -> None:
    check_resuming(lambda: NoUpdateRule(density=0.3), tmp_path, at=3)
