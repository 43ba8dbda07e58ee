"""Which node starts first: the orders of list scheduling, and the numbers of the paper."""

import random

import networkx as nx
import pytest
import torch

from tests.test_costs import random_wiring
from wiring_lightning import costs
from wiring_lightning.backbones import ConvFabric, ResNetFabric
from wiring_lightning.cli.report import summarize
from wiring_lightning.costs import SequentialSteps, scheduling
from wiring_lightning.costs.scheduling import steps_by_machines
from wiring_lightning.wiring import Wiring, make_wiring

ORDERS = ("critical_path", "node", "reverse_postorder")


@pytest.mark.parametrize(
    ("columns", "steps"),
    [(1, [12, 12, 12]), (2, [39, 26, 19]), (4, [83, 47, 31]), (8, [171, 90, 53])],
)
def test_convolutional_fabrics_take_the_steps_of_the_paper(columns: int, steps: list[int]) -> None:
    """BSN, Tables 5, 6 and 8, on 1, 2 and 4 machines."""
    wiring = ConvFabric(columns, channels=1).wiring()
    for machines, expected in zip((1, 2, 4), steps, strict=True):
        cost = SequentialSteps(machines, "reverse_postorder")
        assert int(cost(wiring)) == expected
        assert int(costs.sequential_steps(wiring, machines)) <= expected


@pytest.mark.parametrize(("width", "steps"), [(3, 22), (5, 34), (7, 46), (9, 58), (18, 112)])
def test_resnets_inside_the_fabric_take_the_steps_of_the_paper(width: int, steps: int) -> None:
    """BSN, Tables 5 to 9: two steps less if the projections run beside the blocks."""
    network = ResNetFabric(width)
    wiring = network.wiring().with_active(network.active_edges(network.resnet()))
    for order in ORDERS:
        taken = [int(costs.sequential_steps(wiring, n, order)) for n in (1, 2, 4)]
        assert taken == [steps, steps - 2, steps - 2]


def test_the_largest_resnet_fabric_takes_the_steps_of_the_paper() -> None:
    """BSN, Tables 7 and 9: 320 on one machine, 179 on two."""
    wiring = ResNetFabric(18).wiring()
    taken = [int(costs.sequential_steps(wiring, n, "reverse_postorder")) for n in (1, 2, 4)]
    assert taken == [320, 179, 110]


def test_the_critical_path_is_nearly_always_the_best_order() -> None:
    """Never worse on drawn architectures of a fabric; on random graphs about once in 10,000."""
    better = worse = 0
    for network in (ResNetFabric(3), ConvFabric(4, channels=1)):
        gate = network.gate
        assert gate is not None
        gate.seed(0)
        network.train()
        gate.logits.data.fill_(1.0)
        drawn = network.wiring().with_active(network.active_edges(gate.draw(60)))
        for machines in (2, 3, 4):
            ours, nodes = (costs.sequential_steps(drawn, machines, order) for order in ORDERS[:2])
            assert (ours <= nodes).all()
            better += int((ours < nodes).sum())
    assert better > 20
    for seed in range(300):
        wiring = random_wiring(seed, count=30, density=0.1)
        ours, nodes = (int(costs.sequential_steps(wiring, 3, order)) for order in ORDERS[:2])
        better += ours < nodes
        worse += ours > nodes
    assert better > 60
    assert worse <= 1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("machines", [1, 2, 4])
def test_no_order_beats_the_bounds(order: costs.Order, machines: int) -> None:
    for seed in range(60):
        wiring = random_wiring(seed, count=25, density=0.1)
        graph = nx.DiGraph(zip(wiring.source.tolist(), wiring.target.tolist(), strict=True))
        longest = nx.dag_longest_path_length(graph) + 1
        taken = int(costs.sequential_steps(wiring, machines, order))
        assert max(longest, -(-25 // machines)) <= taken
        assert taken <= 25 / machines + (1 - 1 / machines) * longest


def recursive_postorder(wiring: Wiring) -> list[int]:
    """Depth first by recursion: the last listener first, a node after all that it reaches."""
    listeners: dict[int, list[int]] = {node: [] for node in range(len(wiring.nodes))}
    for source, target in zip(wiring.source.tolist(), wiring.target.tolist(), strict=True):
        listeners[source].append(target)
    order: list[int] = []

    def visit(node: int) -> None:
        for listener in reversed(listeners[node]):
            if listener not in order:
                visit(listener)
        order.append(node)

    visit(0)
    return order[::-1]


def relabelled(wiring: Wiring, order: list[int]) -> Wiring:
    """The same graph with its nodes in another order."""
    place = {node: number for number, node in enumerate(order)}
    return make_wiring(
        [str(node) for node in order],
        [place[node] for node in wiring.source.tolist()],
        [place[node] for node in wiring.target.tolist()],
        [True] * len(wiring.source),
        steps=wiring.nodes.steps[torch.tensor(order)].tolist(),
    )


def test_reverse_postorder_is_node_order_after_sorting_the_nodes_so() -> None:
    differ = 0
    for seed in range(80):
        dice = random.Random(seed)
        steps = [dice.randint(0, 1) if seed % 2 else 1 for _ in range(14)]
        wiring = random_wiring(seed, count=14, density=0.2, steps=steps)
        order = recursive_postorder(wiring)
        assert order[0] == 0
        if order[-1] != 13:
            continue  # a wiring ends in its output
        expected = int(costs.sequential_steps(relabelled(wiring, order), 2, "node"))
        assert int(costs.sequential_steps(wiring, 2, "reverse_postorder")) == expected
        differ += expected != int(costs.sequential_steps(wiring, 2, "node"))
    assert differ > 5


def test_without_a_wiring_the_function_gives_the_cost() -> None:
    wiring = random_wiring(3, count=12)
    cost = costs.sequential_steps(machines=2, order="node")
    assert repr(cost) == "SequentialSteps(machines=2, order='node')"
    assert torch.equal(cost(wiring), costs.sequential_steps(wiring, 2, "node"))


def test_remembered_prices_are_those_of_the_present_settings() -> None:
    cost, wiring = SequentialSteps(), ConvFabric(4, channels=1).wiring()
    taken = []
    for cost.machines, cost.order in ((1, "node"), (2, "node"), (2, "reverse_postorder")):
        taken.append(int(cost(wiring)))
    fresh = [costs.sequential_steps(wiring, *of) for of in ((1,), (2, "node"))]
    assert taken == [*map(int, fresh), 47]


def test_remembered_prices_are_those_of_the_same_candidates_only() -> None:
    cost = SequentialSteps(machines=2)
    for seed in range(20):
        wiring = random_wiring(seed % 4, count=10)
        batch = wiring.with_active(torch.rand(6, len(wiring.source)) < 0.7)
        for _ in range(2):
            assert torch.equal(cost(batch), costs.sequential_steps(batch, 2))


def test_the_wrong_order_and_cycles_are_refused() -> None:
    with pytest.raises(ValueError, match="order must be one of critical_path, node, reverse_post"):
        SequentialSteps(1, "backwards")  # type: ignore[arg-type]
    loop = make_wiring(["in", "a", "b", "out"], [0, 1, 2, 2], [1, 2, 1, 3], [True] * 4)
    for order in ORDERS:
        with pytest.raises(ValueError, match="form a cycle"):
            costs.sequential_steps(loop, 2, order)


def plain_steps(wiring: Wiring, machines: int) -> int:
    """Greedy list scheduling by the longest path, as plain as can be."""
    live = {node for node, there in enumerate(wiring.live_nodes.tolist()) if there}
    ends = zip(wiring.source.tolist(), wiring.target.tolist(), wiring.live_edges, strict=True)
    edges = [(source, target) for source, target, there in ends if there]
    length = dict.fromkeys(live, 1)
    for _ in live:
        for source, target in edges:
            length[source] = max(length[source], 1 + length[target])
    done, total, steps = set[int](), 0, wiring.nodes.steps.tolist()
    while done < live:
        ready = [n for n in live - done if all(s in done for s, t in edges if t == n)]
        started, busy = set[int](), 0
        for node in sorted(ready, key=lambda node: (-length[node], node)):
            if busy + steps[node] <= machines:
                busy += steps[node]
                started.add(node)
        total += busy > 0
        done |= started
    return total


def drawn_wiring(seed: int) -> Wiring:
    """A random graph with edges in any order, some twice, some not active, and nodes of no step."""
    dice = random.Random(seed)
    wiring = random_wiring(seed, count=15, density=0.2)
    order = list(range(len(wiring.source)))
    order += dice.choices(order, k=3)
    dice.shuffle(order)
    steps = [dice.randint(0, 1) for _ in range(15)]
    active = [dice.random() < 0.9 for _ in order]
    ends = wiring.source[order], wiring.target[order]
    return make_wiring(wiring.nodes.names, *ends, torch.tensor(active), steps=steps)


def test_steps_are_those_of_a_plain_schedule() -> None:
    for seed in range(40):
        wiring = drawn_wiring(seed)
        expected = {machines: plain_steps(wiring, machines) for machines in (1, 2, 3)}
        assert steps_by_machines(wiring, (1, 2, 3)) == expected
        assert {n: int(costs.sequential_steps(wiring, n)) for n in (1, 2, 3)} == expected


def test_a_report_groups_the_edges_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of channels has millions."""
    wiring, grouped = ConvFabric(4, channels=1).wiring(), []
    group = scheduling._group
    monkeypatch.setattr(scheduling, "_group", lambda *ends: grouped.append(ends) or group(*ends))
    steps = summarize(wiring)["sequential_steps"]
    assert steps == {str(n): int(costs.sequential_steps(wiring, n)) for n in (1, 2, 4)}
    assert len(grouped) == 1 + 3
