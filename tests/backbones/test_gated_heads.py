"""Encoders and heads: the function, the wiring, and what remains of it in a compact network."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from wiring_lightning import costs
from wiring_lightning.backbones import GatedHeads
from wiring_lightning.data import DigitSums
from wiring_lightning.nn.described import find_differences
from wiring_lightning.wiring import count_parameters

SMALL = {"in_channels": 5, "heads": 3, "num_classes": 4, "width": 6, "features": 2}


def trained(**options) -> GatedHeads:
    """A network as after training: other scores, and a batch norm that has seen data."""
    network = GatedHeads(**{**SMALL, **options})
    norm = network.norm
    torch.nn.init.normal_(norm.running_mean)
    torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    torch.nn.init.uniform_(norm.weight, 0.5, 2)
    torch.nn.init.normal_(norm.bias)
    if network.gates["heads"].scores.requires_grad:
        network.gates["heads"].scores.data = torch.rand(3, 5).softmax(1)
    return network.eval()


def by_hand(network: GatedHeads, images: Tensor, edges: Tensor) -> Tensor:
    """One encoder and one head after the other, with plain matrix products."""
    first, _, second = network.encoders
    codes = []
    for channel in range(5):
        hidden = images[:, channel].flatten(1) @ first.weight[channel] + first.bias[channel]
        codes.append(hidden.relu() @ second.weight[channel] + second.bias[channel])
    third, _, fourth = network.heads
    norm, logits = network.norm, []
    for head in range(3):
        own = slice(head * 2, head * 2 + 2)
        summed = sum(codes[channel] for channel in edges[head].nonzero().flatten().tolist())
        normed = functional.batch_norm(
            summed, norm.running_mean[own], norm.running_var[own], norm.weight[own], norm.bias[own]
        )
        hidden = (normed @ third.weight[head] + third.bias[head]).relu()
        logits.append(hidden @ fourth.weight[head] + fourth.bias[head])
    return torch.stack(logits, -1)


@pytest.mark.parametrize("wiring", ["learned", "random"])
def test_a_head_reads_the_encoders_of_its_edges(wiring):
    network, images = trained(wiring=wiring), torch.randn(7, 5, 8, 8)
    edges = network.gates["heads"].best
    assert edges.sum(1).tolist() == [2, 2, 2]
    torch.testing.assert_close(network(images), by_hand(network, images, edges))


def test_the_planted_wiring_is_that_of_the_data():
    data = DigitSums(digits=5, sums=3, wiring_seed=4)
    network = GatedHeads(**SMALL, wiring="planted", wiring_seed=4).eval()
    images = torch.randn(7, 5, 8, 8)
    edges = torch.zeros(3, 5)
    for head, channels in enumerate(data.planted.tolist()):
        edges[head, channels] = 1
    torch.testing.assert_close(network(images), by_hand(network, images, edges))


@pytest.mark.parametrize("wiring", ["learned", "random"])
def test_edges_of_the_wiring_are_those_of_the_gate(wiring):
    network = trained(wiring=wiring)
    graph = network.wiring().to_networkx()
    for head in range(3):
        sources = {f"encoders.encoder{i}": bool(network.gates["heads"].best[head, i])
                   for i in range(5)}  # fmt: skip
        found = {s: graph.edges[s, f"heads.head{head}"]["active"] for s in sources}
        assert found == sources
    assert {*graph.successors("image")} == {f"encoders.encoder{i}" for i in range(5)}
    assert {*graph.predecessors("logits")} == {f"heads.head{i}" for i in range(3)}


@pytest.mark.parametrize("wiring", ["learned", "random", "planted"])
@pytest.mark.parametrize("fan_in", [1, 2, 5])
def test_the_compact_network_is_the_same_function_and_costs_what_the_wiring_says(wiring, fan_in):
    network = GatedHeads(**SMALL, fan_in=fan_in, wiring=wiring).eval()
    small, images = network.compact(), torch.randn(7, 5, 8, 8)
    torch.testing.assert_close(small(images), network(images))
    wiring = network.wiring()
    assert int(costs.parameters(wiring)) == count_parameters(small)
    matrices = [value for value in small.parameters() if value.dim() == 3]
    matrices = [value for value in matrices if value.shape[1] > 1]  # the others are biases
    assert int(costs.multiply_adds(wiring)) == sum(weight.numel() for weight in matrices)
    if fan_in < 5 and not wiring.live_nodes.all():
        assert count_parameters(small) < count_parameters(network) - 15  # 15 are scores


@pytest.mark.parametrize("wiring", ["random", "planted"])
def test_a_rewired_copy_has_the_same_weights_and_shares_none(wiring):
    network = trained()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    twin = network.rewired(wiring)
    for layer in ("encoders", "norm", "heads"):
        pairs = zip(
            getattr(network, layer).parameters(), getattr(twin, layer).parameters(), strict=True
        )
        for own, other in pairs:
            assert torch.equal(own, other)
            assert own.data_ptr() != other.data_ptr()
    for value in twin.parameters():
        value.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not [n for n, p in twin.named_parameters() if "scores" in n and p.requires_grad]
    assert any("learned" in text for text in find_differences(twin, network.state_dict()))


def test_the_planted_copy_has_the_planted_wiring():
    network = GatedHeads(**SMALL)
    right = network.planted_wiring()
    assert torch.equal(right.active, GatedHeads(**SMALL, wiring="planted").wiring().active)
    assert torch.equal(right.source, network.wiring().source)
    assert torch.equal(right.target, network.wiring().target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fan_in": 6}, "between 1 and the number of channels"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"wiring": "right"}, 'wiring must be "learned", "random" or "planted", got "right"'),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GatedHeads(**{**SMALL, **options})


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"takes images of shape \(5, 8, 8\), got \(4, 8, 8\)"):
        GatedHeads(**SMALL)(torch.randn(2, 4, 8, 8))
