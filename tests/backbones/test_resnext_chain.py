"""When a compact ResNeXt is computed in C: always the same as by torch's operators."""

import pickle
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from tests.backbones.plain_resnext import assert_near
from tests.backbones.small_resnext import batch, small
from wiring_lightning.nn import Branches, Selection
from wiring_lightning.nn.branch_chain import can_chain


def ways(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of its two ways a network takes from here on, call by call."""
    seen: list[str] = []
    for name in ("_logits", "_logits_by_chain"):
        way = getattr(network, name)
        looked = lambda part, name=name, way=way: seen.append(name) or way(part)  # noqa: E731
        monkeypatch.setattr(network, name, looked)
    return seen


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda network, images: (network, images), True),
        (lambda network, images: (network.double(), images.double()), False),
        (lambda network, images: (network.bfloat16(), images.bfloat16()), False),
        (lambda network, images: (network.train(), images), False),
    ],
    ids=["float32", "float64", "bfloat16", "training"],
)
@pytest.mark.parametrize("fan_in", [1, 2])
def test_what_is_computed_in_c(
    fan_in: int,
    change: Callable[[nn.Module, Tensor], tuple[nn.Module, Tensor]],
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, (images, _) = small(fan_in).float().eval(), batch()
    images = images.float()
    network, images = change(source.compact(), images)
    seen = ways(network, monkeypatch)
    with torch.no_grad():
        logits = network(images)
    in_c = expected and can_chain([])  # if this machine has a compiler
    assert seen == ["_logits_by_chain" if in_c else "_logits"]
    if expected:
        assert_near(logits, source(images), 1e-5)
    seen.clear()
    network(images)  # with gradients
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network(images)
    assert seen == ["_logits"] * 2


@pytest.mark.skipif(not can_chain([]), reason="this machine has no compiler for C")
@pytest.mark.parametrize("copy", [deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
@pytest.mark.parametrize("fan_in", [1, 2])
def test_copies_are_computed_in_c_too(
    fan_in: int, copy: Callable[[nn.Module], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, other = (small(fan_in).float().eval().compact() for _ in range(2))
    network.load_state_dict(network.state_dict())
    for same in (copy(network), other.double().float()):
        seen = ways(same, monkeypatch)
        with torch.no_grad():
            same(batch()[0].float())
        assert seen == ["_logits_by_chain"]


@pytest.mark.parametrize("fan_in", [1, 2])
def test_a_connection_changed_in_place_counts(fan_in: int) -> None:
    network, images = small(fan_in).float().eval().compact(), batch()[0].float()
    before = network(images)
    with torch.no_grad():
        for connection in network.connections.values():
            connection.matrix.mul_(2)
        expected = deepcopy(network).double()(images.double())
        found = network(images)
    assert_near(found, expected, 1e-5)
    assert (found - before).abs().max() > 1e-2


@pytest.mark.parametrize("fan_in", [1, 2])
def test_numbers_that_are_written_again_change_nothing(fan_in: int) -> None:
    """As DDP writes all buffers in each forward pass."""
    network, images = small(fan_in).float().eval().compact(), batch()[0].float()
    connections = [one for one in network.connections.values() if isinstance(one, Selection)]
    before = [(one.binary, one.only_source is None) for one in connections]
    with torch.no_grad():
        expected = network(images)
        for connection in connections:
            connection.matrix.copy_(connection.matrix.clone())
        assert all(one.is_as_seen for one in connections)
        assert [(one.binary, one.only_source is None) for one in connections] == before
        assert network._may_chain(images)
        assert torch.equal(network(images), expected)


@pytest.mark.parametrize("fan_in", [1, 2])
def test_the_tensors_of_another_network_count(fan_in: int) -> None:
    network, images = small(fan_in).float().eval().compact(), batch()[0].float()
    other = deepcopy(network)
    for connection in other.connections.values():
        connection.load_state_dict(
            {name: value.flip(1) for name, value in connection.state_dict().items()}
        )
    tensors = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    with torch.no_grad():
        found = torch.func.functional_call(network, tensors, (images,))
        assert_near(found, other(images), 1e-5)
        assert (found - network(images)).abs().max() > 1e-2


def test_derivatives_forwards_are_computed_without_gradients_too() -> None:
    network, images = small(1).float().eval().compact(), batch()[0].float()
    torch.manual_seed(0)
    direction, exact, step = torch.randn_like(images), deepcopy(network).double(), 1e-6
    with torch.no_grad():
        _, found = torch.func.jvp(network, (images,), (direction,))
        ends = [exact(images.double() + sign * step * direction.double()) for sign in (1, -1)]
        expected = (ends[0] - ends[1]) / (2 * step)
    assert expected.abs().max() > 1e-2
    assert_near(found, expected, 1e-3)


class Doubled(Branches):
    @override
    def bottleneck(self, reduced: Tensor) -> Tensor:
        return super().bottleneck(reduced) * 2


class DoubledSelection(Selection):
    @override
    def weights(self) -> Tensor:
        return super().weights() * 2


@pytest.mark.parametrize("part", ["blocks.module2", "connections.module2"])
def test_subclasses_compute_what_is_theirs(part: str) -> None:
    network, images = small(2).float().eval().compact(), batch()[0].float()
    before = network(images)
    kinds = {Branches: Doubled, Selection: DoubledSelection}
    module = network.get_submodule(part)
    module.__class__ = kinds[type(module)]
    with torch.no_grad():
        found = network(images)
        assert_near(found, deepcopy(network).double()(images.double()), 1e-5)
    assert (found - before).abs().max() > 1e-2


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_a_projection_of_ones_own_is_computed_as_it_is(
    size: int, tracked: bool, bias: bool
) -> None:
    torch.manual_seed(0)
    block = Branches(2, 4, 3, 8, stride=2).eval()
    block.projection = nn.Sequential(
        nn.Conv2d(4, 8, size, stride=2, padding=size // 2, bias=bias),
        nn.BatchNorm2d(8, track_running_stats=tracked),
    ).eval()
    inputs = torch.randn(3, 2, 4, 6, 6)
    with torch.no_grad():
        expected = block.projection(inputs.flatten(0, 1)).unflatten(0, (3, 2))
        assert_near(block.identity(inputs), expected, 1e-5)
