"""The edges of a neural graph: how many, which, and what happens to them."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW

from wiring_lightning.nn import Adjacency, find_adjacencies, find_learnable
from wiring_lightning.optim import EdgeSet, StraightThrough

FORWARD = torch.ones(12, 12, dtype=torch.bool).tril(-1)


def test_the_first_edges_are_the_largest_of_the_usable_weights() -> None:
    torch.manual_seed(0)
    graph = Adjacency(FORWARD, edges=20)
    assert graph.absent is not None
    dense = graph.weight.detach() + graph.absent
    assert int(graph.weight.count_nonzero()) == 20
    assert not dense[~FORWARD].any()
    assert dense[FORWARD].abs().max() <= 12**-0.5  # uniform over all senders
    by_hand = dense.abs().flatten().argsort(descending=True)[:20]
    assert set(graph.weight.flatten().nonzero().flatten().tolist()) == set(by_hand.tolist())


def test_ranking_all_weights_spends_edges_on_useless_ones() -> None:
    torch.manual_seed(0)
    usable = torch.ones(200, 200, dtype=torch.bool).tril(-1)
    graph = Adjacency(usable, edges=4000, rank_all=True)
    wasted = int((graph.weight != 0)[~usable].sum())
    # Half of all weights are usable: hypergeometric, far within five standard deviations.
    assert abs(wasted - 4000 * float((~usable).float().mean())) < 5 * (4000 * 0.25) ** 0.5


def test_it_is_a_sparse_pointwise_convolution() -> None:
    torch.manual_seed(0)
    graph = Adjacency(FORWARD, edges=20).double()
    assert graph.absent is not None
    assert graph.absent.dtype == torch.float64  # moves with the layer
    sent = torch.randn(2, 12, 3, 3, dtype=torch.float64)
    expected = torch.zeros(2, 12, 3, 3, dtype=torch.float64)
    for receiver, sender in graph.weight.nonzero().tolist():
        expected[:, receiver] += graph.weight[receiver, sender].detach() * sent[:, sender]
    torch.testing.assert_close(graph(sent).detach(), expected)


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_random_and_frozen_edges_stay_while_their_weights_learn(optimizer: type) -> None:
    torch.manual_seed(0)
    frozen = Adjacency(FORWARD, edges=20)
    frozen.freeze()
    for graph in (Adjacency(FORWARD, edges=20, mode="random"), frozen):
        assert not graph.learnable
        before = graph.weight.detach().clone()
        assert not before[~FORWARD].any()
        steps = optimizer(graph.parameters(), lr=0.05, weight_decay=0.1)
        for _ in range(5):
            steps.zero_grad()
            graph(torch.randn(4, 12, 2, 2)).square().mean().backward()
            steps.step()
        assert torch.equal(graph.weight != 0, before != 0)
        assert int((graph.weight != before).sum()) > 15  # edges out of an unread sender stay, too


def test_random_edges_are_spread_evenly() -> None:
    torch.manual_seed(0)
    counts = torch.zeros(12, 12)
    for _ in range(400):
        counts += (Adjacency(FORWARD, edges=22, mode="random").weight != 0).float()
    # Each of the 66 usable weights is an edge in a third of 400 graphs.
    assert (counts[FORWARD] - 400 / 3).abs().max() < 5 * (400 * 2 / 9) ** 0.5


def test_the_rule_starts_from_the_absent_weights() -> None:
    torch.manual_seed(0)
    graph = Adjacency(FORWARD, edges=20)
    assert graph.absent is not None
    dense = graph.weight.detach() + graph.absent
    first = graph.weight.detach().clone()
    sets = [EdgeSet([graph.weight], graph.edges, [graph.usable], [graph.take_absent()])]
    rule = StraightThrough(SGD(graph.parameters(), lr=0.1), sets)
    assert graph.absent is None
    torch.testing.assert_close(rule.latent[0], dense)
    assert torch.equal(graph.weight.detach(), first)  # the same edges as before the rule came


def test_a_checkpoint_of_weights_is_the_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = Adjacency(FORWARD, edges=20)
    graph.freeze()
    torch.save(graph.state_dict(), tmp_path / "graph.pt")
    torch.manual_seed(1)
    other = Adjacency(FORWARD, edges=20)
    other.load_state_dict(torch.load(tmp_path / "graph.pt", weights_only=True))
    assert torch.equal(other.weight, graph.weight)
    assert not other.learnable
    assert other.absent is None  # the values of another graph would be wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_its_own_first_weights_leave_the_absent_ones(dtype: torch.dtype) -> None:
    """As a search for a batch size loads them after its trials."""
    torch.manual_seed(0)
    graph = Adjacency(FORWARD, edges=20).to(dtype)
    absent, saved = graph.absent, copy.deepcopy(graph.state_dict())
    assert absent is not None
    nn.init.ones_(graph.weight)
    graph.load_state_dict(saved)
    assert graph.absent is absent
    saved["weight"][saved["weight"] != 0] *= 1.01
    graph.load_state_dict(saved)
    assert graph.absent is None  # the same edges with other weights


def test_graphs_are_found_by_name() -> None:
    model = nn.ModuleDict({
        "learned": Adjacency(FORWARD, edges=3),
        "random": Adjacency(FORWARD, edges=3, mode="random"),
        "frozen": Adjacency(FORWARD, edges=3),
    })  # fmt: skip
    frozen = model["frozen"]
    assert isinstance(frozen, Adjacency)
    frozen.freeze()
    assert set(find_adjacencies(model)) == {"learned", "frozen"}
    assert set(find_learnable(model)) == {"learned"}
    assert set(find_learnable(copy.deepcopy(model))) == {"learned"}


def test_the_gradient_reaches_absent_edges_but_does_not_pass_through_them() -> None:
    torch.manual_seed(0)
    graph = Adjacency(FORWARD, edges=20).double()
    sent = torch.randn(3, 12, 2, 2, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(3, 12, 2, 2, dtype=torch.float64)
    graph(sent).backward(slope)

    def flat(images: Tensor) -> Tensor:
        return images.detach().transpose(0, 1).flatten(1)

    assert graph.weight.grad is not None
    torch.testing.assert_close(graph.weight.grad, flat(slope) @ flat(sent).T)  # <Z_u, dL/dI_v>
    assert sent.grad is not None
    expected = functional.linear(flat(slope).T, graph.weight.detach().T).T
    torch.testing.assert_close(flat(sent.grad), expected)


@pytest.mark.parametrize(
    ("edges", "rank_all", "message"),
    [
        (0, False, "between 1 and 66, the weights that can be one, got 0"),
        (67, False, "between 1 and 66, the weights that can be one, got 67"),
        (145, True, "between 1 and 144, the weights that can be one, got 145"),
    ],
)
def test_bad_numbers_of_edges(edges: int, rank_all: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adjacency(FORWARD, edges=edges, rank_all=rank_all)
    with pytest.raises(ValueError, match='mode must be "learned" or "random", got "full"'):
        Adjacency(FORWARD, edges=3, mode="full")  # type: ignore[arg-type]
