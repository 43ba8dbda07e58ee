"""Every network with another head in the place of its classifier, as for a new task."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn

from tests.methods import NETWORKS, Method, over
from tests.outside import TwoLayers
from wiring_lightning import costs
from wiring_lightning.wiring import count_parameters

HEADS: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda width: nn.Linear(width, 7),
    "features": lambda _: nn.Identity(),
    "layers": lambda width: nn.Sequential(
        nn.BatchNorm1d(width),
        nn.Linear(width, 9, bias=False),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(9, 7),
    ),
}


@over(NETWORKS, "network")
@pytest.mark.parametrize("head", HEADS)
def test_a_network_with_another_head_runs_counts_and_compacts(method: Method, head: str) -> None:
    network = method.task().backbone.double().eval()
    if isinstance(network, TwoLayers):
        pytest.skip("not a network of this package")
    old = network.classifier
    before = int(costs.parameters(network.wiring(), live=False))
    network.classifier = HEADS[head](old.in_features).double().eval()
    images = torch.rand(3, 1, 8, 8).double()
    logits = network(images)
    assert logits.shape == (3, old.in_features if head == "features" else 7)
    compact = deepcopy(network.compact())
    loose = {"rtol": 0.05, "atol": 0.05} if method.name == "continuous-graph" else {}
    torch.testing.assert_close(compact(images), logits, **loose)
    after = int(costs.parameters(network.wiring(), live=False))
    assert after - before == count_parameters(network.classifier) - count_parameters(old)
