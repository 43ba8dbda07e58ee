"""Batches that are computed in parts."""

import pytest
import torch
from torch import Tensor

from wiring_lightning.functional import apply_in_parts, examples_per_part


@pytest.mark.parametrize(
    ("size", "expected"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])], ids=str
)
def test_parts_in_order(size: int, expected: list[int]) -> None:
    seen: list[int] = []

    def double(part: Tensor) -> Tensor:
        seen.append(len(part))
        return 2 * part

    images = torch.arange(10.0).view(5, 2)
    with torch.no_grad():
        assert torch.equal(apply_in_parts(double, images, size), 2 * images)
    assert seen == expected


def test_the_whole_batch_with_gradients_or_in_a_graph() -> None:
    seen: list[int] = []

    def look(part: Tensor) -> Tensor:
        seen.append(len(part))
        return part

    apply_in_parts(look, torch.zeros(4, 1), 1)  # gradients are enabled
    with torch.no_grad():
        apply = lambda images: apply_in_parts(look, images, 1)  # noqa: E731
        torch.jit.trace(apply, torch.zeros(4, 1), check_trace=False)
    assert set(seen) == {4}


def test_a_part_has_at_least_one_example_and_two_of_half_the_size() -> None:
    assert examples_per_part(2**40) == 1
    assert examples_per_part(2**10) == 2 * examples_per_part(2**11)
