"""A super-network with one method, `wiring()`, is searched like one with all three."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from tests.callbacks.tiny_super_network import (
    SOURCE,
    TARGET,
    Searching,
    TinySuperNetwork,
    fit,
    new_search,
)
from wiring_lightning.costs import Latency, parameters
from wiring_lightning.wiring import Wiring, WiringBuilder


class OneMethod(TinySuperNetwork):
    """The same network; the order of its nodes and edges is another one."""

    active_edges = compact = None  # type: ignore[assignment]

    def wiring(self) -> Wiring:
        graph = WiringBuilder()
        stem = graph.add_layers("stem", self.stem, side=1)
        modules = [graph.add_layers(f"m{i}", self.layers[i], side=1) for i in range(4)]
        state = graph.add_node("state")
        modules += [graph.add_layers(f"m{i}", self.layers[i], side=1) for i in (4, 5)]
        classifier = graph.add_layers("classifier", self.classifier, side=1)
        nodes = [stem, state, classifier]
        graph.connect(modules, [nodes[target] for target in TARGET])
        graph.draw([nodes[source] for source in SOURCE], modules, self.gate.choice())
        return graph.wiring()


def searched(network: TinySuperNetwork) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    network.load_state_dict(TinySuperNetwork().state_dict())
    fit(Searching(network), new_search(), max_epochs=2)
    return network.gate.logits.detach(), network.stem.weight.detach()


def test_the_search_is_the_same() -> None:
    for one, three in zip(searched(OneMethod()), searched(TinySuperNetwork()), strict=True):
        assert torch.equal(one, three)


def test_drawn_architectures_have_the_same_price() -> None:
    network, full = OneMethod(), TinySuperNetwork()
    drawn = torch.rand(50, 6) < 0.5
    wiring, other = network.wiring(), full.wiring()
    prices = parameters(wiring.with_active(wiring.active_edges(drawn)))
    assert torch.equal(prices, parameters(other.with_active(full.active_edges(drawn))))
    assert len(prices.unique()) > 3


def test_the_most_probable_edges_are_active() -> None:
    network = OneMethod()
    network.gate.logits.data = torch.tensor([1.0, -1.0, -2.0, 3.0, -1.0, 1.0])
    wiring = network.wiring()
    assert wiring.active.tolist() == [True] * 6 + network.gate.best.tolist()
    torch.testing.assert_close(wiring.score[6:], network.gate.probabilities)
    assert torch.equal(wiring.active_edges(network.gate.best), wiring.active)


class Forgets(OneMethod):
    """Its wiring leaves out that the gate draws."""

    def wiring(self) -> Wiring:
        return TinySuperNetwork().wiring()


def test_what_is_missing_is_said() -> None:
    with pytest.raises(MisconfigurationException, match="every edge of the gate with `WiringBu"):
        fit(Searching(Forgets()), new_search())
    with pytest.raises(ValueError, match="OneMethod needs the methods `compact` and `active_edg"):
        fit(Searching(OneMethod()), new_search(cost=Latency((5,))))
    with pytest.raises(ValueError, match="no drawn edges"):
        TinySuperNetwork().wiring().active_edges(torch.ones(6))
    with pytest.raises(ValueError, match="the gate has 6 edges, but there are 1 sources"):
        WiringBuilder().draw([0], [0], OneMethod().gate.choice())
