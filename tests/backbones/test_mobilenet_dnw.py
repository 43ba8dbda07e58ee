"""MobileNetV1-DNW against the authors' figures, and against a twin written node by node."""

from functools import partial
from itertools import pairwise
from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from tests.calls import count_calls
from tests.methods import digits
from tests.trainers import quiet_trainer
from wiring_lightning import costs
from wiring_lightning.backbones import MobileNetV1, MobileNetV1DNW
from wiring_lightning.callbacks import DNW
from wiring_lightning.nn import Adjacency, GraphStage
from wiring_lightning.optim import EdgeSet, StraightThrough
from wiring_lightning.tasks import ClassificationTask

IMAGENET = {"num_classes": 1000, "stem": "imagenet"}
TINY = {"width": 0.5, "stem_channels": 2, "image_size": 16}


def stages(network: MobileNetV1DNW) -> list[GraphStage]:
    return [stage for stage in network.graphs.values() if isinstance(stage, GraphStage)]


def scramble(network: nn.Module) -> None:
    """As after training: statistics, scales and shifts that differ between channels."""
    torch.manual_seed(1)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(0, 0.5)


def count_flops(network: nn.Module, images: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(images)
    return counter.get_total_flops()


# Size


@pytest.fixture(scope="module")
def ranked() -> MobileNetV1DNW:
    torch.manual_seed(0)
    return MobileNetV1DNW(**IMAGENET, rank_all=True)


def test_the_imagenet_network_has_the_authors_size(ranked: MobileNetV1DNW) -> None:
    assert sum(p.numel() for p in ranked.parameters()) == 13_126_760
    counts = [int(stage.adjacency.weight.count_nonzero()) for stage in stages(ranked)]
    assert counts == list(ranked.edge_counts.values()) == [104, 1_245, 4_977, 72_991, 79_627]
    nodes = [sum(stage.sizes) for stage in stages(ranked)]
    assert nodes == [96, 320, 640, 3_328, 2_560]


def test_multiply_adds_of_the_first_wiring_are_the_authors(ranked: MobileNetV1DNW) -> None:
    """The authors' profile before training, with all weights ranked: 55.7M and 1.228M."""
    wiring = ranked.wiring()
    work = int(costs.multiply_adds(wiring))
    assert work == pytest.approx(55.7e6, rel=0.01)
    # By the authors' formula: an edge costs its map, a node with any edge out costs 9 maps.
    expected = 1024 * 1000
    for stage, side in zip(stages(ranked), (112, 56, 28, 14, 7), strict=True):
        weight = stage.adjacency.weight
        senders = int((weight != 0).any(0).sum())
        expected += (int(weight.count_nonzero()) + 9 * senders) * side**2
        if side == 112:
            expected += 27 * senders * side**2
    assert work == pytest.approx(expected, rel=1e-3)
    # 1.228M of the authors leave out the norms.
    norms = 2 * int(wiring.live_nodes[1:-1].sum())
    assert int(costs.parameters(wiring)) - norms == pytest.approx(1.228e6, rel=0.01)


def authors_first_edges(network: MobileNetV1DNW, seed: int) -> None:
    """Let the first edges be those of the authors' network, which draws in another order."""
    torch.manual_seed(seed)
    nn.Conv2d(3, 32, 3, bias=False)
    for stage in stages(network):
        inputs, width, *others = stage.sizes
        nn.Conv2d(inputs, inputs, 3, groups=inputs, bias=False)
        if hidden := width * len(others):
            nn.Conv2d(hidden, hidden, 3, groups=hidden, bias=False)
        senders, receivers = inputs + hidden, width + hidden
        weight = nn.Conv2d(senders, receivers, 1, bias=False).weight.detach()[:, :, 0, 0]
        magnitudes, cut = weight.abs().flatten(), weight.numel() - stage.adjacency.edges
        magnitudes.numpy().partition(cut)
        stage.adjacency.weight.data = weight * (weight.abs() >= magnitudes[cut])


def first_entries(weights: list[Tensor], k: int, *_: object) -> list[Tensor]:
    return [(torch.arange(weight.numel()) < k).view_as(weight) for weight in weights]


@pytest.mark.parametrize(
    ("width", "small", "seed", "profile"),
    [(0.225, False, 0, 55.7), (0.225, True, 2, 55.8), (0.15, True, 2, 37.9),
     (0.3, False, 0, 77.9), (0.49, False, 0, 158.8)],
)  # fmt: skip
def test_from_their_first_edges_the_work_is_that_of_the_authors(
    width: float, small: bool, seed: int, profile: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their profiles before training, in millions.

    Up to width 0.225 they depend on the draw, by as much as 5 %: an input node without an edge
    saves 0.45M. Which draw the small networks had is not known; the test takes the first one that
    gives both.
    """
    with monkeypatch.context() as patch:  # to rank weights that are replaced takes longest
        patch.setattr("wiring_lightning.nn.adjacency.mask_largest", first_entries)
        network = MobileNetV1DNW(width, small=small, rank_all=True, **IMAGENET)
    authors_first_edges(network, seed)
    assert int(costs.multiply_adds(network.wiring())) == pytest.approx(1e6 * profile, rel=0.01)


def test_a_wiring_takes_no_loop_over_its_edges(ranked: MobileNetV1DNW) -> None:
    assert int(ranked.wiring().live_edges.sum()) > 150_000
    assert count_calls(ranked.wiring) < 1000


def test_a_small_random_network_has_the_authors_size() -> None:
    """CIFAR-10: 12,112,010 stored parameters, of which the small classifier has no biases."""
    network = MobileNetV1DNW(wiring="random", small=True)
    assert sum(p.numel() for p in network.parameters()) == 12_112_010 - 10
    assert [int(stage.adjacency.weight.count_nonzero()) for stage in stages(network)] == [
        104, 1_245, 4_977, 72_991, 79_627,
    ]  # fmt: skip
    assert isinstance(network.classifier, Adjacency)
    assert network.classifier.edges == 0.225 * 10_240


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_edges_are_the_pointwise_weights_of_mobilenet(width: float) -> None:
    """DNW, Section 2.4: as many edges at a resolution as MobileNetV1 of this width."""
    dense = MobileNetV1(width)
    pointwise = [
        layer.weight.numel()
        for layer in dense.modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
    ]
    cuts = (0, 1, 3, 5, 11, 13)
    expected = [sum(pointwise[a:b]) for a, b in pairwise(cuts)]
    sixteenth = MobileNetV1DNW(width, stem_channels=8)  # 1 / 16 of the edges of 32 channels
    assert [16 * k for k in sixteenth.edge_counts.values()] == expected


# Function


def twin(network: MobileNetV1DNW, images: Tensor, training: bool) -> tuple[Tensor, list[Tensor]]:
    """The logits node by node, and the weight matrices that they were computed from."""

    def normalize(channel: Tensor, norm: nn.BatchNorm2d, index: int) -> Tensor:
        mean, variance = norm.running_mean[index], norm.running_var[index]
        if training:
            mean, variance = channel.mean(), channel.var(correction=0)
        channel = (channel - mean) / (variance + norm.eps).sqrt()
        return (channel * norm.weight[index] + norm.bias[index]).clamp_min(0)

    received = list(functional.conv2d(images, network.stem.weight, padding=1).unbind(1))
    matrices = []
    for stage in stages(network):
        matrix = stage.adjacency.weight.detach().clone().requires_grad_()
        matrices.append(matrix)
        sent: list[Tensor] = []
        for block, operation in enumerate(stage.operations):
            for index, channel in enumerate(received):
                rectified = normalize(channel, operation.norm, index)
                kernel = operation.filters[index : index + 1]
                stride = stage.stride if block == 0 else 1
                sent.append(
                    functional.conv2d(rectified[:, None], kernel, stride=stride, padding=1)[:, 0]
                )
            width = stage.sizes[block + 1]
            rows = matrix[block * width : (block + 1) * width, : len(sent)]
            received = [
                sum(w * z for w, z in zip(row, sent, strict=True)) for row in rows.unbind(0)
            ]
    features = torch.stack(
        [normalize(channel, network.norm, i).mean((1, 2)) for i, channel in enumerate(received)], 1
    )
    return network.classifier(features), matrices


@pytest.mark.parametrize("wiring", ["learned", "random"])
@pytest.mark.parametrize("training", [True, False])
def test_is_the_sum_over_edges_node_by_node(wiring: Any, training: bool) -> None:
    torch.manual_seed(0)
    network = MobileNetV1DNW(width=0.5, stem_channels=1, wiring=wiring).double().train(training)
    scramble(network)
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    expected, matrices = twin(network, images, training)
    logits = network(images)
    torch.testing.assert_close(logits, expected, atol=1e-9, rtol=1e-9)
    slope = torch.randn_like(logits)
    others = [network.stem.weight, *(s.operations[-1].filters for s in stages(network))]
    weights = [stage.adjacency.weight for stage in stages(network)]
    ours = torch.autograd.grad(logits, [*weights, *others], slope)
    theirs = torch.autograd.grad(expected, [*matrices, *others], slope)
    for stage, mine, their in zip(stages(network), ours, theirs, strict=False):
        assert not mine[~stage.adjacency.usable].any()
        if wiring == "random":
            their = their * (stage.adjacency.weight != 0)
        torch.testing.assert_close(mine, their, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(ours[5:], theirs[5:], atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("mode", ["learned", "random"])
def test_compiled_and_eager_stages_agree(mode: Any) -> None:
    torch.manual_seed(0)
    stage = GraphStage(inputs=2, width=4, blocks=2, stride=2, edges=12, mode=mode).double()
    images = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    compiled = torch.compile(stage, backend="eager")
    parameters = list(stage.parameters())
    ours = torch.autograd.grad(compiled(images).square().sum(), parameters)
    expected = torch.autograd.grad(stage(images).square().sum(), parameters)
    torch.testing.assert_close(ours, expected)


def test_bf16_autocast_stays_close() -> None:
    torch.manual_seed(0)
    network = MobileNetV1DNW(**TINY)
    images = torch.randn(8, 3, 16, 16)
    expected = network(images)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    assert (logits.float() - expected).abs().max() < 0.1 * expected.abs().max()
    logits.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


@pytest.mark.parametrize("small", [False, True])
def test_the_rule_keeps_every_graphs_edges_among_the_usable(small: bool) -> None:
    torch.manual_seed(0)
    network = MobileNetV1DNW(**TINY, small=small)
    graphs = [layer for layer in network.modules() if isinstance(layer, Adjacency)]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)
    StraightThrough(
        optimizer,
        [EdgeSet([g.weight], g.edges, [g.usable], [g.take_absent()]) for g in graphs],
    )
    before = [graph.weight != 0 for graph in graphs]
    images, labels = torch.randn(16, 3, 16, 16), torch.randint(10, (16,))
    for _ in range(5):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        for graph in graphs:
            assert int(graph.weight.count_nonzero()) == graph.edges
            assert not (graph.weight != 0)[~graph.usable].any()
    assert any((graph.weight != 0)[~old].any() for graph, old in zip(graphs, before, strict=True))


def test_the_callback_finds_the_edges_of_all_graphs() -> None:
    torch.manual_seed(0)
    network = MobileNetV1DNW(width=0.5, small=True, stem_channels=2, in_channels=1, image_size=8)
    graphs = [layer for layer in network.modules() if isinstance(layer, Adjacency)]
    before = [graph.weight != 0 for graph in graphs]
    task = ClassificationTask(network, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    quiet_trainer(callbacks=[DNW()], max_steps=8).fit(task, digits(augment=False))
    assert [int(g.weight.count_nonzero()) for g in graphs] == [graph.edges for graph in graphs]
    swapped = [
        int(((graph.weight != 0) & ~old).sum()) for graph, old in zip(graphs, before, strict=True)
    ]
    assert all(swapped[1:])


def test_a_small_network_takes_one_image() -> None:
    assert MobileNetV1DNW(**TINY, small=True).eval()(torch.randn(1, 3, 16, 16)).shape == (1, 10)


# Wiring


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("wiring", ["learned", "random"])
def test_compact_is_the_same_function_at_the_cost_that_the_wiring_says(
    wiring: Any, small: bool
) -> None:
    torch.manual_seed(0)
    network = MobileNetV1DNW(
        width=0.25, stem_channels=4, image_size=16, small=small, wiring=wiring
    ).eval()
    scramble(network)
    graph = network.wiring()
    compacted = network.compact()
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        expected = network(images)
        torch.testing.assert_close(compacted(images), expected, atol=1e-5, rtol=1e-5)
        assert expected.std() > 1e-3
    assert int(graph.live_nodes.sum()) < len(graph.nodes)  # something was removed
    work = int(costs.multiply_adds(graph))
    assert count_flops(compacted, images[:1]) == 2 * work
    assert work < count_flops(network, images[:1]) / 2
    stored = sum(p.numel() for p in compacted.parameters())
    assert stored == int(costs.parameters(graph))
    # What is compact knows it, and the names of those that are left.
    rest = compacted.wiring()
    assert rest.live_nodes[:-1].all() if small else rest.live_nodes.all()
    kept = {name for name, live in zip(graph.nodes.names, graph.live_nodes, strict=True) if live}
    assert kept <= set(rest.nodes.names)
    assert costs.multiply_adds(rest) == work
    assert torch.equal(compacted.compact()(images), compacted(images))


def test_edges_that_carry_nothing_are_counted_but_not_kept() -> None:
    torch.manual_seed(0)
    network = MobileNetV1DNW(width=0.5, stem_channels=2, image_size=16, rank_all=True).eval()
    scramble(network)
    compacted, images = network.compact(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(compacted(images), network(images), atol=1e-5, rtol=1e-5)
    after = int(costs.multiply_adds(compacted.wiring()))
    assert (
        count_flops(compacted, images[:1]) == 2 * after < 2 * costs.multiply_adds(network.wiring())
    )


def test_the_wiring_lists_the_edges_of_every_graph() -> None:
    torch.manual_seed(0)
    network = MobileNetV1DNW(**TINY, small=True)
    wiring = network.wiring()
    names = wiring.nodes.names
    groups = [names[node].partition(".")[0] for node in wiring.source.tolist()]
    learned = [group for group, yes in zip(groups, wiring.learnable, strict=True) if yes]
    assert isinstance(network.classifier, Adjacency)
    expected = network.edge_counts | {"features": network.classifier.edges}
    assert {group: learned.count(group) for group in learned} == expected
    graphs = [layer for layer in network.modules() if isinstance(layer, Adjacency)]
    usable = sum(int(graph.usable.sum()) for graph in graphs)
    assert wiring.unlisted == usable - len(learned)
    ends = {
        (names[s], names[t]): float(x)
        for s, t, x in zip(
            wiring.source.tolist(), wiring.target.tolist(), wiring.score.tolist(), strict=True
        )
    }
    third = stages(network)[2]  # 8 inputs, two blocks of 16
    for receiver, sender in third.adjacency.weight.nonzero().tolist():
        output = receiver - 16
        target = f"graph4.node{output}" if output >= 0 else f"graph3.node{8 + receiver}"
        weight = third.adjacency.weight[receiver, sender].item()
        assert ends[f"graph3.node{sender}", target] == pytest.approx(abs(weight))


def test_a_node_lives_if_the_logits_depend_on_it() -> None:
    """Pulling the shift of a node's batch norm changes some logit, or the node is dead."""
    torch.manual_seed(0)
    network = MobileNetV1DNW(width=0.4, stem_channels=2, image_size=16).double().eval()
    scramble(network)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.bias.data.fill_(3.0)  # no node is cut off by its ReLU
    wiring = network.wiring()
    logits = network(torch.randn(4, 3, 16, 16, dtype=torch.float64))
    shifts = [op.norm.bias for stage in stages(network) for op in stage.operations]
    slopes = torch.zeros(sum(map(len, shifts)), dtype=torch.bool)
    for logit in logits.flatten():
        gradients = torch.autograd.grad(logit, shifts, retain_graph=True)
        slopes |= torch.cat(gradients) != 0
    assert torch.equal(wiring.live_nodes[1 : 1 + len(slopes)], slopes)
    assert not slopes.all()


def test_only_starved_nodes_hang_on_the_image() -> None:
    torch.manual_seed(0)
    wiring = MobileNetV1DNW(width=0.4, stem_channels=2).wiring()
    graph = nx.DiGraph(zip(wiring.source.tolist(), wiring.target.tolist(), strict=True))
    assert nx.is_directed_acyclic_graph(graph)
    starved = [node for node in graph.successors(0) if node > 2]
    assert starved
    assert all(graph.in_degree(node) == 1 for node in starved)
    assert all(node in nx.descendants(graph, 0) for node in graph if node)


def test_bad_arguments_get_one_clear_sentence() -> None:
    for width in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"above 0 and at most 1, got {width}"):
            MobileNetV1DNW(width)
    with pytest.raises(ValueError, match='no stem "mini"'):
        MobileNetV1DNW(stem="mini")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='"learned" or "random", got "full"'):
        MobileNetV1DNW(wiring="full")  # type: ignore[arg-type]
