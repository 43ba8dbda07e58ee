"""What accelerators keep: the same magnitudes as a sort, by far fewer passes over memory."""

import pytest
import torch
from torch import Tensor

from wiring_lightning.functional import _largest_of_sets
from wiring_lightning.functional._largest_of_sets import keep_largest_of_sets

SPECIAL = (0.0, 1e-45, 6e-8, 0.5, 1.9990234375, 2.0, 5.0, 60000.0, torch.inf)
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

pytestmark = pytest.mark.parametrize("large", [0, 2**18], ids=["each", "together"])


@pytest.fixture(autouse=True)
def way(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tensor with kernels of its own, and all in one."""
    monkeypatch.setattr(_largest_of_sets, "_LARGE", large)


def magnitudes(values: Tensor) -> list[float]:
    return sorted(abs(value) for value in values.tolist())


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str
)
def test_the_magnitudes_are_those_of_a_sort(dtype: torch.dtype) -> None:
    """Numbers from the smallest to infinity, with many ties, and entries that are no numbers."""
    numbers = torch.tensor([*SPECIAL, *(-value for value in SPECIAL)]).to(dtype)
    for count in (1, 7, 40, 300):
        rows = numbers[torch.randint(len(numbers), (5, count))]
        broken = torch.rand(5, count) < 0.2
        rows[broken] = torch.nan
        for k in {0, (count - int(broken.sum(1).max())) // 3, count - int(broken.sum(1).max())}:
            kept = torch.full_like(rows, 7.0)
            sets = [[row] for row in kept]
            keep_largest_of_sets([[r] for r in rows], sets, [[None]] * 5, [k] * 5)
            for row, own in zip(rows, kept, strict=True):
                expected = magnitudes(row[~row.isnan()])[::-1][:k]
                assert magnitudes(own) == sorted([*expected, *[0.0] * (count - len(expected))])
                at = own != 0
                bits = INTEGERS[dtype.itemsize]
                assert torch.equal(own[at].view(bits), row[at].view(bits))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sets_of_several_tensors_with_masks_and_layouts(layout: torch.memory_format) -> None:
    sets, masks, expected = [], [], []
    for k in (40, 40, 7):
        convolution = torch.randn(6, 5, 3, 3).to(memory_format=layout)
        sets.append([convolution, torch.randn(9, 2).t()])
        masks.append([torch.rand(6, 5, 3, 3) > 0.3, None])
        able = [convolution * masks[-1][0], sets[-1][1]]
        least = torch.cat([part.flatten() for part in able]).abs().sort().values[-k]
        expected.append([torch.where(part.abs() >= least, part, 0) for part in able])
    kept = [[torch.full_like(part, 7.0) for part in parts] for parts in sets]
    keep_largest_of_sets(sets, kept, masks, [40, 40, 7])
    for ours, theirs in zip(kept, expected, strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_nothing_waits_for_the_device() -> None:
    """On the meta device nothing has values, so whatever asks for one fails."""
    values, kept = (torch.randn(4, 50, device="meta") for _ in range(2))
    mask = torch.ones(4, 50, dtype=torch.bool, device="meta")
    keep_largest_of_sets([[values], [values]], [[kept], [kept]], [[mask], [None]], [20, 20])
