"""Sums of sources, alone and with their ReLU, against plain compositions."""

import pytest
import torch
from torch import Tensor

from wiring_lightning.functional import aggregation, gated_sum, rectified_gated_sum
from wiring_lightning.functional.aggregation import products_of_pairs


@pytest.mark.parametrize("features", [(), (5,), (2, 3, 4)])
def test_every_target_sums_its_sources(features: tuple[int, ...]) -> None:
    gates = torch.randn(3, 4, dtype=torch.float64)
    sources = torch.randn(2, 4, *features, dtype=torch.float64)
    result = gated_sum(gates, sources)
    assert result.shape == (2, 3, *features)
    for example in range(2):
        for target in range(3):
            expected = sum(gates[target, k] * sources[example, k] for k in range(4))
            torch.testing.assert_close(result[example, target], expected)


def test_sources_may_be_strided() -> None:
    sources = torch.randn(2, 4, 6, 5, dtype=torch.float64).transpose(2, 3)
    gates = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(gated_sum(gates, sources), sources)


def test_gradients_of_gates_and_sources_are_those_of_finite_differences() -> None:
    gates = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    sources = torch.randn(2, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gated_sum, (gates, sources))


def case(dtype: torch.dtype = torch.float64, batch: int = 7) -> tuple[Tensor, Tensor]:
    gates = torch.randn(3, 5, dtype=dtype, requires_grad=True)
    return gates, torch.randn(batch, 5, 12, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("long", [8, 2**15])  # features in parts, or at once
@pytest.mark.parametrize("batch", [0, 7])
@pytest.mark.parametrize("chunk_bytes", [1, 3 * 12 * 8 * 2, 2**20])  # one example, two, all
def test_outputs_and_gradients_are_those_of_the_composition(
    chunk_bytes: int, batch: int, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregation, "_CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(aggregation, "_LONG", long)
    monkeypatch.setattr(aggregation, "_PART", 4)
    gates, sources = case(batch=batch)
    upstream = torch.randn(batch, 3, 12, dtype=torch.float64)
    plain = gated_sum(gates, sources).relu()
    expected = torch.autograd.grad(plain, (gates, sources), upstream)
    fused = rectified_gated_sum(gates, sources)
    assert torch.equal(fused, plain)
    actual = torch.autograd.grad(fused, (gates, sources), upstream)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-12)


def test_gradients_are_the_derivatives() -> None:
    assert torch.autograd.gradcheck(rectified_gated_sum, case())


def test_frozen_gates_get_no_gradient_and_keep_no_sources() -> None:
    gates, sources = case()
    summed = rectified_gated_sum(gates.detach(), sources)
    assert summed.grad_fn.saved_tensors[1] is None
    summed.sum().backward()
    plain = torch.autograd.grad(gated_sum(gates, sources).relu().sum(), sources)[0]
    torch.testing.assert_close(sources.grad, plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sources_of_either_type_with_float32_gates_as_under_autocast(dtype: torch.dtype) -> None:
    gates, sources = case(torch.float32)
    own = sources.detach().to(dtype, copy=True).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        fused = rectified_gated_sum(gates, own)
    assert fused.dtype == torch.bfloat16
    gate_grad, source_grad = torch.autograd.grad(fused.float().square().sum(), (gates, own))
    assert (gate_grad.dtype, source_grad.dtype) == (torch.float32, dtype)
    plain = gated_sum(gates, sources).relu()
    expected = torch.autograd.grad(plain.square().sum(), gates)[0]
    assert (gate_grad - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("features", [96, 2**15])  # at once, or in parts
@pytest.mark.parametrize("left", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("right", [torch.bfloat16, torch.float32])
def test_products_of_half_precision_are_summed_in_full(
    left: torch.dtype, right: torch.dtype, features: int
) -> None:
    """All products are positive, so that a sum in half precision would stop growing."""
    mine, yours = torch.rand(40, 2, features).to(left), torch.rand(40, 3, features).to(right)
    total = products_of_pairs(mine, yours)
    assert total.dtype == torch.float32
    expected = torch.einsum("naf,nbf->ab", mine.double(), yours.double())
    torch.testing.assert_close(total.double(), expected, rtol=1e-4, atol=0)
