from collections import Counter
from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor

from wiring_lightning.functional import (
    normalize_scores,
    project_scores,
    sample_k_distinct,
    straight_through,
    swap_worst,
    topk_mask,
)

UNEVEN = {
    "four": [0.5, 0.3, 0.15, 0.05],
    "four_unnormalized": [7.0, 1.0, 2.0, 4.0],
    "five": [0.4, 0.25, 0.2, 0.1, 0.05],
    "tiny": [3e-30, 1e-30, 2e-30, 4e-30],
}


def exact_law(scores: list[float], k: int) -> dict[frozenset[int], float]:
    """The probability of every set of k, one candidate drawn after another among those left."""
    law: Counter[frozenset[int]] = Counter()
    for order in permutations([i for i, score in enumerate(scores) if score > 0], k):
        probability, left = 1.0, sum(score for score in scores if score > 0)
        for candidate in order:
            probability *= scores[candidate] / left
            left -= scores[candidate]
        law[frozenset(order)] += probability
    return dict(law)


def drawn_sets(mask: Tensor) -> list[frozenset[int]]:
    return [frozenset(i for i, chosen in enumerate(row) if chosen) for row in mask.tolist()]


def follows(draws: list[frozenset[int]], law: dict[frozenset[int], float]) -> bool:
    """Whether a chi-square test finds nothing against the law."""
    counts = Counter(draws)
    assert set(counts) <= set(law)
    expected = [probability * len(draws) for probability in law.values()]
    assert min(expected) > 5
    return chisquare([counts[chosen] for chosen in law], expected).pvalue > 1e-3


def draw(scores: list[float], k: int, rows: int = 20_000) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return sample_k_distinct(torch.tensor(scores).expand(rows, -1), k, generator)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("name", UNEVEN)
def test_draws_follow_the_sequential_multinomial(name: str, k: int) -> None:
    law = exact_law(UNEVEN[name], k)
    assert sum(law.values()) == pytest.approx(1)
    assert follows(drawn_sets(draw(UNEVEN[name], k)), law)


def test_the_chi_square_test_finds_scores_that_are_a_few_percent_off() -> None:
    law = exact_law([0.5, 0.3, 0.15, 0.05], 2)
    assert not follows(drawn_sets(draw([0.55, 0.27, 0.13, 0.05], 2)), law)


def test_every_row_holds_exactly_k() -> None:
    scores = torch.rand(300, 2, 9)
    for k in range(10):
        drawn = sample_k_distinct(scores, k)
        assert drawn.dtype == torch.bool
        assert drawn.shape == scores.shape
        assert (drawn.sum(-1) == k).all()


def test_rows_are_independent() -> None:
    first, second = draw([0.4, 0.3, 0.2, 0.1], 2, rows=40_000).view(2, 20_000, 4)
    table = Counter(zip(drawn_sets(first), drawn_sets(second), strict=True))
    subsets = sorted({chosen for pair in table for chosen in pair}, key=sorted)
    counts = [[table[a, b] for b in subsets] for a in subsets]
    assert chi2_contingency(counts).pvalue > 1e-3


def test_zeros_are_never_drawn_while_positives_suffice() -> None:
    drawn = draw([0.0, 1e-38, 0.0, 1.0, 1e-30, 0.0], 3)
    assert set(drawn_sets(drawn)) == {frozenset({1, 3, 4})}


@pytest.mark.parametrize("k", [3, 4])
def test_zeros_fill_up_uniformly(k: int) -> None:
    """Two candidates are positive; the others of a draw are any k - 2 of the three zeros."""
    law = {frozenset({0, 3}) | rest: p for rest, p in exact_law([0, 1, 1, 0, 1], k - 2).items()}
    assert len(law) == 3
    assert follows(drawn_sets(draw([0.7, 0.0, 0.0, 0.3, 0.0], k)), law)


def test_an_all_zero_row_is_drawn_uniformly() -> None:
    law = exact_law([1.0] * 4, 2)
    assert list(law.values()) == pytest.approx([1 / 6] * 6)
    assert follows(drawn_sets(draw([0.0] * 4, 2)), law)


def test_rows_may_differ_in_k_and_candidates() -> None:
    scores = torch.tensor(
        [
            [0.5, 0.3, 0.15, 0.05, -1.0],
            [-1.0, 0.1, -1.0, 0.6, 0.3],
            [0.2, -1.0, 0.8, -1.0, -1.0],
            [0.0, -1.0, 0.5, -1.0, 0.0],
        ]
    )
    k = torch.tensor([3, 1, 4, 2])
    rows = 20_000
    drawn = sample_k_distinct(
        scores.expand(rows, -1, -1), k.expand(rows, -1), torch.Generator().manual_seed(0)
    )
    assert follows(drawn_sets(drawn[:, 0]), exact_law(scores[0].tolist(), 3))
    assert follows(drawn_sets(drawn[:, 1]), exact_law(scores[1].tolist(), 1))
    assert set(drawn_sets(drawn[:, 2])) == {frozenset({0, 2})}  # only two candidates
    assert follows(drawn_sets(drawn[:, 3]), {frozenset({0, 2}): 0.5, frozenset({2, 4}): 0.5})


def test_a_generator_decides_alone() -> None:
    scores = torch.rand(50, 8)
    state = torch.get_rng_state()
    first = sample_k_distinct(scores, 3, torch.Generator().manual_seed(7))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, sample_k_distinct(scores, 3, torch.Generator().manual_seed(7)))
    assert not torch.equal(first, sample_k_distinct(scores, 3, torch.Generator().manual_seed(8)))


def test_a_generator_on_the_cpu_serves_scores_on_every_device() -> None:
    """All random numbers come from it; scores on `meta`, without values, stand for a GPU's."""
    here, there = (torch.Generator().manual_seed(7) for _ in range(2))
    sample_k_distinct(torch.rand(50, 8), 3, here)
    drawn = sample_k_distinct(torch.rand(50, 8, device="meta"), 3, there)
    assert drawn.device.type == "meta"
    assert torch.equal(here.get_state(), there.get_state())


def test_float64_scores_may_be_smaller_than_float32_can_hold() -> None:
    scores = torch.tensor([-1.0, 1e-50, 2e-50, 3e-50], dtype=torch.float64)
    assert sample_k_distinct(scores, 2).sum() == 2


def test_topk_is_a_stable_sort() -> None:
    scores = torch.randint(-1, 4, (500, 7)) / 4  # many ties, and slots that are no candidates
    k = torch.randint(0, 9, (500,))
    for row, marked, limit in zip(
        scores.tolist(), topk_mask(scores, k).tolist(), k.tolist(), strict=True
    ):
        order = sorted((score, index) for index, score in enumerate(row) if score >= 0)
        best = {index for _, index in order[::-1][:limit]}
        assert {index for index, chosen in enumerate(marked) if chosen} == best


def test_topk_gives_ties_to_the_highest_index() -> None:
    scores = torch.full((64,), 0.25)
    for k in (1, 5, 63):
        assert topk_mask(scores, k).tolist() == [False] * (64 - k) + [True] * k


def test_topk_counts_scores_of_zero_but_not_missing_slots() -> None:
    assert topk_mask(torch.tensor([-1.0, 0.0, 0.0]), 3).tolist() == [False, True, True]


def test_normalized_rows_sum_to_one_and_keep_their_ratios() -> None:
    scores = torch.rand(40, 6, dtype=torch.float64) * 10
    normalized = normalize_scores(scores)
    torch.testing.assert_close(normalized.sum(1), torch.ones(40, dtype=torch.float64))
    ratios = scores[:, 1:] / scores[:, :1]
    torch.testing.assert_close(normalized[:, 1:] / normalized[:, :1], ratios)
    torch.testing.assert_close(normalize_scores(normalized), normalized)


def test_normalizing_leaves_missing_slots_alone() -> None:
    normalized = normalize_scores(torch.tensor([[1.0, -1.0, 3.0, 0.0], [-1.0, 0.0, 0.0, 0.0]]))
    expected = torch.tensor([[0.25, -1.0, 0.75, 0.0], [-1.0, 1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(normalized, expected)


def test_normalizing_survives_tiny_and_missing_rows() -> None:
    normalized = normalize_scores(torch.tensor([[1e-30, 3e-30], [-1.0, -1.0]]))
    torch.testing.assert_close(normalized, torch.tensor([[0.25, 0.75], [-1.0, -1.0]]))


def test_gates_pass_unchanged() -> None:
    """Not one bit may differ: 1 + 0.1 - 0.1 would not do."""
    scores = torch.rand(200, 50).requires_grad_()
    value = torch.rand(200, 50) < 0.5
    assert torch.equal(straight_through(value, scores), value.float())
    weights = torch.randn(200, 50)
    assert torch.equal(straight_through(weights, scores), weights)


def test_the_whole_gradient_goes_to_the_scores() -> None:
    scores = torch.rand(3, 4).requires_grad_()
    weights = torch.randn(3, 4)
    (straight_through(torch.rand(3, 4) < 0.3, scores) * weights).sum().backward()
    assert torch.equal(scores.grad, weights)


def nearest_on_the_simplex(point: np.ndarray) -> np.ndarray:
    """Every support is tried: on the right one all entries lose the same amount."""
    best, nearest = np.inf, point
    for size in range(1, len(point) + 1):
        for support in map(list, combinations(range(len(point)), size)):
            candidate = np.zeros_like(point)
            candidate[support] = point[support] - (point[support].sum() - 1) / size
            distance = ((candidate - point) ** 2).sum()
            if candidate.min() >= 0 and distance < best:
                best, nearest = distance, candidate
    return nearest


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_the_projection_is_the_nearest_point(scale: float) -> None:
    points = scale * torch.randn(10, 5, dtype=torch.float64)
    for point, found in zip(points.numpy(), project_scores(points).numpy(), strict=True):
        np.testing.assert_allclose(found, nearest_on_the_simplex(point), atol=1e-12)


def test_slots_of_minus_infinity_are_left_out_of_the_projection() -> None:
    point = torch.tensor([0.3, -torch.inf, 0.9, 0.2], dtype=torch.float64)
    inside = torch.tensor([0, 2, 3])
    found = project_scores(point)
    assert found[1] == 0
    torch.testing.assert_close(found[inside], project_scores(point[inside]))


def test_the_swap_with_the_largest_promise_is_made_where_it_may_be() -> None:
    """All swaps of one edge are tried: the change of the loss is the sum of the gradients."""
    gradient = torch.randn(40, 6, dtype=torch.float64)
    usable = torch.rand(40, 6) < 0.8
    usable[:, :3] = True
    active = torch.zeros(40, 6, dtype=torch.bool)
    active[:, :2] = True
    chosen = torch.rand(40) < 0.7
    found = swap_worst(active, gradient, usable, chosen)
    for row in range(40):
        options = {(): 0.0}
        for out, into in product(range(2), range(2, 6)):
            if chosen[row] and usable[row, into]:
                options[out, into] = float(gradient[row, into] - gradient[row, out])
        best = min(options, key=lambda pair: options[pair])
        expected = active[row].clone()
        for index in best:
            expected[index] = ~expected[index]
        assert found[row].tolist() == expected.tolist()
    assert (found != active).any()
