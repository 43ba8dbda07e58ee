import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import combinations
from math import ceil

import networkx as nx
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.backbones.plain_resnext import LoopGateConnect, PlainResNeXt
from wiring_lightning import costs
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.wiring import Wiring, make_wiring


def random_wiring(seed: int, count: int, density: float = 0.3, **columns: object) -> Wiring:
    """A wiring whose every node is reached and needed if all edges are active."""
    dice = random.Random(seed)
    ends = {(i, j) for j in range(count) for i in range(j) if dice.random() < density}
    for node in range(1, count):
        if not any(j == node for _, j in ends):
            ends.add((dice.randrange(node), node))
    for node in range(count - 1):
        if not any(i == node for i, _ in ends):
            ends.add((node, dice.randrange(node + 1, count)))
    sources, targets = zip(*sorted(ends), strict=True)
    names = [f"node{i}" for i in range(count)]
    return make_wiring(names, sources, targets, [True] * len(ends), **columns)


# Parameters and multiply-adds


def priced_wiring(seed: int) -> Wiring:
    dice = random.Random(seed)
    count = dice.randint(3, 12)
    group = [0, *sorted(dice.randint(1, 3) for _ in range(count - 2)), 4]
    prices = {
        name: [dice.randint(1, 10**9) for _ in range(length)]
        for name, length in {
            "parameters": count,
            "multiply_adds": count,
            "group_parameters": 5,
            "group_multiply_adds": 5,
        }.items()
    }
    return random_wiring(seed, count, group=group, **prices)


@pytest.mark.parametrize("name", ["parameters", "multiply_adds"])
def test_live_nodes_and_live_groups_are_priced_once(name: str) -> None:
    cost = getattr(costs, name)
    for seed in range(60):
        wiring = priced_wiring(seed)
        batch = wiring.with_active(torch.rand(4, len(wiring.source)) < 0.7)
        own = getattr(wiring.nodes, name).tolist()
        shared = getattr(wiring.nodes, f"group_{name}").tolist()
        for sample in range(4):
            single = wiring.with_active(batch.active[sample])
            total, groups = 0, set()
            for node, live in enumerate(single.live_nodes.tolist()):
                if live:
                    total += own[node]
                    groups.add(int(wiring.nodes.group[node]))
            total += sum(shared[group] for group in groups)
            assert int(cost(single)) == int(cost(batch)[sample]) == total
        everything = cost(batch, live=False)
        assert everything.tolist() == [sum(own) + sum(shared)] * 4


def counted(twin: nn.Module, size: int) -> int:
    """Multiply-adds of convolutions and linear layers, counted by torch while they run."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), counter, torch.no_grad():
        twin.to("meta").eval()(torch.empty(1, 3, size, size))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


STEMS = {
    "cifar": (20, 32, {"stages": (2, 2, 2), "stem_channels": 16, "channels": 64}),
    "mini_imagenet": (
        11,
        64,
        {"stages": (1, 1, 1), "stem_channels": 16, "channels": 64, "max_pool": True},
    ),
    "imagenet": (
        50,
        224,
        {
            "stages": (3, 4, 6, 3),
            "stem_channels": 64,
            "channels": 256,
            "stem_kernel": 7,
            "stem_stride": 2,
            "max_pool": True,
        },
    ),
}


@pytest.mark.parametrize("stem", STEMS)
def test_a_plain_resnext_has_the_multiply_adds_that_torch_counts(stem: str) -> None:
    depth, size, layout = STEMS[stem]
    network = ResNeXt(depth, 4, 3, 2, stem=stem, wiring="full")
    plain = PlainResNeXt(width=4, cardinality=3, num_classes=10, **layout)
    expected = counted(plain, size)
    assert int(costs.multiply_adds(network.wiring(), live=False)) == expected
    assert int(costs.multiply_adds(network.wiring())) == expected


@pytest.mark.parametrize("stem", STEMS)
def test_gates_have_the_multiply_adds_that_torch_counts(stem: str) -> None:
    """Every branch has an input of its own, so every branch runs the projection."""
    depth, size, layout = STEMS[stem]
    network = ResNeXt(depth, 4, 3, 2, stem=stem)
    twin = LoopGateConnect(
        width=4, cardinality=3, num_classes=10, fan_in=2, identity="mean", **layout
    )
    twin.gates = [torch.ones(3, 3, device="meta")] * (sum(layout["stages"]) - 1)
    expected = counted(twin, size)
    assert int(costs.multiply_adds(network.wiring(), live=False)) == expected


def test_the_compact_network_runs_the_live_multiply_adds() -> None:
    network = ResNeXt(20, 2, 6, 1, image_size=16).eval()
    scores = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for gate in network.connections.values():
            gate.scores.uniform_(generator=scores)
    live, total = (int(costs.multiply_adds(network.wiring(), live=x)) for x in (True, False))
    assert live < total
    counter = FlopCounterMode(display=False)
    with counter:
        network.compact()(torch.randn(1, 3, 16, 16))
    # The biases of folded norms, one more input of each expansion, come on top.
    assert live <= counter.get_total_flops() / 2 <= 1.05 * live


@pytest.mark.parametrize(
    "stem",
    [
        "cifar",
        ("mini_imagenet"),
        ("imagenet"),
    ],
)
def test_images_of_odd_size_are_priced_too(stem: str) -> None:
    depth, _, layout = STEMS[stem]
    network = ResNeXt(depth, 4, 3, 2, stem=stem, wiring="full", image_size=75)
    plain = PlainResNeXt(width=4, cardinality=3, num_classes=10, **layout)
    assert int(costs.multiply_adds(network.wiring())) == counted(plain, 75)


# Steps


def graph_of(wiring: Wiring) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(wiring.nodes)))
    graph.add_edges_from(zip(wiring.source.tolist(), wiring.target.tolist(), strict=True))
    return graph


def fewest_steps(wiring: Wiring, machines: int) -> int:
    """The best of all schedules, by trying them all."""
    graph = graph_of(wiring)
    sources = {node: frozenset(graph.predecessors(node)) for node in graph}

    @cache
    def rest(done: frozenset[int]) -> int:
        ready = [node for node in graph if node not in done and sources[node] <= done]
        if not ready:
            return 0
        number = min(machines, len(ready))
        return 1 + min(rest(done | set(chosen)) for chosen in combinations(ready, number))

    return rest(frozenset())


@pytest.mark.parametrize("machines", [1, 2, 3])
def test_steps_are_close_to_the_best_schedule(machines: int) -> None:
    """Graham: no greedy schedule takes more than 2 - 1/n times the fewest steps."""
    found = 0
    for seed in range(40):
        wiring = random_wiring(seed, count=seed % 6 + 4)
        best = fewest_steps(wiring, machines)
        actual = int(costs.sequential_steps(wiring, machines))
        assert best <= actual <= (2 - 1 / machines) * best
        found += actual == best
    assert found > 30


@pytest.mark.parametrize("machines", [2, 3, 5])
def test_steps_lie_within_the_bounds_of_greedy_scheduling(machines: int) -> None:
    for seed in range(100):
        wiring = random_wiring(seed, count=30, density=0.1)
        longest = nx.dag_longest_path_length(graph_of(wiring)) + 1
        actual = int(costs.sequential_steps(wiring, machines))
        assert max(longest, ceil(30 / machines)) <= actual
        assert actual <= 30 / machines + (1 - 1 / machines) * longest


def test_machines_without_end_need_the_longest_path() -> None:
    for seed in range(50):
        wiring = random_wiring(seed, count=20, density=0.15)
        longest = nx.dag_longest_path_length(graph_of(wiring)) + 1
        assert int(costs.sequential_steps(wiring, machines=20)) == longest


def test_one_machine_takes_a_step_for_every_live_node_that_has_one() -> None:
    for seed in range(100):
        dice = random.Random(seed)
        steps = [dice.randint(0, 1) for _ in range(12)]
        wiring = random_wiring(seed, count=12, steps=steps)
        wiring = wiring.with_active(torch.rand(len(wiring.source)) < 0.8)
        expected = sum(s for s, live in zip(steps, wiring.live_nodes.tolist(), strict=True) if live)
        assert int(costs.sequential_steps(wiring)) == expected


@pytest.mark.parametrize(
    ("edges", "steps", "expected"),
    [
        # a chain
        ([(0, 1), (1, 2), (2, 3)], [1, 1, 1, 1], [4, 4, 4]),
        # three nodes side by side
        ([(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)], [1] * 5, [5, 4, 3]),
        # a long arm 1-2-3 and short arms 4 and 5
        ([(0, 1), (1, 2), (2, 3), (3, 6), (0, 4), (4, 6), (0, 5), (5, 6)], [1] * 7, [7, 5, 5]),
        # input and output do nothing
        ([(0, 1), (0, 2), (1, 3), (2, 3)], [0, 1, 1, 0], [2, 1, 1]),
        # nothing to do at all
        ([(0, 1)], [0, 0], [0, 0, 0]),
    ],
)
def test_small_graphs_take_the_steps_counted_by_hand(
    edges: list[tuple[int, int]], steps: list[int], expected: list[int]
) -> None:
    names = [str(i) for i in range(len(steps))]
    sources, targets = zip(*edges, strict=True)
    wiring = make_wiring(names, sources, targets, [True] * len(edges), steps=steps)
    assert [int(costs.sequential_steps(wiring, n)) for n in (1, 2, 3)] == expected


def test_a_plain_resnext_runs_module_after_module() -> None:
    wiring = ResNeXt(29, 1, 8, 8, wiring="full").wiring()
    for machines in range(1, 10):
        expected = 2 + 9 * ceil(8 / machines)
        assert int(costs.sequential_steps(wiring, machines)) == expected


def test_more_machines_never_slow_a_resnext_down() -> None:
    for fan_in in (1, 2):
        network = ResNeXt(20, 1, 6, fan_in)
        for _ in range(10):
            with torch.no_grad():
                for gate in network.connections.values():
                    gate.scores.uniform_()
            wiring = network.wiring()
            steps = [int(costs.sequential_steps(wiring, machines)) for machines in range(1, 8)]
            assert steps == sorted(steps, reverse=True)
            assert steps[0] == int(wiring.live_nodes.sum())
            assert steps[-1] == 8


def test_a_batch_of_samples_has_a_batch_of_steps() -> None:
    wiring = random_wiring(0, count=10)
    batch = wiring.with_active(torch.rand(2, 3, len(wiring.source)) < 0.8)
    steps = costs.sequential_steps(batch, 2)
    assert steps.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            single = wiring.with_active(batch.active[i, j])
            assert int(steps[i, j]) == int(costs.sequential_steps(single, 2))


def test_a_dead_wiring_takes_no_step() -> None:
    wiring = make_wiring(["in", "out"], [0], [1], [False])
    assert int(costs.sequential_steps(wiring)) == 0
    assert int(costs.parameters(wiring)) == 0


@pytest.mark.parametrize("machines", [0, -1])
def test_there_must_be_a_machine(machines: int) -> None:
    with pytest.raises(ValueError, match="machines"):
        costs.sequential_steps(random_wiring(0, count=4), machines)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_a_node_of_two_steps_is_counted_or_refused() -> None:
    wiring = make_wiring(["in", "slow", "out"], [0, 1], [1, 2], [True] * 2, steps=[1, 2, 1])
    with within(1.0):
        try:
            steps = int(costs.sequential_steps(wiring))
        except ValueError:
            return
    assert steps == 4
