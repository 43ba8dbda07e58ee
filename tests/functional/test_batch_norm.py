from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from wiring_lightning.functional import fold_batch_norm

GROUPS, OUT, IN, BATCH, SIDE = 3, 5, 4, 6, 4

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class Plain:
    """For every group a convolution of its own and a batch norm of its own."""

    def __init__(self, weight: Tensor, norm: nn.BatchNorm2d) -> None:
        self.convs, self.norms = [], []
        for group in range(GROUPS):
            conv = nn.Conv2d(IN, OUT, 1, bias=False).to(weight.dtype)
            conv.weight.data.copy_(weight[group].view(OUT, IN, 1, 1))
            own = nn.BatchNorm2d(
                OUT, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
            ).to(weight.dtype)
            own.load_state_dict(
                {
                    name: value if value.dim() == 0 else value.view(GROUPS, OUT)[group]
                    for name, value in norm.state_dict().items()
                }
            )
            self.convs.append(conv)
            self.norms.append(own.train(norm.training))

    def __call__(self, inputs: Tensor) -> Tensor:
        images = inputs.unflatten(3, (SIDE, SIDE))
        outputs = [
            norm(conv(images[:, group]))
            for group, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True))
        ]
        return torch.stack(outputs, 1).flatten(3)

    def gather(self, name: str) -> Tensor:
        return torch.cat([getattr(norm, name) for norm in self.norms])


def make(dtype: torch.dtype, **options: object) -> tuple[Tensor, Tensor, nn.BatchNorm2d]:
    weight = torch.randn(GROUPS, OUT, IN, dtype=dtype, requires_grad=True)
    inputs = torch.randn(BATCH, GROUPS, IN, SIDE * SIDE, dtype=dtype).add_(0.7).requires_grad_()
    norm = nn.BatchNorm2d(GROUPS * OUT, **options).to(dtype)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    if norm.track_running_stats:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return weight, inputs, norm


def folded(weight: Tensor, inputs: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    scaled, bias = fold_batch_norm(weight, inputs, norm)
    return scaled @ inputs + bias.unsqueeze(-1)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    error = (actual - expected).abs().max()
    assert error <= tolerance * expected.abs().max().clamp_min(1), f"off by {error}"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"affine": False}, {"track_running_stats": False}, {"eps": 0.1}],
    ids=["default", "no_affine", "no_running_statistics", "large_eps"],
)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_folding_is_convolution_and_batch_norm(
    dtype: torch.dtype, options: dict[str, object], training: bool
) -> None:
    weight, inputs, norm = make(dtype, **options)
    norm.train(training)
    plain, plain_inputs = Plain(weight, norm), inputs.detach().clone().requires_grad_()
    actual, expected = folded(weight, inputs, norm), plain(plain_inputs)
    assert_close(actual, expected, TOLERANCE[dtype])
    probe = torch.randn_like(expected)
    (actual * probe).sum().backward()
    (expected * probe).sum().backward()
    assert_close(inputs.grad, plain_inputs.grad, TOLERANCE[dtype])
    for group, conv in enumerate(plain.convs):
        assert_close(weight.grad[group], conv.weight.grad.view(OUT, IN), TOLERANCE[dtype])
    if norm.affine:
        for name in ("weight", "bias"):
            expected_grad = torch.cat([getattr(own, name).grad for own in plain.norms])
            assert_close(getattr(norm, name).grad, expected_grad, TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("momentum", "dtype"),
    [
        (0.1, torch.float32),
        (0.1, torch.float64),
        (0.7, torch.float64),
        (None, torch.float32),
        (None, torch.float64),
    ],
)
def test_running_statistics_are_those_of_batch_norm(
    momentum: float | None, dtype: torch.dtype
) -> None:
    weight, inputs, norm = make(dtype, momentum=momentum)
    plain = Plain(weight, norm)
    for _ in range(4):
        inputs = torch.randn_like(inputs) * 3
        folded(weight, inputs, norm)
        plain(inputs)
    assert int(norm.num_batches_tracked) == int(plain.norms[0].num_batches_tracked) == 4
    assert_close(norm.running_mean, plain.gather("running_mean"), TOLERANCE[dtype])
    assert_close(norm.running_var, plain.gather("running_var"), TOLERANCE[dtype])
    norm.eval()
    for own in plain.norms:
        own.eval()
    assert_close(folded(weight, inputs, norm), plain(inputs), TOLERANCE[dtype])


def test_evaluation_leaves_the_statistics_alone() -> None:
    weight, inputs, norm = make(torch.float32)
    before = deepcopy(norm.eval().state_dict())
    folded(weight, inputs, norm)
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


def test_gradients_are_those_of_finite_differences() -> None:
    weight, inputs, norm = make(torch.float64)
    inputs = inputs[:2, :, :, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w, x, gamma, beta: torch.func.functional_call(
            Folded(norm), {"norm.weight": gamma, "norm.bias": beta}, (w, x)
        ),
        (weight, inputs, norm.weight, norm.bias),
    )


class Folded(nn.Module):
    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, weight: Tensor, inputs: Tensor) -> Tensor:
        return folded(weight, inputs, self.norm)


def test_inputs_far_from_zero_cost_no_precision() -> None:
    """A mean of 100 standard deviations: E[x^2] - E[x]^2 would lose four digits of the variance."""
    weight, inputs, norm = make(torch.float32)
    inputs = (inputs.detach() + 100).requires_grad_(False)
    exact = deepcopy(norm).double()
    expected = Plain(weight.double(), exact)(inputs.double())
    plain_error = (Plain(weight, norm)(inputs) - expected).abs().max()
    error = (folded(weight, inputs, norm) - expected).abs().max()
    assert error < 5 * plain_error + 1e-5


def test_statistics_stay_in_full_precision_under_autocast() -> None:
    weight, inputs, norm = make(torch.float32)
    expected = fold_batch_norm(weight, inputs, deepcopy(norm))
    with torch.autocast("cpu", torch.bfloat16):
        actual = fold_batch_norm(weight, inputs, norm)
    for ours, full in zip(actual, expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, full)


def test_a_constant_channel_has_finite_gradients() -> None:
    weight, inputs, norm = make(torch.float32)
    inputs = torch.zeros_like(inputs, requires_grad=True)
    output = folded(weight, inputs, norm)
    torch.testing.assert_close(
        output, norm.bias.view(1, GROUPS, OUT, 1).expand_as(output), atol=1e-6, rtol=0
    )
    output.square().sum().backward()
    assert weight.grad.isfinite().all()
    assert inputs.grad.isfinite().all()


@pytest.mark.parametrize("seed", range(5))  # the sign of what is left is a matter of rounding
def test_a_variance_that_cancels_to_nothing_does_not_become_negative(seed: int) -> None:
    """Outputs that are zero, because the weights are orthogonal to what all inputs do alike."""
    torch.manual_seed(seed)
    weight, inputs, norm = make(torch.float32)
    shares = torch.randn(GROUPS, 1, IN)
    alike = 1000 * torch.randn(BATCH, 1, 1, SIDE * SIDE)
    inputs = (alike * shares.view(1, GROUPS, IN, 1)).requires_grad_()
    with torch.no_grad():
        along = (weight * shares).sum(-1, keepdim=True) / shares.square().sum(-1, keepdim=True)
        weight.sub_(along * shares)
    scaled, bias = fold_batch_norm(weight, inputs, norm)
    assert scaled.isfinite().all()
    assert bias.isfinite().all()
    assert (norm.running_var > 0).all()
    (scaled @ inputs).sum().backward()
    assert weight.grad.isfinite().all()
    assert inputs.grad.isfinite().all()
