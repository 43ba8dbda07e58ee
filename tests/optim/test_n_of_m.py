"""N:M sparse weights: blocks against a sort, SR-STE by hand, and what the callback leaves dense."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.utils import prune
from torch.optim import SGD

from tests.callbacks.reader import (
    GraphReader,
    Masks,
    Reader,
    assert_same,
    batches,
    by_hand,
    check_resuming,
    fit,
)
from wiring_lightning.callbacks import NMSparsity, WiringError
from wiring_lightning.functional import mask_n_of_m
from wiring_lightning.optim import BlockEdgeSet, SparseRefined


@pytest.mark.parametrize(
    ("shape", "n", "m", "axis"),
    [
        ((5, 8), 2, 4, 1),
        ((3, 8, 3, 3), 1, 4, 1),
        ((8, 3, 2), 2, 8, 0),
        ((2, 6), 2, 3, 1),
        ((1, 512), 3, 256, 1),
    ],
)
@pytest.mark.parametrize("ties", [False, True])
def test_blocks_are_chosen_as_a_stable_sort_would(
    shape: tuple[int, ...], n: int, m: int, axis: int, ties: bool
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight = weight.round() if ties else weight
    found = mask_n_of_m(weight, n, m, axis).movedim(axis, -1).reshape(-1, m)
    for block, marked in zip(weight.movedim(axis, -1).reshape(-1, m), found, strict=True):
        order = sorted(range(m), key=lambda i: (-abs(float(block[i])), i))
        assert sorted(order[:n]) == marked.nonzero().flatten().tolist()


def test_sr_ste_is_the_papers_equation_with_momentum_too() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(3, 8, dtype=torch.float64))
    optimizer = SGD([weight], lr=0.1, momentum=0.9)
    dense, velocity = weight.detach().clone(), torch.zeros(3, 8, dtype=torch.float64)
    rule = SparseRefined(optimizer, [BlockEdgeSet([weight], k=12)], decay=0.3)
    images = torch.randn(4, 3, 8, dtype=torch.float64)
    for image in images:
        mask = mask_n_of_m(dense, 2, 4)
        twin = (dense * mask).requires_grad_()
        (gradient,) = torch.autograd.grad((twin * image).sum().square(), twin)
        velocity = 0.9 * velocity + gradient + 0.3 * dense * ~mask
        dense = dense - 0.1 * velocity
        optimizer.zero_grad()
        (weight * image).sum().square().backward()
        rule.decay_absent()
        optimizer.step()
        torch.testing.assert_close(rule.latent[0], dense, rtol=1e-12, atol=1e-12)
        assert torch.equal(weight != 0, mask_n_of_m(dense, 2, 4))


def test_averages_get_blocks_too() -> None:
    weight = nn.Parameter(torch.randn(2, 8))
    rule = SparseRefined(SGD([weight], lr=0.1), [BlockEdgeSet([weight], k=8)])
    (settled,) = rule.settled(0, [torch.randn(2, 8)])
    assert settled.view(-1, 4).count_nonzero(1).tolist() == [2] * 4
    values = [weight.detach()]
    assert rule.settled(0, values) is values


def test_layers_without_blocks_stay_dense_and_are_named() -> None:
    learner = NMSparsity(2, 4)
    _, watch = fit(learner)
    assert "first" in learner.summary()
    for weights in watch.before:
        assert int(weights["first.weight"].count_nonzero()) == 72
        blocks = weights["body.1.weight"].movedim(1, -1).reshape(-1, 4)
        assert int(blocks.count_nonzero(1).max()) == 2
        assert int(weights["head.weight"].count_nonzero()) == 80


@pytest.mark.parametrize("clip", [None, 0.1])
def test_after_the_freeze_nothing_decays_and_only_edges_have_a_gradient(
    clip: float | None, tmp_path: Path
) -> None:
    """By hand it is autograd through fixed masks, so clipping sees the edges only."""
    start = dict(Reader().double().named_parameters())
    masks = {name: mask_n_of_m(start[name], 2, 4) for name in ("body.1.weight", "head.weight")}

    def fixed(*_: Any) -> Masks:
        return masks

    _, watch = fit(NMSparsity(2, 4, decay=0.5, freeze_epoch=0), gradient_clip_val=clip)
    assert_same(watch.after, *by_hand(fixed, clip=clip))
    learner = NMSparsity(2, 4, decay=0.5, freeze_epoch=1)
    fit(learner, data=batches(2), max_epochs=3, gradient_clip_val=clip)
    for weight, mask in zip(learner._rules[0]._weights, learner._rules[0].masks, strict=True):
        assert weight.grad is not None
        assert not weight.grad[~mask].any()
    make = partial(NMSparsity, 2, 4, freeze_epoch=1)
    check_resuming(make, tmp_path, at=6, gradient_clip_val=clip)


def test_transposed_convolutions_have_their_inputs_first() -> None:
    class Upward(Reader):
        def __init__(self) -> None:
            super().__init__()
            self.body[1] = nn.ConvTranspose2d(8, 6, 1)
            self.body[2] = nn.Identity()
            self.head = nn.Linear(6, 10)

    _, watch = fit(NMSparsity(2, 4), Upward())
    blocks = watch.after["body.1.weight"].movedim(0, -1).reshape(-1, 4)
    assert blocks.count_nonzero(1).tolist() == [2] * 12


@pytest.mark.parametrize("groups", [2, 4])
def test_no_block_crosses_the_groups_of_a_transposed_convolution(groups: int) -> None:
    class Upward(Reader):
        def __init__(self) -> None:
            super().__init__()
            self.body[1] = nn.ConvTranspose2d(8, 16, 1, groups=groups)

    _, watch = fit(NMSparsity(2, 4), Upward())
    weight = watch.after["body.1.weight"]
    of_groups = weight.unflatten(0, (groups, -1)).count_nonzero((1, 2, 3, 4)).tolist()
    assert of_groups == ([16, 16] if groups == 2 else [8] * 4)  # 2 of 4, or dense
    assert watch.after["head.weight"].count_nonzero() == 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 4}, "1 <= n < m <= 64, got n=4 and m=4"),
        ({"n": 1.5}, "n must be a whole number, got 1.5"),
        ({"n": 0}, "1 <= n < m <= 64, got n=0 and m=4"),
        ({"decay": -1.0}, "decay must be a number from 0 up"),
        ({"m": 7}, "no layer of Reader has a number of inputs that is a multiple of 7"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit(NMSparsity(**arguments))
    with pytest.raises(ValueError, match="n must be between 1 and m"):
        mask_n_of_m(torch.ones(2, 4), 5, 4)
    with pytest.raises(ValueError, match="has no blocks of 4"):
        mask_n_of_m(torch.ones(2, 6), 2, 4)


class Pruned(Reader):
    """Two layers that torch has pruned, and one with a single input."""

    def __init__(self) -> None:
        super().__init__()
        for layer in (self.body[1], self.head):
            prune.random_unstructured(layer, "weight", 0.5)


def test_layers_that_something_else_has_made_sparse_are_named() -> None:
    told = (
        "no layer of Pruned can have blocks; body.1, head: pruned by torch.nn.utils.prune "
        "(call prune.remove first); first: without a multiple of 4 inputs (choose another m)."
    )
    with pytest.raises(MisconfigurationException, match=re.escape(told)):
        fit(NMSparsity(2, 4), Pruned())
    module = Pruned()
    prune.remove(module.body[1], "weight")
    prune.remove(module.head, "weight")
    fit(NMSparsity(2, 4), module)  # as the sentence says
    told = "GraphReader can have blocks; body.4: a graph with edges of its own (use DNW)."
    with pytest.raises(MisconfigurationException, match=re.escape(told)):
        fit(NMSparsity(2, 4), GraphReader())


def test_weights_that_are_no_numbers_are_called_so() -> None:
    """SAM is not blamed for a loss that has diverged."""

    class Diverges(Reader):
        def training_step(self, batch: Any, index: int) -> Any:
            return super().training_step(batch, index) * float("nan")

    with pytest.raises(WiringError, match=r"body.1.weight.* no numbers; has the loss diverged"):
        fit(NMSparsity(2, 4), Diverges(), limit_val_batches=1)
