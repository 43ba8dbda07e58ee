from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.shapes import shapes_only
from wiring_lightning import costs
from wiring_lightning.backbones import DenseNet

DEPTH, LAYERS = 16, 4


def loop(network: DenseNet, images: Tensor, gates: dict[str, Tensor]) -> Tensor:
    """DenseNet one source at a time: each is normalised, rectified, gated and convolved alone.

    A convolution of a concatenation is the sum of the convolutions of its parts.
    """
    state = network.stem(images)
    for name, layers in network.stages.items():
        outputs = [state]
        for index, layer in enumerate(layers):
            total: Tensor | float = 0.0
            start = 0
            for k, output in enumerate(outputs):
                part = slice(start, start + output.shape[1])
                start = part.stop
                hidden = functional.batch_norm(
                    output, None, None, layer.norm.weight[part], layer.norm.bias[part],
                    training=True,
                )  # fmt: skip
                hidden = functional.relu(hidden) * gates[name][index, k]
                total = total + functional.conv2d(hidden, layer.conv.weight[:, part], padding=1)
            assert isinstance(total, Tensor)
            outputs.append(total)
        state = torch.cat(outputs, 1)
        if name in network.transitions:
            norm, _, conv, pool = network.transitions[name]
            state = functional.batch_norm(state, None, None, norm.weight, norm.bias, training=True)
            state = pool(conv(functional.relu(state)))
    norm = network.norm
    state = functional.batch_norm(state, None, None, norm.weight, norm.bias, training=True)
    return network.classifier(functional.relu(state).mean((2, 3)))


@pytest.mark.parametrize(("depth", "expected"), [(40, 1_100_428), (100, 7_189_468)])
def test_the_plain_network_has_the_papers_size(depth: int, expected: int) -> None:
    with shapes_only():
        network = DenseNet(depth, 12, num_classes=100, wiring="dense")
    assert sum(p.numel() for p in network.parameters()) == expected
    assert int(costs.parameters(network.wiring())) == expected


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fan_in", [1, 2, 4])
def test_gated_layers_and_all_gradients_are_those_of_a_loop(fan_in: int, weighted: bool) -> None:
    network = DenseNet(DEPTH, 4, fan_in, weighted=weighted).double()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight, 1, 0.2)
            nn.init.normal_(norm.bias, 0, 0.2)
    gates = {}
    for name, gate in network.connections.items():
        value = gate.active.double()
        if weighted:
            nn.init.normal_(gate.log_weights, std=0.3)
            value = value * gate.log_weights.detach().exp()
        gates[name] = value.requires_grad_()
    images, labels = torch.randn(4, 3, 16, 16).double(), torch.arange(4)
    weights = [p for name, p in network.named_parameters() if "connections" not in name]
    expected = loop(network, images, gates)
    slopes = torch.autograd.grad(
        functional.cross_entropy(expected, labels), [*weights, *gates.values()]
    )
    logits = network(images)
    torch.testing.assert_close(logits, expected, atol=1e-10, rtol=1e-10)
    functional.cross_entropy(logits, labels).backward()
    for parameter, slope in zip(weights, slopes, strict=False):
        torch.testing.assert_close(parameter.grad, slope, atol=1e-10, rtol=1e-8)
    for gate, slope in zip(network.connections.values(), slopes[len(weights) :], strict=True):
        scale = 1.0 if gate.log_weights is None else gate.log_weights.detach().exp()
        torch.testing.assert_close(
            gate.scores.grad, (slope.tril() * scale).to(gate.scores), atol=1e-10, rtol=1e-6
        )


def test_pruning_removes_what_reads_sources_that_were_not_chosen() -> None:
    network = DenseNet(DEPTH, 4, fan_in=1, wiring="random").eval()
    compacted = network.compact()
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(compacted(images), network(images), atol=1e-5, rtol=1e-5)
    kept = sum(p.numel() for p in compacted.parameters())
    assert (
        kept
        == int(costs.parameters(network.wiring()))
        < int(costs.parameters(network.wiring(), live=False))
    )
    assert next(layer.reads for layer in compacted.stages["stage1"]) == (0,)
    assert all(len(layer.reads) == 1 for layer in compacted.stages["stage2"])


def test_multiply_adds_are_those_of_torchs_counter() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    network = DenseNet(DEPTH, 4, fan_in=2, wiring="random", image_size=16).eval().compact()
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(1, 3, 16, 16))
    assert 2 * int(costs.multiply_adds(network.wiring())) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 41}, r"3n \+ 4 .* got 41"),
        ({"fan_in": 13}, "between 1 and 12, .* got 13"),
        ({"wiring": "full"}, '"learned", "dense", "random" or "covered", got "full"'),
        ({"stem": "imagenet"}, 'got "imagenet"'),
        ({"growth": 0}, "growth must be at least 1, got 0"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenseNet(**arguments)
