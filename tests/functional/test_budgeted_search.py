"""Drawn architectures against an enumeration of all of them, written edge by edge."""

from itertools import product

import pytest
import torch
from scipy.stats import chisquare

from wiring_lightning.functional.budgeted_search import (
    Topology,
    draw_edges,
    log_probability,
    most_probable_edges,
)

# Two ways of different length, a way around both, an edge that may lead nowhere, a node without
# edges into it, and two edges between the same nodes.
NODES = 6
SOURCE = [0, 0, 1, 2, 1, 0, 3, 4, 0]
TARGET = [1, 2, 2, 5, 5, 5, 5, 5, 1]
LEARNABLE = [True, True, True, True, False, True, True, True, True]
LOGITS = torch.tensor([0.4, -0.3, 1.2, 0.0, 5.0, -1.5, 2.0, 0.7, -2.0])


def visit(coins, probabilities, learnable):
    """Section 3.2 of the paper in plain words: what is there, what was asked, how likely it was."""
    connected, there, asked, likelihood = {0}, [], [], 1.0
    order = sorted(range(len(SOURCE)), key=lambda edge: TARGET[edge])
    result = {}
    for edge in order:
        reached = SOURCE[edge] in connected
        on = reached and (coins[edge] or not learnable[edge])
        if reached and learnable[edge]:
            likelihood *= probabilities[edge] if on else 1 - probabilities[edge]
        if on:
            connected.add(TARGET[edge])
        result[edge] = on, reached and learnable[edge]
    there = tuple(result[edge][0] for edge in range(len(SOURCE)))
    asked = tuple(result[edge][1] for edge in range(len(SOURCE)))
    return there, asked, likelihood


def architectures(learnable=LEARNABLE, logits=LOGITS):
    """Every architecture that can be drawn, with its probability and what was asked for it."""
    probabilities = logits.double().sigmoid().tolist()
    found = {}
    for coins in product([False, True], repeat=len(SOURCE)):
        there, asked, likelihood = visit(coins, probabilities, learnable)
        found[there] = likelihood, asked
    return found


@pytest.fixture
def topology():
    return Topology(NODES, SOURCE, TARGET)


def test_probabilities_of_all_architectures_sum_to_one():
    assert sum(likelihood for likelihood, _ in architectures().values()) == pytest.approx(1.0)


def test_log_probability_of_every_architecture():
    table = architectures()
    drawn = torch.tensor(list(table))
    asked = torch.tensor([asked for _, asked in table.values()])
    expected = torch.tensor([likelihood for likelihood, _ in table.values()]).log()
    torch.testing.assert_close(log_probability(LOGITS, drawn, asked), expected.float())


def test_log_probability_of_sure_edges_is_exact():
    both = torch.ones(1, 2, dtype=torch.bool)
    logits = torch.tensor([60.0, 20.0], requires_grad=True)
    log_probability(logits, both, both).sum().backward()
    torch.testing.assert_close(
        logits.grad, torch.tensor([0.0, 1 / (1 + torch.e**20)]), atol=1e-15, rtol=1e-5
    )
    never = log_probability(torch.tensor([-200.0, 0.0]), both, both)
    torch.testing.assert_close(never, torch.tensor([-200.0 - torch.log(torch.tensor(2.0))]))


def test_draws_follow_the_stated_law(topology):
    table = architectures()
    generator = torch.Generator().manual_seed(3)
    count = 20_000
    drawn, asked = draw_edges(topology, LOGITS, torch.tensor(LEARNABLE), count, generator)
    seen = dict.fromkeys(table, 0)
    for there, questions in zip(drawn.tolist(), asked.tolist(), strict=True):
        assert table[tuple(there)][1] == tuple(questions)
        seen[tuple(there)] += 1
    expected = {there: likelihood * count for there, (likelihood, _) in table.items()}
    common = [there for there in table if expected[there] >= 5]
    rare = [there for there in table if expected[there] < 5]
    assert len(common) > 40
    assert sum(expected[there] for there in rare) < 1
    assert sum(seen[there] for there in rare) < 10
    observed = torch.tensor([seen[there] for there in common], dtype=torch.double)
    wanted = torch.tensor([expected[there] for there in common], dtype=torch.double)
    assert chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 0.01


def test_unconnected_architectures_have_their_probability(topology):
    """The draw must not reject or repair them: the paper's procedure can miss the output."""
    table = architectures()
    into_output = [edge for edge, target in enumerate(TARGET) if target == NODES - 1]
    probability = sum(
        likelihood for there, (likelihood, _) in table.items()
        if not any(there[edge] for edge in into_output)
    )  # fmt: skip
    count = 40_000
    generator = torch.Generator().manual_seed(4)
    drawn, _ = draw_edges(topology, LOGITS, torch.tensor(LEARNABLE), count, generator)
    missed = (~drawn[:, into_output].any(1)).float().mean()
    deviation = (probability * (1 - probability) / count) ** 0.5
    assert probability > 0.05
    assert abs(float(missed) - probability) < 4 * deviation


def test_examples_are_drawn_independently():
    topology = Topology(2, [0], [1])
    generator = torch.Generator().manual_seed(5)
    drawn, _ = draw_edges(topology, torch.zeros(1), torch.tensor([True]), 1 << 14, generator)
    pairs = drawn.view(-1, 2).long() @ torch.tensor([1, 2])
    assert chisquare(pairs.bincount(minlength=4)).pvalue > 0.01


def test_probabilities_of_zero_and_one_are_exact(topology):
    logits = torch.tensor([float("inf"), float("-inf")] * 5)[: len(SOURCE)]
    drawn, _ = draw_edges(topology, logits, torch.tensor(LEARNABLE), 1000)
    assert (drawn == drawn[0]).all()
    torch.testing.assert_close(
        drawn[0], most_probable_edges(topology, logits, torch.tensor(LEARNABLE))
    )


def test_most_probable_edges_visits_edge_by_edge(topology):
    generator = torch.Generator().manual_seed(6)
    for _ in range(50):
        logits = torch.randn(len(SOURCE), generator=generator)
        there, _, _ = visit((logits > 0).tolist(), [0.5] * len(SOURCE), LEARNABLE)
        best = most_probable_edges(topology, logits, torch.tensor(LEARNABLE))
        assert tuple(best.tolist()) == there


def test_live_edges_are_those_on_a_path(topology):
    for there in architectures():
        paths: set[int] = set()

        def walk(node, path, there=there, paths=paths):
            if node == NODES - 1:
                paths.update(path)
            for edge, source in enumerate(SOURCE):
                if there[edge] and source == node:
                    walk(TARGET[edge], [*path, edge])

        walk(0, [])
        live = topology.live(torch.tensor([there]))[0]
        assert set(live.nonzero().flatten().tolist()) == paths


def test_what_the_input_reaches_is_what_can_be_drawn_at_all(topology):
    found = topology.connected()
    assert found.tolist() == [[any(there[edge] for there in architectures())
                               for edge in range(len(SOURCE))]]  # fmt: skip
    assert found[0].tolist() == [source < 3 for source in SOURCE]  # nothing leads to 3 and 4


def test_a_graph_without_edges_draws_nothing():
    empty = torch.zeros(3, 0, dtype=torch.bool)
    topology = Topology(2, [], [])
    assert topology.asked(empty).shape == topology.live(empty).shape == (3, 0)


@pytest.mark.parametrize(
    ("source", "target", "match"),
    [([1], [1], "edge 0 leads from 1 to 1"), ([0, 2], [1, 1], "edge 1"), ([0], [3], "below 3"),
     ([-1], [1], "edge 0"), ([0, 1], [2], "2 sources but 1 targets")],
)  # fmt: skip
def test_edges_lead_to_higher_numbers(source, target, match):
    with pytest.raises(ValueError, match=match):
        Topology(3, source, target)
