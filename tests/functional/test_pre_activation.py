from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from wiring_lightning.functional import (
    Statistics,
    channel_statistics,
    rectified_convolution,
    update_running_statistics,
)

MODULE = "wiring_lightning.functional.pre_activation"
EPS = 1e-5


def inputs(size: int = 3) -> dict[str, Any]:
    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    sources = [random(3, channels, 4, 4) for channels in (2, 1, 3)]
    return {
        "sources": sources,
        "scale": random(6),
        "shift": random(6),
        "kernel": random(2, 6, size, size),
    }


def ours(
    sources: list[Tensor], scale: Tensor, shift: Tensor, kernel: Tensor, **options: Any
) -> Tensor:
    parts = [channel_statistics(source) for source in sources]
    statistics = Statistics(
        torch.cat([p.mean for p in parts]), torch.cat([p.variance for p in parts]), parts[0].number
    )
    padding = kernel.shape[-1] // 2
    return rectified_convolution(
        sources, statistics, scale, shift, EPS, kernel, padding=padding, **options
    )


def layers(
    sources: list[Tensor], scale: Tensor, shift: Tensor, kernel: Tensor, stride: int = 1
) -> Tensor:
    joined = torch.cat(sources, 1)
    active = functional.batch_norm(joined, None, None, scale, shift, training=True, eps=EPS).relu()
    return functional.conv2d(active, kernel, None, stride, kernel.shape[-1] // 2)


def leaves(values: dict[str, Any]) -> list[Tensor]:
    return [*values["sources"], values["scale"], values["shift"], values["kernel"]]


@pytest.mark.parametrize("chunk", [1, 10**9], ids=["by example", "at once"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_is_batch_norm_relu_and_convolution_of_the_concatenation(
    size: int, stride: int, recompute: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{MODULE}._CHUNK_BYTES", chunk)
    values = inputs(size)
    outputs = ours(**values, stride=stride, recompute=recompute)
    expected = layers(**values, stride=stride)
    torch.testing.assert_close(outputs, expected, atol=1e-12, rtol=1e-12)
    weights = torch.randn_like(outputs)
    slopes = torch.autograd.grad((outputs * weights).sum(), leaves(values), retain_graph=True)
    again = torch.autograd.grad((outputs * weights).sum(), leaves(values))
    wanted = torch.autograd.grad((expected * weights).sum(), leaves(values))
    for slope, second, other in zip(slopes, again, wanted, strict=True):
        torch.testing.assert_close(slope, other, atol=1e-11, rtol=1e-11)
        assert torch.equal(slope, second)


def test_gradients_of_given_statistics_are_those_of_finite_differences() -> None:
    values = inputs()
    mean = torch.randn(6, dtype=torch.float64, requires_grad=True)
    variance = torch.rand(6, dtype=torch.float64).add(0.5).requires_grad_()

    def function(mean: Tensor, variance: Tensor, *sources: Tensor) -> Tensor:
        given = Statistics(mean, variance, 1)
        return rectified_convolution(
            sources, given, values["scale"], values["shift"], EPS, values["kernel"], padding=1
        )

    assert torch.autograd.gradcheck(function, (mean, variance, *values["sources"]))


def test_statistics_and_their_gradients() -> None:
    values = torch.randn(3, 2, 4, 5, dtype=torch.float64, requires_grad=True) + 5
    mean, variance, count = channel_statistics(values)
    torch.testing.assert_close(mean, values.mean((0, 2, 3)))
    torch.testing.assert_close(variance, values.var((0, 2, 3), correction=0))
    assert count == 3 * 4 * 5
    leaf = torch.randn(3, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tuple(channel_statistics(x)[:2]), (leaf,))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_statistics_of_many_values_are_exact(layout: torch.memory_format) -> None:
    values = (torch.randn(21, 24, 40, 40) + 10).contiguous(memory_format=layout)
    mean, variance, _ = channel_statistics(values)
    exact = values.double()
    torch.testing.assert_close(mean.double(), exact.mean((0, 2, 3)), atol=0, rtol=2e-6)
    expected = exact.var((0, 2, 3), correction=0)
    torch.testing.assert_close(variance.double(), expected, atol=0, rtol=2e-6)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_move_as_in_a_batch_norm(momentum: float | None) -> None:
    ours, theirs = (torch.nn.BatchNorm2d(3, momentum=momentum) for _ in range(2))
    for _ in range(3):
        batch = torch.randn(4, 3, 5, 5) * 2 + 1
        theirs(batch)
        update_running_statistics(ours, *channel_statistics(batch))
    for mine, expected in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("recompute", [False, True])
def test_channels_last_stays_channels_last(recompute: bool) -> None:
    values = inputs()
    expected = ours(**values)
    values["sources"] = [
        s.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        for s in values["sources"]
    ]
    outputs = ours(**values, recompute=recompute)
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(outputs, expected)
    outputs.sum().backward()
    assert values["sources"][0].grad.is_contiguous(memory_format=torch.channels_last)


def test_bf16_autocast_convolves_in_bf16_and_keeps_float_gradients() -> None:
    values = {
        name: [v.detach().float().requires_grad_() for v in value]
        if isinstance(value, list)
        else value.detach().float().requires_grad_()
        for name, value in inputs().items()
    }
    expected = ours(**values)
    wanted = torch.autograd.grad(expected.square().sum(), leaves(values))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = ours(**values)
    assert outputs.dtype == torch.bfloat16
    slopes = torch.autograd.grad(outputs.float().square().sum(), leaves(values))
    for slope, other in zip(slopes, wanted, strict=True):
        assert slope.dtype == torch.float32
        assert (slope - other).abs().max() < 0.05 * other.abs().max()


class Called(TorchDispatchMode):
    """The names of all operators that torch calls."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("device", "has_kernel"), [("cpu", True), ("meta", False)])
def test_devices_without_the_kernel_of_batch_norm_do_not_call_it(
    device: str, has_kernel: bool
) -> None:
    values = torch.randn(3, 2, 4, 4, device=device, requires_grad=True)
    with Called() as called:
        mean, variance, _ = channel_statistics(values)
        (mean.sum() + variance.sum()).backward()
    assert ("batch_norm_update_stats" in called.names) == has_kernel
    assert mean.shape == variance.shape == (2,)
    assert values.grad is not None


def test_statistics_without_that_kernel_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = 3 + 2 * torch.randn(5, 4, 7, 6)
    expected = channel_statistics(values)
    monkeypatch.setattr(f"{MODULE}._WITH_KERNEL", ())
    for own, other in zip(channel_statistics(values), expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-6)


def test_the_default_device_does_not_matter_for_statistics() -> None:
    values = torch.randn(3, 2, 64, 64).contiguous(memory_format=torch.channels_last)
    expected = channel_statistics(values)
    with torch.device("meta"):
        found = channel_statistics(values)
    assert all(torch.equal(ours, own) for ours, own in zip(found[:2], expected[:2], strict=True))
