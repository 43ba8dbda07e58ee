"""The fused gated sum and ReLU against their composition."""

import pytest
import torch
from torch import Tensor

from wiring_lightning.functional import aggregation, gated_sum, rectified
from wiring_lightning.functional.rectified import rectified_gated_sum


def case(dtype: torch.dtype = torch.float64, batch: int = 7) -> tuple[Tensor, Tensor]:
    gates = torch.randn(3, 5, dtype=dtype, requires_grad=True)
    return gates, torch.randn(batch, 5, 12, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("consume", [False, True])
@pytest.mark.parametrize("long", [8, 2**15])  # features in parts, or at once
@pytest.mark.parametrize("batch", [0, 7])
@pytest.mark.parametrize("chunk_bytes", [1, 3 * 12 * 8 * 2, 2**20])  # one example, two, all
def test_outputs_and_gradients_are_those_of_the_composition(
    chunk_bytes: int, batch: int, long: int, consume: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rectified, "_CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(aggregation, "_LONG", long)
    monkeypatch.setattr(aggregation, "_PART", 4)
    gates, sources = case(batch=batch)
    upstream = torch.randn(batch, 3, 12, dtype=torch.float64)
    plain = gated_sum(gates, sources).relu()
    expected = torch.autograd.grad(plain, (gates, sources), upstream)
    fused = rectified_gated_sum(gates, sources, consume)
    assert torch.equal(fused, plain)
    actual = torch.autograd.grad(fused, (gates, sources), upstream)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-12)


def test_gradients_are_the_derivatives() -> None:
    assert torch.autograd.gradcheck(rectified_gated_sum, case())


def test_sources_are_overwritten_only_if_they_may_be_and_no_second_pass_can_follow() -> None:
    gates, sources = case()
    before = sources.detach().clone()
    expected = torch.autograd.grad(gated_sum(gates, sources).relu().sum(), (gates, sources))

    summed = rectified_gated_sum(gates, sources, consume=True).sum()
    for _ in range(2):
        kept = torch.autograd.grad(summed, (gates, sources), retain_graph=True)
        torch.testing.assert_close(kept, expected)
        assert torch.equal(sources, before)

    torch.autograd.grad(rectified_gated_sum(gates, sources).sum(), (gates, sources))
    assert torch.equal(sources, before)

    consumed = torch.autograd.grad(summed, (gates, sources))
    torch.testing.assert_close(consumed, expected)
    assert consumed[1].data_ptr() == sources.data_ptr()


def test_sources_that_share_memory_among_each_other_are_not_overwritten() -> None:
    gates, _ = case()
    shared = torch.randn(7, 1, 12, dtype=torch.float64, requires_grad=True)
    before = shared.detach().clone()
    outputs = rectified_gated_sum(gates, shared.expand(-1, 5, -1), consume=True)
    plain = gated_sum(gates, shared.expand(-1, 5, -1)).relu()
    actual = torch.autograd.grad(outputs.sum(), (gates, shared))
    assert torch.equal(shared, before)
    torch.testing.assert_close(actual, torch.autograd.grad(plain.sum(), (gates, shared)))


def test_frozen_gates_get_no_gradient_and_keep_no_sources() -> None:
    gates, sources = case()
    summed = rectified_gated_sum(gates.detach(), sources)
    assert summed.grad_fn.saved_tensors[1] is None
    summed.sum().backward()
    plain = torch.autograd.grad(gated_sum(gates, sources).relu().sum(), sources)[0]
    torch.testing.assert_close(sources.grad, plain)


@pytest.mark.parametrize("consume", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sources_of_either_type_with_float32_gates_as_under_autocast(
    dtype: torch.dtype, consume: bool
) -> None:
    gates, sources = case(torch.float32)
    own = sources.detach().to(dtype, copy=True).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        fused = rectified_gated_sum(gates, own, consume)
    assert fused.dtype == torch.bfloat16
    gate_grad, source_grad = torch.autograd.grad(fused.float().square().sum(), (gates, own))
    assert (gate_grad.dtype, source_grad.dtype) == (torch.float32, dtype)
    plain = gated_sum(gates, sources).relu()
    expected = torch.autograd.grad(plain.square().sum(), gates)[0]
    assert (gate_grad - expected).norm() < 0.05 * expected.norm()
