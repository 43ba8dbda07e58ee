"""Neural graphs against a twin that goes node by node, and their counts against the paper's."""

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.backbones.plain_neural_graph import (
    change,
    first_states,
    logits,
    runge_kutta,
    static_outputs,
)
from tests.methods import digits
from tests.trainers import quiet_trainer
from wiring_lightning import costs
from wiring_lightning.backbones import NeuralGraph
from wiring_lightning.callbacks import DNW
from wiring_lightning.cli.report import summary_rows
from wiring_lightning.nn import Adjacency, graph_dynamics
from wiring_lightning.nn.node_operations import filter_maps, filter_matrices
from wiring_lightning.optim import EdgeSet, StraightThrough
from wiring_lightning.tasks import ClassificationTask

TINY: dict[str, Any] = {"nodes": 17, "inputs": 3, "outputs": 4, "depth": 3, "edges": 30,
                        "in_channels": 1, "strides": (1, 1), "num_classes": 5,
                        "image_size": 8}  # fmt: skip
FEW = {"nodes": 9, "inputs": 2, "outputs": 2, "edges": 24}  # so that a solver is fast
DYNAMICS = ["static", "discrete", "continuous"]


def tiny(dynamics: str = "static", seed: int = 0, **kwargs: Any) -> NeuralGraph:
    """In double precision, with a stem and norms that have learned something."""
    torch.manual_seed(seed)
    network = NeuralGraph(dynamics, **{**TINY, **kwargs}).double()
    with torch.no_grad():
        network.operations.scale.uniform_(0.5, 1.5)
        network.operations.shift.normal_()
        for norm in (network.stem.norm, network.stem.out_norm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 1.5)
    return network.eval()


def images(batch: int = 3) -> Tensor:
    return torch.randn(batch, 1, 8, 8, dtype=torch.float64)


def gradients(network: NeuralGraph, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(network.parameters())))


def test_static_graph_equals_a_twin_that_goes_node_by_node() -> None:
    network, batch = tiny(), images()
    twin = logits(network, static_outputs(network, network.stem(batch)))
    torch.testing.assert_close(network(batch), twin)
    ours = gradients(network, network(batch).square().sum())
    theirs = gradients(network, twin.square().sum())
    torch.testing.assert_close(ours, theirs)
    position = [name for name, _ in network.named_parameters()].index("adjacency.weight")
    usable = network.adjacency.usable
    assert int((ours[position] != 0).sum()) > TINY["edges"]  # absent edges have gradients, too,
    assert not ours[position][~usable].any()  # but not those that can never be


def test_discrete_graph_equals_a_twin_that_goes_node_by_node() -> None:
    network, batch = tiny("discrete", edges=60), images()
    states = first_states(network, network.stem(batch))
    for _ in range(TINY["depth"]):
        states = change(network, states)
    twin = logits(network, torch.stack(states[-TINY["outputs"] :], 1))
    torch.testing.assert_close(network(batch), twin)
    torch.testing.assert_close(
        gradients(network, network(batch).square().sum()), gradients(network, twin.square().sum())
    )


def test_continuous_graph_equals_many_small_steps() -> None:
    network, batch = tiny("continuous", **FEW), images(2)
    with torch.no_grad():
        states = runge_kutta(network, first_states(network, network.stem(batch)), steps=100)
        exact = logits(network, torch.stack(states[-2:], 1))
        coarse = (network(batch) - exact).abs().max()
        network.tolerance = 1e-7
        fine = (network(batch) - exact).abs().max()
    assert coarse < 0.2
    assert fine < 1e-3
    assert fine < coarse / 10


@pytest.mark.parametrize("adjoint", [False, True])
def test_time_in_float32_does_for_devices_without_float64(
    adjoint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, batch = tiny("continuous", adjoint=adjoint, **FEW).float(), images(2).float()
    expected = network(batch)
    monkeypatch.setitem(graph_dynamics._TIME, "cpu", torch.float32)
    with WithoutFloat64():
        actual = network(batch)
        actual.square().sum().backward()
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


class WithoutFloat64(TorchDispatchMode):
    """Raises an error for a calculation in float64; constants may be converted from it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                assert value.dtype != torch.float64, func
        return result


def test_adjoint_gradients_equal_direct_ones() -> None:
    small = {**FEW, "inputs": 7, "strides": (2, 1), "tolerance": 1e-6}
    direct, adjoint = (tiny("continuous", adjoint=a, **small) for a in (False, True))
    with torch.no_grad():  # states that start at zero send nothing: all is smooth, but for ReLU
        for network in (direct, adjoint):
            network.adjacency.weight[:, -2:] = 0
    batch = images(1)
    expected, actual = (
        torch.cat([g.flatten() for g in gradients(network, network(batch).square().sum())])
        for network in (direct, adjoint)
    )
    assert expected.norm() > 1
    assert (actual - expected).norm() < 1e-2 * expected.norm()


def test_filters_on_small_and_large_maps_are_depthwise_convolutions() -> None:
    filters = torch.randn(5, 3, 3, dtype=torch.float64)
    for height, width in [(2, 3), (8, 8), (12, 11)]:
        maps = torch.randn(5, 2, height, width, dtype=torch.float64)
        small = height * width <= 100
        ours = filter_maps(maps, filter_matrices(filters, height, width) if small else filters)
        expected = functional.conv2d(maps.transpose(0, 1), filters[:, None], padding=1, groups=5)
        torch.testing.assert_close(ours, expected.transpose(0, 1))


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_the_papers_41k_parameters(dynamics: str) -> None:
    """448 + 32 + 160 + 544 + 64 of the stem, 9 a node, 1,010 of the classifier, and k edges."""
    network = NeuralGraph(dynamics)
    norms = network.operations.scale.numel() + network.operations.shift.numel()
    assert norms == 1_600
    dense = network.adjacency.weight.numel()
    by_hand = sum(p.numel() for p in network.parameters()) - dense + 32_000
    assert by_hand - norms == 41_458 == 32_000 + 448 + 32 + 160 + 544 + 64 + 9 * 800 + 1_010
    wiring = network.wiring()
    assert int(costs.parameters(wiring, live=False)) == by_hand == 43_058
    usable = 32 * 768 + 192 * (576 + 384 + 192) + 192 * 100 if dynamics == "static" else 800**2
    given = int((wiring.parameters == 0).sum())
    assert wiring.candidates - given == usable


def test_multiply_adds_by_hand() -> None:
    stem = 27 * 16 * 16**2 + (9 * 16 + 16 * 32) * 8**2
    for dynamics, work in [
        ("static", 64 * (9 * 800 + 32_000)),
        ("continuous", 64 * (9 * 800 + 32_000)),
    ]:
        wiring = NeuralGraph(dynamics).wiring()
        assert int(costs.multiply_adds(wiring, live=False)) == stem + work + 1_000
    network = NeuralGraph("discrete")
    edges = network.adjacency.weight != 0
    # Three steps of everything, one from the inputs only, one to the outputs only.
    products = 3 * 32_000 + int(edges[:, :32].sum()) + int(edges[-100:].sum())
    total = stem + 64 * (9 * (800 * 4 + 32) + products) + 1_000
    assert int(costs.multiply_adds(network.wiring(), live=False)) == total


def test_edges_lead_to_later_blocks_only() -> None:
    network = tiny()
    wiring, weight = network.wiring(), network.adjacency.weight.detach()
    group = wiring.nodes.group
    assert (group[wiring.source] < group[wiring.target]).all()
    named = {  # weight by the names of the nodes: 3, 7 and 7 in blocks, outputs are the last 4
        (_name(sender), _name(receiver) if sender < 10 else f"outputs.node{receiver - 13}"):
        abs(float(weight[receiver, sender])) for receiver, sender in weight.nonzero().tolist()
    }  # fmt: skip
    names = wiring.nodes.names
    ends = zip(wiring.source.tolist(), wiring.target.tolist(), strict=True)
    edges = [(names[source], names[target]) for source, target in ends]
    chosen = {edges[i]: float(wiring.score[i]) for i in wiring.learnable.nonzero().flatten()}
    assert len(named) == TINY["edges"]
    assert chosen == pytest.approx(named)
    assert wiring.active.all()


def _name(node: int) -> str:
    block = (node >= 3) + (node >= 10)
    return f"block{block + 1}.node{node - (0, 3, 10)[block]}"


def test_a_graph_with_cycles_has_a_report_without_steps() -> None:
    for dynamics, steps in [("static", True), ("discrete", False)]:
        rows = dict(summary_rows(tiny(dynamics, edges=60).wiring()))
        assert ("steps on n machines" in rows) == steps
        assert "parameters" in rows


def test_ranking_all_weights_wastes_most_of_them_at_first() -> None:
    torch.manual_seed(0)
    network = NeuralGraph(rank_all=True)
    share = 264_960 / 640_000  # of the weights that can be an edge
    carried = int((network.adjacency.weight != 0)[network.adjacency.usable].sum())
    spread = (32_000 * share * (1 - share) * (1 - 32_000 / 640_000)) ** 0.5
    assert abs(carried - 32_000 * share) < 4 * spread  # the authors' code: 13,040
    wiring = network.wiring()
    assert int((wiring.active & wiring.learnable).sum()) == carried
    assert int(costs.parameters(wiring, live=False)) == 43_058  # they count until they are pruned


@pytest.mark.parametrize("optimizer", [AdamW, SGD])
def test_random_edges_stay_while_their_weights_learn(optimizer: Any) -> None:
    network = tiny(wiring="random").train()
    before = network.adjacency.matrix().detach().clone()
    steps = optimizer(network.parameters(), lr=0.05, weight_decay=0.2)
    for _ in range(5):
        steps.zero_grad()
        functional.cross_entropy(network(images(8)), torch.arange(8) % 5).backward()
        steps.step()
    after = network.adjacency.matrix().detach()
    assert torch.equal(before != 0, after != 0)
    assert not torch.equal(before, after)


class Watch(Callback):
    """The edges after every step, and the latent weights that the rule began with."""

    def __init__(self, rule: DNW) -> None:
        self.rule = rule
        self.edges: list[Tensor] = []
        self.latent = torch.empty(0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.latent = self.rule._rules[0].latent[0].clone()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.edges.append(pl_module.backbone.adjacency.weight.detach() != 0)


@pytest.mark.parametrize("rank_all", [False, True])
def test_the_callback_keeps_k_edges_and_exchanges_them(rank_all: bool) -> None:
    torch.manual_seed(0)
    network = NeuralGraph(**{**TINY, "num_classes": 10}, rank_all=rank_all)
    assert network.adjacency.absent is not None
    dense = network.adjacency.weight.detach() + network.adjacency.absent
    rule = DNW()
    watch = Watch(rule)
    task = ClassificationTask(network, optimizer=partial(SGD, lr=0.5, momentum=0.9))
    quiet_trainer(max_steps=12, callbacks=[rule, watch]).fit(task, digits())
    torch.testing.assert_close(watch.latent, dense)
    assert [int(edges.sum()) for edges in watch.edges] == [TINY["edges"]] * 12
    assert not torch.equal(watch.edges[0], watch.edges[-1])
    if not rank_all:
        assert not (watch.edges[-1] & ~network.adjacency.usable).any()


@pytest.mark.parametrize("rank_all", [False, True])
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_compact_computes_the_same_without_dead_nodes(dynamics: str, rank_all: bool) -> None:
    for seed in range(4):
        network = tiny(dynamics, seed, edges=16, rank_all=rank_all, tolerance=1e-5)
        wiring = network.wiring()
        small, batch = network.compact(), images()
        assert not any(isinstance(module, Adjacency) for module in small.modules())
        size = sum(p.numel() for p in small.parameters())
        assert size == int(costs.parameters(wiring))
        assert size < int(costs.parameters(wiring, live=False))
        assert int(costs.parameters(small.wiring(), live=False)) == size  # and nothing else is dead
        exact = dynamics != "continuous"  # the solver takes other steps for fewer nodes
        with torch.no_grad():
            difference = (small(batch) - network(batch)).abs().max()
        assert difference < (1e-10 if exact else 1e-3)


def test_a_node_that_no_input_reaches_is_live_if_it_is_read() -> None:
    network = tiny(edges=1)
    with torch.no_grad():  # one edge from a hidden node, which receives nothing, to an output
        network.adjacency.weight.zero_()
        network.adjacency.weight[15, 5] = 1.0
    wiring = network.wiring()
    live = [name for name, alive in zip(wiring.nodes.names, wiring.live_nodes, strict=True)
            if alive and "block2" in name]  # fmt: skip
    assert live == ["block2.node2"]
    before = network(images(1))
    with torch.no_grad():
        network.operations.shift[5] += 1.0
    assert not torch.equal(network(images(1)), before)  # a constant, but a learned one
    torch.testing.assert_close(network.compact()(images(1)), network(images(1)))


def test_a_swap_lowers_the_loss_for_a_small_enough_step() -> None:
    """DNW, Section 2.2, in random graphs: of two edges into one node, the one that overtakes wins.

    As in the paper's proof, only the edges into one node are updated, and the loss with the new
    edge is compared with the loss if the old one had stayed. Weights and steps are small, so that
    the input of the node changes little.
    """
    swaps = 0
    for seed in range(60):
        network = tiny(seed=seed, edges=60)
        graph, batch, labels = network.adjacency, images(6), torch.randint(5, (6,))
        node = int(torch.randint(TINY["inputs"], TINY["nodes"], ()))
        usable = graph.usable[node]
        count = int(usable.sum())
        row = nn.Parameter(torch.zeros(TINY["nodes"], dtype=torch.float64))
        with torch.no_grad():  # two weights a hair apart: a small step can exchange only them
            sizes = torch.linspace(0.2, 1.0, count, dtype=torch.float64)
            half = count // 2
            sizes[half - 1] = sizes[half] * (1 - 1e-9)
            signs = torch.randint(2, (count,)) * 2.0 - 1
            row[usable] = 1e-6 * (sizes * signs)[torch.randperm(count)]
        sgd = SGD([row], lr=1e-14)
        rule = StraightThrough(sgd, [EdgeSet([row], count - half, [usable])])
        edges = rule.masks[0].clone()

        def loss(
            weights: Tensor,
            network: NeuralGraph = network,
            node: int = node,
            batch: Tensor = batch,
            labels: Tensor = labels,
        ) -> Tensor:
            with torch.no_grad():
                network.adjacency.weight[node] = weights
            return functional.cross_entropy(network(batch), labels)

        network.zero_grad()
        loss(row).backward()
        assert graph.weight.grad is not None
        row.grad = graph.weight.grad[node].clone()
        row.grad /= row.grad.abs().max() + 1e-300  # the step is small whatever the gradient is
        sgd.step()
        if torch.equal(edges, rule.masks[0]):
            continue
        swaps += 1
        assert int((edges != rule.masks[0]).sum()) == 2
        with torch.no_grad():
            stayed = torch.where(edges, rule.latent[0], 0.0)
            assert loss(row) < loss(stayed)
    assert swaps >= 15


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_bf16_autocast_stays_close(dynamics: str) -> None:
    network, inputs = tiny(dynamics).float(), images(8).float()
    expected = network(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        result = network(inputs)
    assert result.dtype == torch.bfloat16
    assert (result.float() - expected).abs().max() < 0.1 * expected.abs().max()
    result.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


def test_what_is_not_a_number_stays_in_its_example() -> None:
    network, batch = tiny(), images()
    clean = network(batch)
    batch[1] = torch.nan
    broken = network(batch)
    assert broken[1].isnan().all()
    assert torch.equal(broken[[0, 2]], clean[[0, 2]])
    with pytest.raises(ValueError, match="not finite: has the loss diverged"):
        tiny("continuous")(batch)


def test_any_size_of_image_but_one_pixel_maps() -> None:
    for dynamics in DYNAMICS:
        network = tiny(dynamics, strides=(2, 2))
        for height, width in [(6, 5), (9, 30), (56, 44)]:
            out = network(torch.randn(2, 1, height, width, dtype=torch.float64))
            assert out.shape == (2, 5)
            assert out.isfinite().all()
        with pytest.raises(ValueError, match="images of 4 x 3 leave maps of one pixel"):
            network(torch.randn(2, 1, 4, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dynamics": "chaotic"}, '"static", "discrete" or "continuous", got "chaotic"'),
        ({"nodes": 100}, "got 100 nodes, 32 inputs and 100 outputs"),
        ({"inputs": 0}, "at least one input"),
        ({"depth": 1}, "at least 2 blocks .depth., got 1"),
        ({"dynamics": "discrete", "depth": 0}, "depth must be at least 1, got 0"),
        ({"depth": 20}, "100 output nodes must fit into the last of 20 blocks, which has 40"),
        ({"edges": 0}, "between 1 and 264960"),
        ({"edges": 264_961}, "between 1 and 264960"),
        ({"tolerance": 0.0}, "tolerance must be above 0, got 0.0"),
        ({"strides": (2,)}, "two numbers of at least 1"),
        ({"wiring": "full"}, '"learned" or "random", got "full"'),
    ],
)
def test_bad_arguments_get_one_clear_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeuralGraph(**arguments)
