from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from tests.backbones.plain_resnext import (
    PlainBranches,
    assert_near,
    assert_same_gradients,
    assert_same_statistics,
    copy_weights,
    layer_pairs,
    scramble_statistics,
)
from wiring_lightning.nn import Branches

C, WIDTH, OUT, BATCH, SIDE = 3, 2, 8, 5, 6
SHAPES = {  # input channels and stride
    "identity": (OUT, 1),
    "wider": (4, 1),
    "strided": (OUT, 2),
    "wider_and_strided": (4, 2),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class Twin(PlainBranches):
    """`F_j(x_j) + s S(x_j)` for every branch in a loop, and their sum if they are merged."""

    def __init__(self, ours: Branches) -> None:
        super().__init__(
            ours.branches, ours.in_channels, ours.width, ours.out_channels, ours.stride
        )
        self.scale, self.merge = ours.identity_scale, ours.merge
        self.to(ours.reduce.weight.dtype)
        copy_weights(layer_pairs(ours, self))

    def forward(self, inputs: Tensor) -> Tensor:
        distinct = list(inputs.unbind(1))
        copies = len(self.branches) // len(distinct)
        identities = self.identities(distinct) * copies
        residuals = self.residuals(distinct * copies)
        outputs = [f + self.scale * s for f, s in zip(residuals, identities, strict=True)]
        return torch.stack([sum(outputs)] if self.merge else outputs, 1)


Make = Callable[..., tuple[Branches, Tensor]]


@pytest.fixture(params=SHAPES)
def make(request: pytest.FixtureRequest) -> Make:
    in_channels, stride = SHAPES[request.param]

    def build(
        shared_input: bool = False,
        merge: bool = False,
        dtype: torch.dtype = torch.float64,
        identity_scale: float = 0.4,
    ) -> tuple[Branches, Tensor]:
        block = Branches(
            C, in_channels, WIDTH, OUT, stride, shared_input, merge, identity_scale
        ).to(dtype)
        scramble_statistics(block)
        return block, images(in_channels, shared_input, dtype)

    return build


def images(in_channels: int, shared_input: bool, dtype: torch.dtype) -> Tensor:
    return torch.randn(BATCH, 1 if shared_input else C, in_channels, SIDE, SIDE, dtype=dtype)


def backward(module: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    inputs = inputs.detach().clone().requires_grad_()
    outputs = module(inputs)
    probe = torch.linspace(-1, 2, outputs.numel(), dtype=outputs.dtype).view_as(outputs)
    (outputs * probe.cos()).mean().backward()
    return outputs.detach(), inputs.grad


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("shared_input", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_branches_are_separate_bottlenecks(
    make: Make, dtype: torch.dtype, shared_input: bool, merge: bool, training: bool
) -> None:
    block, inputs = make(shared_input, merge, dtype)
    block.train(training)
    twin = Twin(block)
    (actual, gradient), (expected, twin_gradient) = backward(block, inputs), backward(twin, inputs)
    assert_near(actual, expected, TOLERANCE[dtype])
    assert_near(gradient, twin_gradient, TOLERANCE[dtype])
    assert_same_gradients(layer_pairs(block, twin), TOLERANCE[dtype])
    assert_same_statistics(layer_pairs(block, twin), TOLERANCE[dtype])


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("momentum", [0.3, None])
def test_training_and_then_evaluating_is_the_same(
    make: Make, merge: bool, momentum: float | None
) -> None:
    block, inputs = make(merge=merge)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    twin = Twin(block)
    steppers = [torch.optim.SGD(module.parameters(), lr=0.5) for module in (block, twin)]
    for _ in range(4):
        inputs = torch.randn_like(inputs) * 2 + 1
        for module, stepper in zip((block, twin), steppers, strict=True):
            backward(module, inputs)
            stepper.step()
            stepper.zero_grad()
    # With momentum=None the factor 1 / n is a float32 number.
    tolerance = 1e-10 if momentum is not None else 1e-6
    assert_same_statistics(layer_pairs(block, twin), tolerance)
    assert_near(block.eval()(inputs), twin.eval()(inputs), tolerance)


@pytest.mark.parametrize("merge", [True, False])
def test_one_norm_may_be_frozen_while_the_rest_trains(make: Make, merge: bool) -> None:
    block, inputs = make(merge=merge)
    block.expand_norm.eval()
    before = deepcopy(block.expand_norm.state_dict())
    twin = Twin(block)
    (actual, gradient), (expected, twin_gradient) = backward(block, inputs), backward(twin, inputs)
    assert_near(actual, expected, 1e-10)
    assert_near(gradient, twin_gradient, 1e-10)
    assert_same_gradients(layer_pairs(block, twin), 1e-10)
    assert_same_statistics(layer_pairs(block, twin), 1e-10)
    after = block.expand_norm.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


class OtherNorm(nn.Module):
    """Like SyncBatchNorm: normalises, but is no BatchNorm2d."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(images)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("shared_input", [True, False])
def test_another_kind_of_norm_takes_the_place_of_the_folded_one(
    make: Make, shared_input: bool, merge: bool
) -> None:
    block, inputs = make(shared_input, merge)
    replaced = deepcopy(block)
    replaced.expand_norm = OtherNorm(replaced.expand_norm)
    (actual, gradient), (expected, folded) = backward(replaced, inputs), backward(block, inputs)
    assert_near(actual, expected, 1e-10)
    assert_near(gradient, folded, 1e-10)
    assert_near(replaced.expand.weight.grad, block.expand.weight.grad, 1e-10)
    for name in ("weight", "bias", "running_mean", "running_var"):
        ours, other = getattr(block.expand_norm, name), getattr(replaced.expand_norm.norm, name)
        assert_near(other, ours, 1e-10)


def test_synchronised_batch_norm_evaluates_alike(make: Make) -> None:
    block, inputs = make()
    block.eval()
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(deepcopy(block))
    assert isinstance(synchronised.expand_norm, nn.SyncBatchNorm)
    assert_near(synchronised(inputs), block(inputs), 1e-10)


@pytest.mark.parametrize("kept", [[0, 2], [1], [2, 0], [0, 1, 2]])
@pytest.mark.parametrize("shared_input", [True, False])
def test_kept_branches_compute_what_they_did(
    make: Make, shared_input: bool, kept: list[int]
) -> None:
    block, inputs = make(shared_input)
    block.eval()
    smaller = block.keep(kept)
    assert not smaller.training
    own_inputs = inputs if shared_input else inputs[:, kept]
    assert_near(smaller(own_inputs), block(inputs)[:, kept], 1e-12)
    expected = len(kept) * block.branch_parameters + block.shared_parameters
    assert sum(p.numel() for p in smaller.parameters()) == expected


@pytest.mark.parametrize("kept", [[0, 2], [1]])
def test_a_merged_module_sums_the_kept_branches(make: Make, kept: list[int]) -> None:
    block, inputs = make(merge=True)
    separate = deepcopy(block.eval())
    separate.merge = False
    expected = separate(inputs)[:, kept].sum(1, keepdim=True)
    assert_near(block.keep(kept)(inputs[:, kept]), expected, 1e-12)


def test_a_merged_module_with_one_input_keeps_its_whole_identity(make: Make) -> None:
    """Whether branches are dead or not, a plain ResNeXt adds `S(x)` once."""
    block, inputs = make(shared_input=True, merge=True, identity_scale=1 / C)
    twin = Twin(block.eval()).eval()
    kept = [0, 2]
    residuals = twin.residuals([inputs[:, 0]] * C)
    expected = twin.identities([inputs[:, 0]])[0] + residuals[0] + residuals[2]
    assert_near(block.keep(kept)(inputs)[:, 0], expected, 1e-12)


def test_keeping_copies_the_weights(make: Make) -> None:
    block, inputs = make()
    smaller = block.eval().keep([0, 2])
    before = smaller(inputs[:, [0, 2]])
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
    assert torch.equal(smaller(inputs[:, [0, 2]]), before)


def test_kept_branches_keep_the_epsilon_of_their_norms(make: Make) -> None:
    block, inputs = make()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.1
    block.eval()
    assert_near(block.keep([0, 2])(inputs[:, [0, 2]]), block(inputs)[:, [0, 2]], 1e-12)


def plain_parameters(block: Branches) -> int:
    twin = PlainBranches(block.branches, block.in_channels, block.width, OUT, block.stride)
    return sum(parameter.numel() for parameter in twin.parameters())


@pytest.mark.parametrize("shared_input", [True, False])
def test_parameters_are_those_of_separate_layers(make: Make, shared_input: bool) -> None:
    block, _ = make(shared_input)
    own = sum(parameter.numel() for parameter in block.parameters())
    assert own == C * block.branch_parameters + block.shared_parameters == plain_parameters(block)


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("merge", [True, False])
def test_autocast_is_as_close_as_that_of_separate_layers(
    make: Make, merge: bool, training: bool
) -> None:
    block, inputs = make(merge=merge, dtype=torch.float32)
    block.train(training)
    twin = Twin(block)
    full, full_gradient = backward(deepcopy(block), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        half, half_gradient = backward(block, inputs)
        plain, plain_gradient = backward(twin, inputs)
    assert half.isfinite().all()
    assert relative(half, full) < min(0.05, 2 * relative(plain, full) + 1e-3)
    assert relative(half_gradient, full_gradient) < 2 * relative(plain_gradient, full_gradient)
    for parameter in block.parameters():
        assert parameter.grad.isfinite().all()
    assert block.expand_norm.running_var.dtype == torch.float32


def test_a_module_in_bfloat16_runs(make: Make) -> None:
    block, inputs = make(dtype=torch.float32)
    expected = Twin(block)(inputs)
    half = block.to(torch.bfloat16)(inputs.to(torch.bfloat16))
    assert relative(half, expected) < 0.05
