from collections.abc import Iterator
from copy import deepcopy
from itertools import chain
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from tests.backbones.plain_resnext import (
    LoopGateConnect,
    PlainResNeXt,
    assert_near,
    assert_same_gradients,
    assert_same_statistics,
    copy_weights,
    network_pairs,
    scramble_statistics,
)
from wiring_lightning import costs
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.nn import Gate, Selection

WIRINGS = ("learned", "full", "random", "real")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
DEPTH, WIDTH, C = 11, 2, 4
LAYOUT = ((1, 1, 1), 16, 64, WIDTH, C, 10)  # the same in the words of the plain twins


def small(fan_in: int, **options: object) -> ResNeXt:
    """One module a stage, with batch norms and gates that are not as at the start."""
    network = ResNeXt(DEPTH, WIDTH, C, fan_in, **options).double()
    scramble_statistics(network)
    with torch.no_grad():
        for gate in network.connections.values():
            if gate.mode != "random":
                gate.scores.copy_(torch.rand(C, C).softmax(1))
    return network


def batch(size: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, 8, 8, dtype=torch.float64), torch.arange(size) % 10


def backward(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    images = images.to(next(network.parameters()).dtype, copy=True).requires_grad_()
    logits = network(images)
    functional.cross_entropy(logits, labels).backward()
    return logits.detach(), images.grad


def gates(network: ResNeXt) -> list[Gate]:
    return list(network.connections.values())


def own_parameters(network: nn.Module) -> int:
    return sum(p.numel() for name, p in network.named_parameters() if not name.endswith("scores"))


# The architecture


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize(
    ("depth", "width", "expected"), [(20, 4, 283_572), (29, 8, 858_292)], ids=["20", "29"]
)
def test_small_networks_have_the_papers_size(
    depth: int, width: int, expected: int, wiring: str
) -> None:
    network = ResNeXt(depth, width, 8, 4, num_classes=100, wiring=wiring)
    assert own_parameters(network) == expected
    assert int(costs.parameters(network.wiring(), live=False)) == expected


def test_the_wide_network_has_the_papers_size() -> None:
    with torch.device("meta"):
        network = ResNeXt(29, 64, 8, 4, num_classes=100)
    assert f"{own_parameters(network) / 1e6:.2f}M" == "34.59M"


@pytest.mark.parametrize(
    ("depth", "cardinality", "stages", "theirs"),
    [
        (50, 32, (3, 4, 6, 3), torchvision.models.resnext50_32x4d),
        (101, 64, (3, 4, 23, 3), torchvision.models.resnext101_64x4d),
    ],
    ids=["50-32x4d", "101-64x4d"],
)
@pytest.mark.parametrize("wiring", ["full", "learned"])
def test_imagenet_networks_are_torchvisions_with_a_norm_per_branch(
    depth: int, cardinality: int, stages: tuple[int, ...], theirs: Any, wiring: str
) -> None:
    """torchvision sums inside a dense convolution and normalises each module's sum once."""
    with torch.device("meta"):
        network = ResNeXt(depth, 4, cardinality, 16, 1000, "imagenet", wiring)
        plain = theirs()
    expected = sum(parameter.numel() for parameter in plain.parameters())
    for channels, modules in zip((256, 512, 1024, 2048), stages, strict=True):
        expected += modules * (cardinality - 1) * 2 * channels
    assert own_parameters(network) == expected


@pytest.mark.parametrize(
    ("stem", "options", "size", "stem_shape", "shapes"),
    [
        ("cifar", {"depth": 20, "width": 1}, 32, (16, 32), [(64, 32), (128, 16), (256, 8)]),
        ("cifar", {"depth": 11, "width": 64}, 32, (64, 32), [(256, 32), (512, 16), (1024, 8)]),
        ("mini_imagenet", {"depth": 20, "width": 1}, 64, (16, 32), [(64, 32), (128, 16), (256, 8)]),
        (
            "imagenet",
            {"depth": 50, "width": 1},
            64,
            (64, 16),
            [(256, 16), (512, 8), (1024, 4), (2048, 2)],
        ),
    ],
)
def test_stages_double_channels_and_halve_images(
    stem: str,
    options: dict[str, int],
    size: int,
    stem_shape: tuple[int, int],
    shapes: list[tuple[int, int]],
) -> None:
    network = ResNeXt(**options, cardinality=2, fan_in=1, stem=stem).eval()
    seen = []

    def watch(_module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> None:
        assert output.shape[-1] == output.shape[-2]
        seen.append((output.shape[-3], output.shape[-1]))

    for part in (network.stem, *network.blocks.values()):
        part.register_forward_hook(watch)
    assert network(torch.randn(1, 3, size, size)).shape == (1, 10)
    modules = {20: (2, 2, 2), 11: (1, 1, 1), 50: (3, 4, 6, 3)}[options["depth"]]
    stages = chain.from_iterable([shape] * n for shape, n in zip(shapes, modules, strict=True))
    assert seen == [stem_shape, *stages]
    for block, (channels, _) in zip(network.blocks.values(), seen[1:], strict=True):
        assert block.width * shapes[0][0] == options["width"] * channels


def test_the_bottleneck_of_every_stage_is_that_of_table_5() -> None:
    widths = [block.width for block in ResNeXt(29, 8, 2, 1).blocks.values()]
    assert widths == [8, 8, 8, 16, 16, 16, 32, 32, 32]


def test_all_wirings_start_from_the_same_weights_for_a_seed() -> None:
    states = []
    for wiring in WIRINGS:
        torch.manual_seed(3)
        network = ResNeXt(DEPTH, WIDTH, C, 2, wiring=wiring)
        states.append(dict(network.named_parameters()))
    names = set(states[1])  # the full wiring has no gates
    assert {name for name in states[0] if not name.endswith("scores")} == names
    for state in states:
        assert all(torch.equal(state[name], states[1][name]) for name in names)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"depth": 21}, "depth"),
        ({"depth": 2}, "depth"),
        ({"depth": 20, "stem": "imagenet"}, "depth"),
        ({"depth": 50}, "depth"),
        ({"fan_in": 0}, "fan_in"),
        ({"fan_in": 9}, "fan_in"),
        ({"cardinality": 0}, "cardinality"),
        ({"width": 0}, "width"),
        ({"wiring": "dense"}, "wiring"),
        ({"identity": "none"}, "identity"),
        ({"stem": "mnist"}, "stem"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ResNeXt(**options)


# What it computes


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("wiring", ["learned", "random", "full"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_all_connections_make_a_plain_resnext(
    dtype: torch.dtype, wiring: str, training: bool
) -> None:
    network = small(C, wiring=wiring).to(dtype).train(training)
    plain = PlainResNeXt(*LAYOUT).to(dtype)
    copy_weights(network_pairs(network, plain))
    images, labels = batch()
    (actual, gradient), (expected, plain_gradient) = (
        backward(network, images, labels),
        backward(plain, images, labels),
    )
    assert_near(actual, expected, TOLERANCE[dtype])
    assert_near(gradient, plain_gradient, TOLERANCE[dtype])
    assert_same_gradients(network_pairs(network, plain), TOLERANCE[dtype])


def test_the_full_wiring_has_the_statistics_of_a_plain_resnext() -> None:
    network = small(C, wiring="full")
    plain = PlainResNeXt(*LAYOUT).double()
    copy_weights(network_pairs(network, plain))
    train(network, plain)
    assert_same_statistics(network_pairs(network, plain), 1e-9)
    images, _ = batch()
    assert_near(network.eval()(images), plain.eval()(images), 1e-9)


def train(*networks: nn.Module, steps: int = 3) -> None:
    """Some steps of SGD for every network on the same batches."""
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.05) for network in networks]
    for _ in range(steps):
        images, labels = batch()
        for network, optimizer in zip(networks, optimizers, strict=True):
            optimizer.zero_grad()
            backward(network, images, labels)
            optimizer.step()


def looped(network: ResNeXt, fan_in: int, identity: str) -> LoopGateConnect:
    twin = LoopGateConnect(*LAYOUT, fan_in=fan_in, identity=identity)
    twin = twin.to(network.classifier.weight.dtype)
    copy_weights(network_pairs(network, twin))
    twin.gates = [gate.weights().detach().requires_grad_() for gate in gates(network)]
    return twin


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("identity", ["mean", "sum"])
@pytest.mark.parametrize("fan_in", [1, 2, 3])
@pytest.mark.parametrize("wiring", ["learned", "real"])
def test_gates_sum_as_equation_2_says(
    wiring: str, fan_in: int, identity: str, training: bool
) -> None:
    network = small(fan_in, wiring=wiring, identity=identity).train(training)
    twin = looped(network, fan_in, identity)
    images, labels = batch()
    (actual, gradient), (expected, twin_gradient) = (
        backward(network, images, labels),
        backward(twin, images, labels),
    )
    assert_near(actual, expected, 1e-10)
    assert_near(gradient, twin_gradient, 1e-10)
    assert_same_gradients(network_pairs(network, twin), 1e-10)
    assert_same_statistics(network_pairs(network, twin), 1e-10)
    factor = fan_in if wiring == "real" else 1  # real weights are K times the scores
    for gate, leaf in zip(gates(network), twin.gates, strict=True):
        absent = leaf.detach() == 0
        assert wiring == "real" or gate.scores.grad[absent].any()
        assert_near(gate.scores.grad, factor * leaf.grad, 1e-10)


def test_gates_sum_as_equation_2_says_in_single_precision() -> None:
    network = small(2).float()
    twin = looped(network, 2, "mean")
    images, labels = batch()
    actual, _ = backward(network, images, labels)
    expected, _ = backward(twin, images, labels)
    assert_near(actual, expected, 1e-5)
    assert_same_gradients(network_pairs(network, twin), 1e-5)
    for gate, leaf in zip(gates(network), twin.gates, strict=True):
        assert_near(gate.scores.grad, leaf.grad, 1e-5)


def test_gate_gradients_are_finite_differences_of_the_whole_network() -> None:
    network = small(2).eval()
    twin, (images, labels) = looped(network, 2, "mean"), batch()
    backward(network, images, labels)

    @torch.no_grad()
    def loss() -> float:
        return float(functional.cross_entropy(twin(images), labels))

    step = 1e-6
    for gate, leaf in zip(gates(network), twin.gates, strict=True):
        for j, k in ((0, 0), (1, 3), (2, 1), (3, 3), (3, 2)):
            before = float(leaf[j, k].detach())
            leaf.data[j, k] = before + step
            above = loss()
            leaf.data[j, k] = before - step
            slope = (above - loss()) / (2 * step)
            leaf.data[j, k] = before
            assert float(gate.scores.grad[j, k]) == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_training_keeps_the_statistics_of_the_loop() -> None:
    network = small(2, wiring="random")
    twin = looped(network, 2, "mean")
    train(network, twin)
    assert_same_statistics(network_pairs(network, twin), 1e-9)
    images, _ = batch()
    assert_near(network.eval()(images), twin.eval()(images), 1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_with_one_source_the_mean_of_identities_is_their_sum_but_for_the_last_module(
    training: bool,
) -> None:
    mean, total = small(1, identity="mean").train(training), small(1, identity="sum")
    total.load_state_dict(mean.state_dict())
    total.train(training)
    for network in (mean, total):
        assert [block.identity_scale for block in network.blocks.values()][:-1] == [1, 1]
    images, _ = batch()
    seen = []
    for network in (mean, total):
        last = list(network.blocks.values())[-1]
        last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        network(images)
    assert torch.equal(*seen)


def test_a_random_wiring_is_k_edges_that_never_change() -> None:
    network = small(2, wiring="random")
    before = [gate.weights().clone() for gate in gates(network)]
    for weights in before:
        assert set(weights.flatten().tolist()) == {0.0, 1.0}
        assert (weights.sum(1) == 2).all()
    train(network)
    for training in (True, False):
        network.train(training)
        for gate, old in zip(gates(network), before, strict=True):
            assert torch.equal(gate.weights(), old)
    between = network.wiring().active[C:-C]  # the edges of stem and classifier left out
    assert between.tolist() == torch.stack(before).flatten().bool().tolist()


def test_the_wiring_is_that_of_evaluation_mode() -> None:
    network = small(2)
    wiring = network.wiring()
    names = wiring.nodes.names
    assert names[0] == "stem"
    assert names[-1] == "classifier"
    ends = torch.stack([wiring.source, wiring.target], 1)[wiring.active].tolist()
    active = {(names[source], names[target]) for source, target in ends}
    expected = {("stem", f"module1.branch{j}") for j in range(C)}
    expected |= {(f"module3.branch{j}", "classifier") for j in range(C)}
    for earlier, gate in enumerate(gates(network), start=1):
        for j, row in enumerate(gate.scores.tolist()):
            target = f"module{earlier + 1}.branch{j}"
            best = sorted(range(C), key=row.__getitem__, reverse=True)[:2]
            expected |= {(f"module{earlier}.branch{k}", target) for k in best}
    assert active == expected
    assert int(wiring.learnable.sum()) == 2 * C * C
    learned = torch.cat([gate.scores.detach().flatten() for gate in gates(network)])
    torch.testing.assert_close(wiring.score[wiring.learnable], learned.float())


# What is left of it


@pytest.fixture(params=[(wiring, fan_in) for wiring in WIRINGS for fan_in in (1, 2, 4)], ids=str)
def trained(request: pytest.FixtureRequest) -> Iterator[ResNeXt]:
    """Networks with statistics of training, one for each of several random scores."""
    wiring, fan_in = request.param
    network = small(fan_in, wiring=wiring)
    train(network, steps=2)

    def rewired() -> Iterator[ResNeXt]:
        for _ in range(6):
            with torch.no_grad():
                for gate in gates(network):
                    if gate.mode == "learned":
                        gate.scores.uniform_()
                    elif gate.mode == "real":  # some sources that nobody listens to
                        gate.scores.uniform_()[:, torch.randperm(C)[: C - fan_in]] = 0
                    else:
                        gate.load_state_dict(Gate(C, C, fan_in, mode="random").state_dict())
            yield network

    return rewired()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_compact_network_computes_the_same(
    trained: Iterator[ResNeXt], dtype: torch.dtype
) -> None:
    for network in trained:
        network = deepcopy(network).eval().to(dtype)
        images = batch()[0].to(dtype)
        compact = network.compact()
        assert not compact.training
        assert_near(compact(images), network(images), TOLERANCE[dtype])


def test_the_compact_network_holds_what_lives_and_no_gate(trained: Iterator[ResNeXt]) -> None:
    for network in trained:
        compact = network.compact()
        expected = int(costs.parameters(network.wiring()))
        assert sum(parameter.numel() for parameter in compact.parameters()) == expected
        assert not any(isinstance(module, Gate) for module in compact.modules())
        wiring = compact.wiring()
        assert wiring.live_nodes.all()
        for cost in (costs.parameters, costs.multiply_adds, costs.sequential_steps):
            assert int(cost(wiring)) == int(cost(network.wiring()))


def test_compacting_twice_changes_nothing(trained: Iterator[ResNeXt]) -> None:
    images, _ = batch()
    for network in trained:
        once = network.compact()
        twice = once.compact()
        assert {name: value.shape for name, value in once.state_dict().items()} == {
            name: value.shape for name, value in twice.state_dict().items()
        }
        assert torch.equal(once(images), twice(images))


def test_with_one_source_branches_die() -> None:
    sizes = set()
    for _ in range(10):
        network = small(1)
        sizes.add(sum(parameter.numel() for parameter in network.compact().parameters()))
    assert max(sizes) < own_parameters(network)
    assert len(sizes) > 1  # which branches die depends on the draw


def test_the_compact_network_never_reads_dead_branches() -> None:
    network, (images, _) = small(1).eval(), batch()
    expected = network(images)
    live = network.wiring().live_nodes[1:-1].view(-1, C)
    assert not live.all()
    with torch.no_grad():
        for block, alive in zip(network.blocks.values(), live, strict=True):
            for layer in (block.reduce, block.spatial, block.expand, block.expand_norm):
                layer.weight.view(C, -1)[~alive] = torch.nan
    assert_near(network.compact()(images), expected, 1e-10)


def test_the_compact_network_is_a_copy() -> None:
    network, (images, _) = small(2).eval(), batch()
    compact = network.compact()
    expected = compact(images)
    with torch.no_grad():
        for tensor in chain(network.parameters(), network.buffers()):
            tensor.zero_()
    assert torch.equal(compact(images), expected)
    assert any(isinstance(module, Selection) for module in compact.modules())


def test_a_branch_whose_real_gates_are_all_zero_is_not_dropped() -> None:
    network, (images, _) = small(2, wiring="real").eval(), batch()
    with torch.no_grad():
        for gate in gates(network):
            gate.scores[1] = 0
    assert_near(network.compact()(images), network(images), 1e-10)


def test_the_compact_network_keeps_the_epsilon_of_its_norms() -> None:
    network, (images, _) = small(2).eval(), batch()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.1
    assert_near(network.compact()(images), network(images), 1e-10)
