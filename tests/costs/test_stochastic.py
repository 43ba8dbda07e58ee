"""Costs that are measured or noisy."""

from collections.abc import Callable
from threading import Lock
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.callbacks.tiny_super_network import Plain, TinySuperNetwork
from wiring_lightning import costs
from wiring_lightning.costs import Latency, NoisyCost, named_cost
from wiring_lightning.wiring import Wiring, make_wiring


def drawn(network: TinySuperNetwork, rows: list[list[int]]) -> Wiring:
    return network.wiring().with_active(network.active_edges(torch.tensor(rows).bool()))


class Clock:
    """Stands still but for the layers, each of which takes three milliseconds."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Slow(nn.Linear):
    clock: Clock

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += 0.003
        return super().forward(x)


def test_latency_times_the_compact_network_of_each_architecture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, network = Clock(), TinySuperNetwork()
    monkeypatch.setattr("wiring_lightning.costs.measured.time", clock)
    monkeypatch.setattr(Slow, "clock", clock, raising=False)
    network.layers = nn.ModuleList(Slow(6, 6) for _ in range(6))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    # All six; one; two of which one feeds nobody; none that reaches the output.
    batch = drawn(network, [[1] * 6, [0, 0, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]])
    times = costs.latency(batch, network, torch.randn(2, 5), repeats=3, warmup=1)
    assert times.shape == (4,)
    assert times.tolist() == pytest.approx([18, 3, 3, 0])
    # One measurement serves the second and the third: what is live is the same.
    assert clock.now == pytest.approx((6 + 1) * (3 + 1) * 0.003)
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_network_that_is_timed_is_that_of_the_architecture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, seen = TinySuperNetwork(), []
    forward = Plain.forward

    def watch(plain: Plain, x: Tensor) -> Tensor:
        seen.append((plain.edges, tuple(x.shape), torch.is_grad_enabled(), plain.training))
        return forward(plain, x)

    monkeypatch.setattr(Plain, "forward", watch)
    cost = Latency((5,), batch_size=7, repeats=2, warmup=1)
    cost.bind(network)
    for _ in range(2):  # remembered the second time
        cost(drawn(network, [[0, 1, 0, 1, 1, 0], [1, 0, 1, 0, 0, 1]]))
    assert seen == [([1, 3, 4], (7, 5), False, False)] * 3 + [([0, 2, 5], (7, 5), False, False)] * 3


@pytest.mark.parametrize(
    "norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm, nn.utils.spectral_norm]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_latency_of_a_network_whose_weights_are_computed(
    norm: Callable[[nn.Module], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, network, seen = Clock(), TinySuperNetwork(), []
    forward = Plain.forward

    def watch(plain: Plain, x: Tensor) -> Tensor:
        seen.append(plain.layers[0].weight)
        clock.now += 0.001 * len(plain.edges)
        return forward(plain, x)

    monkeypatch.setattr("wiring_lightning.costs.measured.time", clock)
    monkeypatch.setattr(Plain, "forward", watch)
    network.layers[3] = norm(network.layers[3])
    network(torch.randn(2, 5)).sum().backward()  # what a hook computed now has a graph
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batch = drawn(network, [[0, 0, 0, 1, 0, 0], [1, 0, 0, 1, 0, 1]])
    assert costs.latency(batch, network, torch.randn(2, 5), repeats=1, warmup=0).tolist() == [1, 3]
    network.eval()(torch.randn(2, 5))
    assert torch.equal(seen[0], network.layers[3].weight)
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_latency_learns_the_size_of_an_image_from_the_network() -> None:
    network, cost = TinySuperNetwork(), Latency(repeats=1)
    cost.bind(network)
    with pytest.raises(ValueError, match="give `image_shape`"):
        cost(network.wiring())
    network(torch.randn(3, 5))
    assert cost.image_shape == (5,)
    assert not network._forward_pre_hooks
    assert float(cost(network.wiring())) > 0


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("called", [False, True])
def test_latency_forgets_the_network_before(noisy: bool, called: bool) -> None:
    first, second = TinySuperNetwork(), TinySuperNetwork()
    latency = Latency(repeats=1)
    cost = NoisyCost(latency, std=0.0) if noisy else latency
    cost.bind(first)
    if called:
        first(torch.randn(3, 5))
    cost.bind(second)
    assert not first._forward_pre_hooks
    first(torch.randn(2, 5))  # nobody looks at it any more
    with pytest.raises(ValueError, match="give `image_shape`"):
        cost(second.wiring())
    second.stem = nn.Linear(7, second.stem.out_features)
    second(torch.randn(2, 7))
    assert latency.image_shape == (7,)
    assert not second._forward_pre_hooks
    assert float(cost(second.wiring())) > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_latency_is_measured_in_the_type_of_the_network(dtype: torch.dtype) -> None:
    network, cost = TinySuperNetwork().to(dtype), Latency((5,), repeats=1)
    cost.bind(network)
    assert float(cost(network.wiring())) > 0


def test_latency_learns_the_size_of_an_image_that_is_given_by_name() -> None:
    network, cost = TinySuperNetwork(), Latency(repeats=1)
    cost.bind(network)
    network(x=torch.randn(3, 5))
    assert cost.image_shape == (5,)
    assert not network._forward_pre_hooks


def test_latency_of_other_batches_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    network, seen = TinySuperNetwork(), []
    forward = Plain.forward

    def watch(plain: Plain, x: Tensor) -> Tensor:
        seen.append(len(x))
        return forward(plain, x)

    monkeypatch.setattr(Plain, "forward", watch)
    cost = Latency((5,), batch_size=2, repeats=1, warmup=0)
    cost.bind(network)
    for cost.batch_size in (2, 7, 2):
        cost(network.wiring())
    assert seen == [2, 7]


def test_latency_of_what_cannot_be_copied_is_refused() -> None:
    network = TinySuperNetwork()
    network.stem.lock = Lock()
    with pytest.raises(ValueError, match=r"TinySuperNetwork cannot be copied \(cannot pickle"):
        costs.latency(network.wiring(), network, torch.randn(1, 5), repeats=1)


def test_latency_keeps_the_size_of_an_image_that_it_was_given() -> None:
    cost = Latency((5,), repeats=1)
    for network in (TinySuperNetwork(), TinySuperNetwork()):
        cost.bind(network)
        network(torch.randn(2, 5))
        assert not network._forward_pre_hooks
        assert cost.image_shape == (5,)


def test_latency_wants_a_network_and_its_architectures() -> None:
    with pytest.raises(ValueError, match=r"call `bind\(network\)` first"):
        Latency((5,))(TinySuperNetwork().wiring())
    with pytest.raises(ValueError, match="at least one image and one timed run"):
        Latency((5,), repeats=0)
    with pytest.raises(ValueError, match="no architecture of the network"):
        costs.latency(graph(), TinySuperNetwork(), torch.randn(1, 5), repeats=1)


def graph() -> Wiring:
    return make_wiring(["in", "a", "out"], [0, 1, 0], [1, 2, 2], [True] * 3, parameters=[50, 30, 0])


def test_noise_has_the_mean_and_deviation_that_were_asked_for() -> None:
    batch = graph().with_active(torch.tensor([True, True, True]).expand(40_000, 3))
    prices = NoisyCost("parameters", std=4.0, seed=1)(batch)
    assert abs(float(prices.mean()) - 80) < 4 * 4 / 200
    assert abs(float(prices.std()) / 4 - 1) < 4 / 283  # four standard errors
    assert (NoisyCost("parameters", std=500.0)(batch) >= 0).all()


def test_noise_follows_from_the_seed() -> None:
    first, second = NoisyCost(costs.parameters, 3.0, seed=5), NoisyCost("parameters", 3.0, seed=8)
    assert first(graph()) != second(graph())
    first.seed(2)
    second.seed(2)
    assert [float(first(graph())) for _ in range(3)] == [float(second(graph())) for _ in range(3)]


def test_noise_introduces_the_network_to_a_latency() -> None:
    network, cost = TinySuperNetwork(), NoisyCost(Latency((5,), repeats=1), std=0.0)
    cost.bind(network)
    assert float(cost(network.wiring())) > 0
    NoisyCost("parameters", std=1.0).bind(network)  # which needs no network


@pytest.mark.parametrize(
    ("cost", "std", "named"),
    [
        ("parameters", -1.0, "std must be from 0 up, got -1"),
        ("parameters", float("inf"), "std must be finite and from 0 up, got inf"),
        ("parameters", float("nan"), "std must be from 0 up, got nan"),
        ("parameters", "3", "std must be a number from 0 up, got '3'"),
        (None, 3.0, "a cost is a function from a wiring .*; got None"),
    ],
)
def test_noise_without_sense_is_refused(cost: Any, std: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        NoisyCost(cost, std)


def test_noise_is_added_to_numbers_and_arrays() -> None:
    assert NoisyCost(lambda _: 4, std=0.0)(graph()) == 4
    assert NoisyCost(lambda wiring: costs.parameters(wiring).numpy(), std=0.0)(graph()) == 80


def test_names_stand_for_costs() -> None:
    assert named_cost("parameters") is costs.parameters
    assert named_cost("multiply_adds") is costs.multiply_adds
    assert isinstance(named_cost("latency"), Latency)
    assert int(named_cost("sequential_steps", machines=2)(graph())) == 3
