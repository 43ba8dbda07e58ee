"""Whose examples the batch norms of a search see, against a fabric with masks."""

import pytest
import torch
from torch import Tensor

from wiring_lightning.backbones import ConvFabric, ResNetFabric
from wiring_lightning.backbones.fabric_network import FabricNetwork
from wiring_lightning.nn.fabric import Statistics


def make(kind: str, statistics: Statistics, initial: float = 0.5) -> FabricNetwork:
    torch.manual_seed(0)
    if kind == "grid":
        return ConvFabric(3, 4, 3, image_size=8, initial=initial, statistics=statistics).double()
    return ResNetFabric(2, image_size=8, initial=initial, statistics=statistics).double()


def masked(network: FabricNetwork, images: Tensor, drawn: Tensor) -> Tensor:
    """Every module that somebody drew on the whole batch, and its output times 0 or 1."""
    fabric = network.fabric
    states = [network.stem(images)]
    for node in range(1, len(fabric.spaces)):
        total: Tensor | None = None
        for edge, target in enumerate(fabric.target):
            if target != node or not drawn[:, edge].any():
                continue
            module, state = fabric.module_of(edge), states[fabric.source[edge]]
            output = state if module is None else module(state)
            output = output * drawn[:, edge, None, None, None]
            total = output if total is None else total + output
        assert total is not None  # the seed draws every node for some example
        states.append(total.relu())
    live = fabric.topology.live(drawn).any(1)
    logits: Tensor = network.classifier(states[-1].mean((2, 3)))
    return logits * live[:, None]


@pytest.mark.parametrize("kind", ["grid", "resnet"])
def test_the_statistics_of_the_batch_are_those_of_masked_outputs(kind: str) -> None:
    network, twin = make(kind, "batch"), make(kind, "batch")
    twin.load_state_dict(network.state_dict())
    images = torch.randn(16, 3, 8, 8, dtype=torch.double)
    assert network.gate is not None
    network.gate.seed(0)
    logits = network(images)
    drawn = network.gate.drawn
    assert drawn is not None
    partial = drawn.any(0) & ~drawn.all(0)
    assert partial.sum() > 5
    expected = masked(twin, images, drawn)
    torch.testing.assert_close(logits, expected)
    logits.square().sum().backward()
    expected.square().sum().backward()
    for (name, one), other in zip(network.named_parameters(), twin.parameters(), strict=True):
        if name.endswith("gate.logits"):
            continue
        zero = torch.zeros_like(one)
        torch.testing.assert_close(
            zero if one.grad is None else one.grad,
            zero if other.grad is None else other.grad,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    for name, value in network.named_buffers():
        torch.testing.assert_close(value, twin.get_buffer(name))


@pytest.mark.parametrize("kind", ["grid", "resnet"])
def test_both_statistics_agree_where_nothing_is_drawn(kind: str) -> None:
    one, other = make(kind, "drawn"), make(kind, "batch")
    images = torch.randn(4, 3, 8, 8, dtype=torch.double)
    for network in (one, other):
        assert network.gate is not None
        network.gate.sampling = False
    torch.testing.assert_close(one(images), other(images))
    torch.testing.assert_close(one.eval()(images), other.eval()(images))


def test_both_statistics_differ_in_a_search() -> None:
    images, logits = torch.randn(16, 3, 8, 8, dtype=torch.double), []
    statistics: list[Statistics] = ["drawn", "batch"]
    for which in statistics:
        network = make("grid", which)
        assert network.gate is not None
        network.gate.seed(0)
        logits.append(network(images).detach())
    assert (logits[0] - logits[1]).abs().max() > 0.1


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(ValueError, match='statistics must be "drawn" or "batch", got "all"'):
        ConvFabric(2, 4, 3, image_size=8, statistics="all")  # type: ignore[arg-type]
