import pytest
import torch
from torch import Tensor

from wiring_lightning.functional import LargestMagnitudes, dnw, mask_largest


def brute_force(weights: Tensor, k: int) -> set[int]:
    """Sort everything: larger magnitudes first, then lower indices."""
    order = sorted(range(len(weights)), key=lambda i: (-abs(float(weights[i])), i))
    return set(order[:k])


def chosen(marked: Tensor) -> set[int]:
    return set(marked.nonzero().flatten().tolist())


@pytest.mark.parametrize("k", [0, 1, 7, 150, 299, 300])
def test_the_choice_is_that_of_a_sort_while_weights_drift(k: int) -> None:
    largest, kept = LargestMagnitudes(k), torch.empty(300)
    weights = torch.randn(300)
    for step in range(60):
        expected = brute_force(weights, k)
        assert chosen(mask_largest([weights], k)[0]) == expected
        largest.keep([weights], [kept])
        assert chosen(kept) == expected
        assert torch.equal(kept[kept != 0], weights[kept != 0])
        weights = weights + torch.randn(300) * (1e-4 if step % 20 else 1.0)  # and now and then jump


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_ties_are_exact_and_go_to_the_lower_index(levels: int) -> None:
    largest = LargestMagnitudes(40)
    for _ in range(20):
        weights = torch.randint(-levels, levels + 1, (100,)).float()
        (mask,), kept = mask_largest([weights], 40), torch.empty(100)
        assert chosen(mask) == brute_force(weights, 40)
        largest.keep([weights], [kept])
        assert torch.equal(kept, weights * mask)


@pytest.mark.parametrize("count", [2**19 * 2 + 77, 2**19 * 2])  # with and without a rest
def test_large_tensors_go_through_in_chunks(count: int) -> None:
    weights, kept = torch.randn(count), torch.empty(count)
    largest = LargestMagnitudes(count // 100)
    for _ in range(5):
        largest.keep([weights], [kept])
        assert torch.equal(kept, weights * mask_largest([weights], count // 100)[0])
        weights += 1e-4 * torch.randn(count)


def test_entries_that_are_no_numbers_are_never_marked() -> None:
    weights = torch.tensor([torch.nan, 3.0, torch.nan, 1.0, 2.0])
    largest, kept = LargestMagnitudes(2), torch.empty(5)
    for _ in range(3):
        assert chosen(mask_largest([weights], 2)[0]) == {1, 4}
        largest.keep([weights], [kept])
        assert kept.tolist() == [0, 3, 0, 0, 2]
    assert chosen(mask_largest([torch.tensor([1.0, torch.inf, torch.nan])], 1)[0]) == {1}


def test_a_warm_start_does_not_look_at_everything_again(monkeypatch: pytest.MonkeyPatch) -> None:
    largest, kept = LargestMagnitudes(100), torch.empty(10_000)
    weights = torch.randn(10_000)
    largest.keep([weights], [kept])
    monkeypatch.setattr(dnw, "mask_largest", lambda *_: pytest.fail("started over"))
    for _ in range(10):
        weights += 1e-5 * torch.randn(10_000)
        largest.keep([weights], [kept])
        assert chosen(kept) == brute_force(weights, 100)


def test_the_way_of_other_devices_is_the_same_choice_without_a_wait() -> None:
    """On the meta device nothing has values, so whatever asks for one fails."""
    weights = torch.randn(4, 50, device="meta")
    (mask,) = mask_largest([weights], 20, [torch.ones(4, 50, dtype=torch.bool, device="meta")])
    assert mask.shape == weights.shape
    LargestMagnitudes(20).keep([weights], [torch.empty_like(weights)])


def keep_by_sorting(parts: list[Tensor], masks: list[Tensor | None], k: int) -> list[Tensor]:
    """The kept entries of several tensors, which are ranked together in logical order."""
    able = [
        (part if mask is None else part.masked_fill(~mask, 0)).flatten()
        for part, mask in zip(parts, masks, strict=True)
    ]
    chosen = brute_force(torch.cat(able), k)
    flat = torch.cat([part.flatten() for part in parts])
    kept = torch.tensor([i in chosen for i in range(len(flat))]) * flat
    sizes = [part.numel() for part in parts]
    return [values.view(p.shape) for values, p in zip(kept.split(sizes), parts, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("masked", [False, True])
def test_several_tensors_are_kept_as_a_sort_would(
    dtype: torch.dtype, layout: torch.memory_format, masked: bool
) -> None:
    """Whatever their layout; halves and bfloat16 make many ties."""
    torch.manual_seed(0)
    largest = LargestMagnitudes(130)
    parts = [
        torch.randn(6, 5, 3, 3, dtype=dtype).to(memory_format=layout),
        torch.randn(90).to(dtype),
    ]
    masks: list[Tensor | None] = [torch.rand(6, 5, 3, 3) > 0.3 if masked else None, None]
    for step in range(25):
        kept = [torch.full_like(part, torch.nan) for part in parts]
        largest.keep(parts, kept, masks if masked else ())
        for ours, expected in zip(kept, keep_by_sorting(parts, masks, 130), strict=True):
            assert torch.equal(ours, expected)
        size = 0.002 if step % 8 else 1.0
        parts = [part + size * torch.randn(part.shape).to(part) for part in parts]
        if step % 5 == 4:
            parts = [(part * 2).round() / 2 for part in parts]


def test_a_tensor_with_gaps_is_kept_too() -> None:
    torch.manual_seed(0)
    largest = LargestMagnitudes(20)
    for _ in range(3):
        weights, kept = torch.randn(10, 12)[:, ::2], torch.empty(12, 10)[::2].t()
        largest.keep([weights], [kept])
        assert torch.equal(kept, keep_by_sorting([weights], [None], 20)[0])


@pytest.mark.parametrize(
    "dtypes", [(torch.float32, torch.bfloat16), (torch.float16, torch.float64)]
)
def test_tensors_of_different_precision_compete(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    torch.manual_seed(0)
    largest = LargestMagnitudes(90)
    weights = [torch.randn(10, 12).to(dtype) for dtype in dtypes]
    for _ in range(4):
        kept = [torch.full_like(weight, 7.0) for weight in weights]
        largest.keep(weights, kept)
        exact = keep_by_sorting([weight.double() for weight in weights], [None, None], 90)
        for own, expected in zip(kept, exact, strict=True):
            assert torch.equal(own.double(), expected)
        weights = [weight + 0.01 * torch.randn_like(weight) for weight in weights]


def test_the_least_number_holds_as_long_as_there_are_enough() -> None:
    small, large = torch.rand(6) * 1e-3, torch.rand(6) + 1
    for k in range(1, 13):
        masks = mask_largest([small, large], k, least=2)
        assert sum(int(mask.sum()) for mask in masks) == k
        assert k < 4 or all(int(mask.sum()) >= 2 for mask in masks)


def test_numbers_that_are_none_end_a_run_with_one_clear_sentence() -> None:
    largest, kept = LargestMagnitudes(50), torch.empty(100)
    weights = torch.randn(100)
    largest.keep([weights], [kept])
    weights[:3] = torch.inf
    largest.keep([weights], [kept])
    assert int(kept.isinf().sum()) == 3
    assert int(kept.count_nonzero()) == 50
    weights[3:60] = torch.nan
    with pytest.raises(ValueError, match="has the loss diverged"):
        largest.keep([weights], [kept])


@pytest.mark.parametrize("spread", [1e-6, 1e-4, 1e-3, 0.02, 0.2])
def test_a_band_may_hold_everything(spread: float) -> None:
    """However many entries lie beside each other near the threshold, none is miscounted."""
    torch.manual_seed(0)
    largest, kept = LargestMagnitudes(1_500), torch.empty(3_000)
    for _ in range(10):
        weights = (1 + spread * torch.rand(3_000)) * torch.randn(3_000).sign()
        largest.keep([weights], [kept])
        assert torch.equal(kept, keep_by_sorting([weights], [None], 1_500)[0])


def test_tiny_magnitudes_do_not_vanish() -> None:
    torch.manual_seed(0)
    largest = LargestMagnitudes(128)
    for _ in range(3):
        weights = 1e-30 * torch.randn(1024)
        kept = torch.empty(1024)
        largest.keep([weights], [kept])
        assert torch.equal(kept, keep_by_sorting([weights], [None], 128)[0])


def test_bad_numbers_get_one_clear_sentence() -> None:
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        LargestMagnitudes(-1)
    with pytest.raises(ValueError, match="k = 4 weights were asked for, but there are 3"):
        mask_largest([torch.ones(3)], 4)
    with pytest.raises(ValueError, match="has the loss diverged"):
        mask_largest([torch.tensor([1.0, torch.nan, torch.nan])], 2)
