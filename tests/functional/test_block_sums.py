"""The sums of `PlainBlockSums`, which compilers and exporters see, against those of `BlockSums`."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from wiring_lightning.backbones import ResNet


def step(network: ResNet, images: Tensor) -> list[Tensor]:
    """Logits, and the gradients of all parameters."""
    network.zero_grad()
    logits = network(images)
    logits.square().sum().backward()
    return [logits, *(p.grad for p in network.parameters() if p.grad is not None)]


@pytest.fixture
def plain_sums(monkeypatch: pytest.MonkeyPatch) -> Any:
    """From its call on, networks run what they run under a compiler."""

    def use() -> None:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)

    return use


@pytest.mark.parametrize("mean", [True, False], ids=["mean", "sum"])
@pytest.mark.parametrize(
    ("depth", "fan_in", "weighted"),
    [
        (20, 1, False),
        (20, 3, True),  # every block has weights
        (20, 8, False),  # every block reads all earlier ones
        (32, 5, False),  # sums begin in the first stage
        (32, 10, False),  # and in the second one
        (32, 11, False),
    ],
)
def test_both_compute_the_same(
    plain_sums: Any, depth: int, fan_in: int, weighted: bool, mean: bool
) -> None:
    network = ResNet(
        depth, fan_in, num_classes=3, weighted=weighted, identity="mean" if mean else "sum"
    ).double()
    images = torch.randn(2, 3, 16, 16, dtype=torch.double)
    expected = step(network, images)
    plain_sums()
    for own, other in zip(step(network, images), expected, strict=True):
        largest = other.abs().max() + 1e-100
        torch.testing.assert_close(own / largest, other / largest, rtol=0, atol=1e-12)


class Count(TorchDispatchMode):
    """Counts the operations that add or multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.sums += func.overloadpacket.__name__ in ("add", "mul", "mm", "addmm")
        return func(*args, **(kwargs or {}))


def test_a_compiler_sees_few_operations(plain_sums: Any) -> None:
    """With a term for each connection there were 2,872."""
    network = ResNet(110, 1, num_classes=3).eval()
    plain_sums()
    with torch.no_grad(), Count() as count:
        network(torch.randn(1, 3, 8, 8))
    assert count.sums < 600
