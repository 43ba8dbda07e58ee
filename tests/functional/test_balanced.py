"""Balanced scores and balanced choices, against brute force and against what defines them."""

import math
from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import Tensor

from wiring_lightning.functional import balance_scores, balanced_mask

SHAPES = [(4, 4), (6, 3), (3, 7)]


@pytest.mark.parametrize("shape", SHAPES)
def test_targets_sum_to_one_and_sources_to_their_share(shape: tuple[int, int]) -> None:
    scores = balance_scores(torch.rand(5, *shape, dtype=torch.float64), rounds=200)
    share = shape[0] / shape[1]
    torch.testing.assert_close(scores.sum(-1), torch.ones_like(scores.sum(-1)))
    torch.testing.assert_close(scores.sum(-2), torch.full_like(scores.sum(-2), share))


def test_only_whole_rows_and_columns_are_scaled() -> None:
    """What identifies Sinkhorn's scores: their logs differ by a row part plus a column part."""
    scores = torch.rand(4, 5, dtype=torch.float64) + 0.1
    change = (balance_scores(scores, rounds=200) / scores).log()
    additive = change - change.mean(0, keepdim=True) - change.mean(1, keepdim=True) + change.mean()
    torch.testing.assert_close(additive, torch.zeros_like(additive))


def test_what_is_balanced_stays() -> None:
    scores = torch.full((6, 3), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(balance_scores(scores), scores)


def test_zeros_are_raised_first() -> None:
    """A source that all targets have given up gets its share again."""
    scores = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).expand(3, 3)
    balanced = balance_scores(scores, rounds=300)
    torch.testing.assert_close(balanced, torch.full_like(balanced, 1 / 3))


def test_gates_of_different_sizes_share_a_tensor() -> None:
    padded = torch.full((2, 4, 5), -1.0, dtype=torch.float64)
    padded[0], padded[1, :3, :2] = torch.rand(4, 5), torch.rand(3, 2)
    together = balance_scores(padded)
    torch.testing.assert_close(together[0], balance_scores(padded[0]))
    torch.testing.assert_close(together[1, :3, :2], balance_scores(padded[1, :3, :2]))
    assert (together[padded < 0] == -1).all()


def best_balanced_sum(scores: np.ndarray, k: int) -> float:
    """Every choice of k candidates a target is tried."""
    targets, sources = scores.shape
    limit = math.ceil(targets * k / sources)
    return max(
        sum(scores[row, list(kept)].sum() for row, kept in enumerate(chosen))
        for chosen in product(combinations(range(sources), k), repeat=targets)
        if np.bincount(np.ravel(chosen), minlength=sources).max() <= limit
    )


@pytest.mark.parametrize(("targets", "sources", "k"), [(4, 4, 1), (3, 4, 2), (4, 3, 2), (5, 3, 1)])
def test_no_balanced_choice_has_a_larger_sum(targets: int, sources: int, k: int) -> None:
    for _ in range(5):
        scores = torch.rand(targets, sources, dtype=torch.float64) ** 3
        chosen = balanced_mask(scores, k)
        assert (chosen.sum(1) == k).all()
        assert chosen.sum(0).max() <= math.ceil(targets * k / sources)
        expected = best_balanced_sum(scores.numpy(), k)
        assert float(scores[chosen].sum()) == pytest.approx(expected)


@pytest.mark.parametrize("scores", [torch.zeros(6, 6), torch.ones(6, 6), torch.eye(6)[:, :4]])
def test_equal_scores_are_balanced_too(scores: Tensor) -> None:
    chosen = balanced_mask(scores, 2)
    assert (chosen.sum(1) == 2).all()
    assert chosen.sum(0).max() == math.ceil(6 * 2 / scores.shape[1])


def test_slots_without_a_candidate_are_never_chosen() -> None:
    scores = torch.tensor([[0.9, 0.1, -1.0], [0.9, -1.0, 0.1], [-1.0, -1.0, 0.5]])
    expected = [[True, True, False], [True, False, True], [False, False, True]]
    assert balanced_mask(scores, 2).tolist() == expected  # five edges: at most two readers each


def test_what_cannot_be_balanced_is_said() -> None:
    scores = torch.tensor([[0.5, -1.0, -1.0], [0.5, -1.0, -1.0], [0.1, 0.2, 0.3]])
    with pytest.raises(ValueError, match=r"no choice of 1 candidates .* at most 1 readers"):
        balanced_mask(scores, 1)
