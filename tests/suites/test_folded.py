"""Compact networks whose batch norms are folded into convolutions."""

from copy import deepcopy
from itertools import chain

import pytest
import torch
from torch import Tensor, nn

from tests.methods import NETWORKS, Method, over
from wiring_lightning import costs
from wiring_lightning.nn import Adjacency, BernoulliGate, Gate
from wiring_lightning.nn.folding import fold_batch_norms

# One method for each network: what learns makes no difference here.
_OWN = [m for m in NETWORKS if m.backbone.__module__.startswith("wiring_lightning.")]


def _network(method: Method, seed: int) -> nn.Module:
    """A network in float64 with statistics and scores that are not those of the first step."""
    torch.manual_seed(seed)
    network = method.backbone(**method.arguments).double()
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                _scramble(part)
            elif isinstance(part, Gate) and not part.fixed:
                part.scores.copy_(torch.where(part.scores < 0, part.scores, torch.rand(1)))
                part.scores[part.scores >= 0] = torch.rand(int((part.scores >= 0).sum())).double()
            elif isinstance(part, BernoulliGate):
                part.logits.normal_(1.0)
    return network.eval()


def _scramble(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    norm.running_mean.normal_(0.0, 0.2)
    norm.running_var.uniform_(0.5, 2.0)
    norm.weight.data.uniform_(-1.5, 1.5)
    norm.bias.data.normal_(0.0, 0.2)


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images)


def _size(network: nn.Module) -> int:
    """Parameters of the network itself, without scores."""
    names = ("scores", "logits", "log_weights")
    return sum(p.numel() for name, p in network.named_parameters() if not name.endswith(names))


@pytest.mark.parametrize("seed", [0, 1])
@over(_OWN)
def test_the_folded_network_computes_the_same_with_fewer_parameters(
    method: Method, seed: int
) -> None:
    network = _network(method, seed)
    images = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    expected = _logits(network, images)
    compact, folded = network.compact(), network.compact(fold_batch_norm=True)
    assert not folded.training
    bound = 0.02 if method.arguments.get("dynamics") == "continuous" else 1e-9
    for small in (compact, folded, folded.compact(), folded.compact(fold_batch_norm=True)):
        given = images.clone()
        torch.testing.assert_close(_logits(small, given), expected, atol=bound, rtol=bound)
        assert torch.equal(given, images)
        if bound < 1e-3:  # one image alone, which has the fewest copies inside
            single = _logits(small, images[:1])
            torch.testing.assert_close(single, expected[:1], atol=bound, rtol=bound)
    assert not any(isinstance(m, Gate | BernoulliGate | Adjacency) for m in folded.modules())
    assert _size(compact) <= _size(network)
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in n.modules()) for n in (compact, folded)]
    assert norms[1] <= norms[0]
    assert (_size(folded) < _size(compact)) == (norms[1] < norms[0])
    wiring = network.wiring()
    if not wiring.live_nodes.all():
        assert _size(folded) < _size(network)
    assert int(costs.parameters(folded.wiring())) == _size(folded)
    assert int(costs.multiply_adds(folded.wiring())) <= int(costs.multiply_adds(wiring))


@over(_OWN)
def test_the_folded_network_is_a_copy(method: Method) -> None:
    network, images = _network(method, 2), torch.randn(3, 1, 8, 8, dtype=torch.float64)
    folded = network.compact(fold_batch_norm=True)
    expected = _logits(folded, images)
    with torch.no_grad():
        for tensor in chain(network.parameters(), network.buffers()):
            tensor.zero_()
    assert torch.equal(_logits(folded, images), expected)


@over(_OWN)
def test_norms_that_need_the_batch_stay(method: Method) -> None:
    network = _network(method, 3)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = part.running_var = part.num_batches_tracked = None
            part.track_running_stats = False
    images = torch.randn(7, 1, 8, 8, dtype=torch.float64)
    compact, folded = network.compact(), network.compact(fold_batch_norm=True)
    torch.testing.assert_close(_logits(folded, images), _logits(compact, images))


@over([method for method in _OWN if method.name.startswith(("resnext", "mobilenet"))])
def test_networks_are_folded_in_any_precision(method: Method) -> None:
    network = deepcopy(_network(method, 4)).float()
    images = torch.randn(3, 1, 8, 8)
    folded = network.compact(fold_batch_norm=True)
    assert {p.dtype for p in folded.parameters()} == {torch.float32}
    torch.testing.assert_close(
        _logits(folded, images), _logits(network, images), rtol=1e-4, atol=1e-4
    )


@over([method for method in _OWN if method.name.startswith(("resnet", "conv-fabric"))])
def test_a_folded_network_computes_in_channels_last(method: Method) -> None:
    folded = _network(method, 5).compact(fold_batch_norm=True)
    convolutions = [m for m in folded.modules() if isinstance(m, nn.Conv2d)]
    seen: list[bool] = []
    for layer in convolutions:
        layer.register_forward_hook(
            lambda _, inputs, output: seen.append(
                output.is_contiguous(memory_format=torch.channels_last)
            )
        )
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    assert _logits(folded, images).is_contiguous()
    assert len(seen) >= len(convolutions) > 2
    assert all(seen)


def test_a_network_that_trains_is_not_folded() -> None:
    with pytest.raises(ValueError, match="call `eval\\(\\)` first"):
        fold_batch_norms(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))
