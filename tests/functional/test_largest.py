import pytest
import torch
from torch import Tensor

from wiring_lightning.functional import LargestMagnitudes


def brute_force(weights: Tensor, k: int) -> set[int]:
    """Sort everything: larger magnitudes first, then lower indices."""
    order = sorted(range(len(weights)), key=lambda i: (-abs(float(weights[i])), i))
    return set(order[:k])


def chosen(marked: Tensor) -> set[int]:
    return set(marked.nonzero().flatten().tolist())


@pytest.mark.parametrize("k", [0, 1, 7, 150, 299, 300])
def test_the_choice_is_that_of_a_sort_while_weights_drift(k: int) -> None:
    largest = LargestMagnitudes(k)
    weights = torch.randn(300)
    for step in range(60):
        assert chosen(largest(weights)) == brute_force(weights, k)
        weights = weights + torch.randn(300) * (1e-4 if step % 20 else 1.0)  # and now and then jump


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_ties_are_exact_and_go_to_the_lower_index(levels: int) -> None:
    largest = LargestMagnitudes(40)
    for _ in range(20):
        weights = torch.randint(-levels, levels + 1, (100,)).float()
        assert chosen(largest(weights)) == brute_force(weights, 40)


def test_large_tensors_go_through_in_chunks() -> None:
    count = 2**19 * 2 + 77
    weights = torch.randn(count)
    largest = LargestMagnitudes(count // 100)
    for _ in range(3):
        marked = largest(weights)
        assert int(marked.sum()) == count // 100
        assert weights[marked].abs().min() >= weights[~marked].abs().max()
        weights += 1e-4 * torch.randn(count)


def test_entries_that_are_no_numbers_are_never_marked() -> None:
    weights = torch.tensor([torch.nan, 3.0, torch.nan, 1.0, 2.0])
    largest = LargestMagnitudes(2)
    for _ in range(3):
        assert chosen(largest(weights)) == {1, 4}
    assert chosen(LargestMagnitudes(1)(torch.tensor([1.0, torch.inf, torch.nan]))) == {1}


def test_a_warm_start_does_not_look_at_everything_again(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = LargestMagnitudes(100)
    weights = torch.randn(10_000)
    largest(weights)
    monkeypatch.setattr(largest, "_anywhere", lambda _: pytest.fail("started over"))
    for _ in range(10):
        weights += 1e-5 * torch.randn(10_000)
        largest(weights)


def test_bad_numbers_get_one_clear_sentence() -> None:
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        LargestMagnitudes(-1)
    with pytest.raises(ValueError, match="k = 4 weights were asked for, but there are 3"):
        LargestMagnitudes(4)(torch.ones(3))
    with pytest.raises(ValueError, match="has the loss diverged"):
        LargestMagnitudes(2)(torch.tensor([1.0, torch.nan, torch.nan]))
