import pytest
import torch

from wiring_lightning.functional import gated_sum, straight_through


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
