import random
from itertools import pairwise

import networkx as nx
import pytest
import torch

from wiring_lightning.backbones import ResNeXt
from wiring_lightning.wiring import Wired, Wiring, make_wiring


def random_wiring(seed: int, cycles: bool = False) -> Wiring:
    """Up to 14 nodes with random candidate edges, about half of them active."""
    dice = random.Random(seed)
    count = dice.randint(2, 14)
    density = dice.choice([0.1, 0.3, 0.6])
    ends = [
        (i, j)
        for i in range(count)
        for j in range(count)
        if (i < j or (cycles and i != j)) and dice.random() < density
    ]
    dice.shuffle(ends)
    return make_wiring(
        [f"node{i}" for i in range(count)],
        [i for i, _ in ends],
        [j for _, j in ends],
        [dice.random() < 0.6 for _ in ends],
        group=[0, *sorted(dice.randint(1, 3) for _ in range(count - 2)), 4],
        score=[dice.random() for _ in ends],
    )


def active_graph(wiring: Wiring) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(wiring.nodes)))
    ends = zip(wiring.source.tolist(), wiring.target.tolist(), wiring.active.tolist(), strict=True)
    graph.add_edges_from((i, j) for i, j, active in ends if active)
    return graph


def expected_nodes(wiring: Wiring) -> list[bool]:
    graph, last = active_graph(wiring), len(wiring.nodes) - 1
    live = (nx.descendants(graph, 0) | {0}) & (nx.ancestors(graph, last) | {last})
    return [node in live for node in graph]


@pytest.mark.parametrize("cycles", [False, True])
def test_live_nodes_are_reached_and_needed(cycles: bool) -> None:
    counts = set()
    for seed in range(200):
        wiring = random_wiring(seed, cycles)
        assert wiring.live_nodes.tolist() == expected_nodes(wiring)
        counts.add(int(wiring.live_nodes.sum()))
    assert {0, 2, 5} < counts


def test_live_edges_are_those_on_some_path() -> None:
    for seed in range(200):
        wiring = random_wiring(seed)
        paths = nx.all_simple_paths(active_graph(wiring), 0, len(wiring.nodes) - 1)
        expected = {edge for path in paths for edge in pairwise(path)}
        live = wiring.live_edges
        actual = zip(wiring.source[live].tolist(), wiring.target[live].tolist(), strict=True)
        assert set(actual) == expected


def test_live_groups_hold_a_live_node() -> None:
    for seed in range(100):
        wiring = random_wiring(seed)
        groups = wiring.nodes.group[torch.tensor(expected_nodes(wiring))]
        assert wiring.live_groups.nonzero().flatten().tolist() == sorted(set(groups.tolist()))


def test_a_batch_is_many_single_wirings() -> None:
    for seed in range(20):
        wiring = random_wiring(seed, cycles=seed % 2 == 1)
        active = torch.rand(3, 5, len(wiring.source)) < 0.6
        batch = wiring.with_active(active)
        for i in range(3):
            for j in range(5):
                single = wiring.with_active(active[i, j])
                assert single.live_nodes.tolist() == expected_nodes(single)
                assert torch.equal(batch.live_nodes[i, j], single.live_nodes)
                assert torch.equal(batch.live_edges[i, j], single.live_edges)
                assert torch.equal(batch.live_groups[i, j], single.live_groups)


def test_other_active_edges_leave_the_wiring_alone() -> None:
    wiring = random_wiring(3)
    before = wiring.active.clone()
    other = wiring.with_active(~before)
    assert torch.equal(wiring.active, before)
    assert torch.equal(other.active, ~before)
    assert other.nodes is wiring.nodes


def test_the_networkx_view_holds_every_candidate() -> None:
    for seed in range(30):
        wiring = random_wiring(seed)
        graph = wiring.to_networkx()
        names = wiring.nodes.names
        assert list(graph) == list(names)
        live = expected_nodes(wiring)
        for index, name in enumerate(names):
            assert graph.nodes[name]["live"] == live[index]
            assert graph.nodes[name]["group"] == wiring.nodes.group[index]
        assert graph.number_of_edges() == len(wiring.source)
        ends = torch.stack([wiring.source, wiring.target], 1).tolist()
        for edge, (i, j) in enumerate(ends):
            assert graph.edges[names[i], names[j]] == {
                "active": bool(wiring.active[edge]),
                "score": float(wiring.score[edge]),
            }


def test_the_networkx_view_is_of_one_architecture() -> None:
    wiring = random_wiring(0)
    batch = wiring.with_active(wiring.active.expand(2, -1))
    with pytest.raises(ValueError, match="batch"):
        batch.to_networkx()


def test_columns_that_are_left_out_have_defaults() -> None:
    wiring = make_wiring(["in", "a", "out"], [0, 1], [1, 2], [True, False])
    assert wiring.nodes.group.tolist() == [0, 1, 2]
    assert wiring.nodes.steps.tolist() == [1, 1, 1]
    for column in ("parameters", "multiply_adds", "group_parameters", "group_multiply_adds"):
        assert getattr(wiring.nodes, column).tolist() == [0, 0, 0]
    assert wiring.score.tolist() == [1, 1]
    assert wiring.learnable.tolist() == [False, False]


def test_a_wiring_without_edges_lives_only_if_input_is_output() -> None:
    assert make_wiring(["only"], [], [], []).live_nodes.tolist() == [True]
    assert make_wiring(["in", "out"], [], [], []).live_nodes.tolist() == [False, False]


def test_a_backbone_is_wired() -> None:
    assert isinstance(ResNeXt(11, 1, 2, 1), Wired)
    assert not isinstance(torch.nn.Linear(1, 1), Wired)


@pytest.mark.parametrize("samples", [0, 1, 7, 8, 9, 70])
@pytest.mark.parametrize("cycles", [False, True])
def test_every_sample_of_a_batch_lives_on_its_own(samples: int, cycles: bool) -> None:
    for seed in range(10):
        wiring = random_wiring(seed, cycles)
        active = torch.rand(samples, len(wiring.source)) < 0.6
        live = wiring.with_active(active).live_nodes
        assert live.shape == (samples, len(wiring.nodes))
        for row, edges in zip(live.tolist(), active, strict=True):
            assert row == expected_nodes(wiring.with_active(edges))
