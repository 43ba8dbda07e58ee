from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.steps import peak_memory, training_step
from tests.backbones.plain_sparsenet import (
    ListSparseNet,
    assert_same,
    copy_in_order,
    in_order,
    scramble,
    watch_outputs,
)
from tests.calls import count_calls
from tests.shapes import shapes_only
from wiring_lightning import costs
from wiring_lightning.backbones import SparseNet
from wiring_lightning.cli.report import summarize
from wiring_lightning.functional import Statistics, channel_statistics, sources

BC = {"bottleneck": True, "compression": 0.5}
DENSE = {"pattern": "dense"}


# Size


@pytest.mark.parametrize(
    ("depth", "growth", "options", "expected"),
    [
        (40, 24, {}, 757_252),
        (100, (16, 32, 64), {}, 7_218_148),
        (100, 24, BC, 1_461_124),
        (40, 12, DENSE, 1_100_428),
        (100, 12, BC | DENSE, 800_032),
    ],
)
def test_cifar_networks_have_the_papers_size(
    depth: int, growth: Any, options: dict[str, Any], expected: int
) -> None:
    """One of each kind. `tests/test_sparsenet_tables.py` counts every network of the paper."""
    with shapes_only():
        network = SparseNet(depth, growth, num_classes=100, **options)
    assert sum(p.numel() for p in network.parameters()) == expected
    wiring = network.wiring()
    assert int(costs.parameters(wiring)) == int(costs.parameters(wiring, live=False)) == expected


@pytest.mark.parametrize("depth", [121, 169, 201])
def test_dense_imagenet_networks_have_torchvisions_size(depth: int) -> None:
    with shapes_only():
        network = SparseNet(depth, 32, num_classes=1000, stem="imagenet", **BC, **DENSE)
        theirs = getattr(torchvision.models, f"densenet{depth}")()
    assert sum(p.numel() for p in network.parameters()) == sum(
        p.numel() for p in theirs.parameters()
    )


# What it computes


def test_the_dense_imagenet_network_computes_what_torchvisions_does() -> None:
    network = SparseNet(121, 32, stem="imagenet", **BC, **DENSE)
    theirs = torchvision.models.densenet121(num_classes=10)
    values = [
        value
        for module in theirs.modules()
        for value in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    ]
    with torch.no_grad():
        for mine, yours in zip(in_order(network), values, strict=True):
            mine.copy_(yours)
        images = torch.randn(2, 3, 64, 64)
        torch.testing.assert_close(
            network.eval()(images), theirs.eval()(images), atol=1e-5, rtol=1e-5
        )


NETWORKS = {
    "plain": ({"depth": 22, "growth": 4}, {"layers": 6, "growth": (4, 4, 4)}),
    "stages": ({"depth": 22, "growth": (3, 4, 5)}, {"layers": 6, "growth": (3, 4, 5)}),
    "base 3": ({"depth": 31, "growth": 3, "base": 3}, {"layers": 9, "growth": (3,) * 3, "base": 3}),
    "BC": ({"depth": 40, "growth": 3, **BC}, {"layers": 6, "growth": (3,) * 3, **BC}),
    "dense": (
        {"depth": 34, "growth": 3, **BC, **DENSE},
        {"layers": 5, "growth": (3,) * 3, **BC, "base": None},
    ),
}
networks = pytest.mark.parametrize("name", NETWORKS)


def pair(name: str, dtype: torch.dtype, **options: Any) -> tuple[SparseNet, ListSparseNet]:
    ours, theirs = NETWORKS[name]
    network = SparseNet(**ours, **options).to(dtype)
    scramble(network)
    twin = ListSparseNet(**theirs).to(dtype)
    copy_in_order(network, twin)
    return network, twin


@pytest.mark.parametrize("checkpointing", [False, True])
@networks
def test_is_a_list_with_concatenations_in_training_and_evaluation(
    name: str, checkpointing: bool
) -> None:
    """Logits, every gradient and running statistics: a batch counts once, recomputed or not."""
    network, twin = pair(name, torch.float64, checkpointing=checkpointing)
    assert_same(network, twin, torch.randn(4, 3, 8, 8, dtype=torch.float64), 1e-11)


@pytest.mark.parametrize("name", ["plain", "BC", "dense"])
def test_is_a_list_with_concatenations_in_float32(name: str) -> None:
    network, twin = pair(name, torch.float32)
    assert_same(network, twin, torch.randn(6, 3, 16, 16), 1e-5)


def test_statistics_of_an_output_are_computed_once_or_by_every_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []

    def count(values: Tensor) -> Statistics:
        calls.append(values.shape[1])
        return channel_statistics(values)

    monkeypatch.setattr("wiring_lightning.nn.pre_activation.channel_statistics", count)
    network = SparseNet(22, 4)
    network(torch.randn(2, 3, 8, 8))
    # Three stages of an input and six layers; only the classifier reads the last layer.
    assert len(calls) == 3 * 7 - 1
    calls.clear()
    SparseNet(22, 4, shared_statistics=False)(torch.randn(2, 3, 8, 8))
    reads = [len(sources(layer)) for layer in range(1, 8)]
    assert len(calls) == 3 * sum(reads) - reads[-1]  # the classifier has an ordinary batch norm
    calls.clear()
    network.eval()(torch.randn(2, 3, 8, 8))
    assert not calls


@pytest.mark.parametrize(
    ("name", "checkpointing"), [("stages", False), ("BC", False), ("BC", True), ("dense", False)]
)
def test_sharing_statistics_changes_nothing(name: str, checkpointing: bool) -> None:
    """In float32, to 1e-5: logits, gradients and running statistics in training, then logits."""
    networks = [
        pair(name, torch.float32, checkpointing=checkpointing, shared_statistics=shared)[0]
        for shared in (True, False)
    ]
    networks[1].load_state_dict(networks[0].state_dict())
    images = torch.randn(6, 3, 8, 8)
    trained = [network(images) for network in networks]
    for logits in trained:
        functional.cross_entropy(logits, torch.arange(6)).backward()
    tested = [network.eval()(images) for network in networks]
    for shared, own in (trained, tested):
        torch.testing.assert_close(shared, own, atol=1e-5, rtol=1e-5)
    for shared, own in zip(*map(in_order, networks), strict=True):
        torch.testing.assert_close(shared, own, atol=1e-5, rtol=1e-5)
        if shared.requires_grad:
            torch.testing.assert_close(shared.grad, own.grad, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_images_in_any_layout() -> None:
    network, twin = pair("BC", torch.float64)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    (expected,) = torch.autograd.grad(twin(images.requires_grad_()).square().sum(), images)
    for layout in (torch.contiguous_format, torch.channels_last):
        copy = images.detach().contiguous(memory_format=layout).requires_grad_()
        (slope,) = torch.autograd.grad(network(copy).square().sum(), copy)
        torch.testing.assert_close(slope, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_norms_and_frozen_layers_train_the_rest(checkpointing: bool) -> None:
    network, twin = pair("BC", torch.float64, checkpointing=checkpointing)
    for net in (network, twin):
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    network.stem.requires_grad_(False)
    network.stages["stage1"].requires_grad_(False)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    for result in (network(images), twin(images)):
        functional.cross_entropy(result, torch.arange(4)).backward()
    for ours, theirs in zip(in_order(network), in_order(twin), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-11, rtol=1e-9)
        else:
            assert ours.grad is None


def test_other_batch_norms_take_the_ordinary_path() -> None:
    network, twin = pair("BC", torch.float64, checkpointing=True)
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert_same(network, twin, torch.randn(4, 3, 8, 8, dtype=torch.float64), 1e-11)


def test_bf16_autocast_stays_close() -> None:
    network, _ = pair("BC", torch.float32)
    images = torch.randn(8, 3, 16, 16)
    expected = network(images)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    assert (logits.float() - expected).abs().max() < 0.1 * expected.abs().max()
    logits.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


# Memory


@pytest.mark.parametrize("name", ["plain", "base 3", "BC", "dense"])
def test_evaluation_frees_an_output_after_its_last_reader(name: str) -> None:
    network, _ = pair(name, torch.float32)
    pattern, base = NETWORKS[name][0].get("pattern", "log"), NETWORKS[name][0].get("base", 2)
    watched = [watch_outputs(list(stage)) for stage in network.stages.values()]
    with torch.no_grad():
        network.eval()(torch.randn(1, 3, 8, 8))
    for alive in watched:
        count = len(alive)
        for layer, held in enumerate(alive, start=1):  # what it reads itself is still there
            later = range(layer, count + 2)
            needed = set().union(*(sources(reader, pattern, base) for reader in later))
            assert held == {output for output in needed if 0 < output < layer}


@pytest.mark.parametrize("options", [{}, BC], ids=["plain", "BC"])
def test_peak_memory_against_a_list_with_concatenations(options: dict[str, Any]) -> None:
    layers = 6 if options else 12  # of 40, per stage
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)

    def peak(network: nn.Module) -> float:
        return peak_memory(training_step(network, images, labels), "cpu")

    expected = peak(ListSparseNet(layers, (12,) * 3, **options))
    assert peak(SparseNet(40, 12, **options)) < 0.9 * expected
    assert peak(SparseNet(40, 12, **options, checkpointing=True)) < 0.6 * expected


def test_1001_layers_run_forward_and_backward() -> None:
    network = SparseNet(1001, 1, **BC)
    network(torch.randn(1, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


# The graph


@pytest.mark.parametrize("name", NETWORKS)
def test_multiply_adds_are_those_of_torchs_counter(name: str) -> None:
    network = SparseNet(**NETWORKS[name][0], image_size=16)
    with FlopCounterMode(display=False) as counter:
        network.compact()(torch.randn(1, 3, 16, 16))
    assert 2 * int(costs.multiply_adds(network.wiring())) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({"depth": 22, "growth": 4, "stem": "mini_imagenet"}, 64),
        ({"depth": 22, "growth": 4, "stem": "mini_imagenet", "image_size": 75}, 75),
        ({"depth": 121, "growth": 8, "stem": "imagenet", **BC, "image_size": 97}, 97),
    ],
)
def test_stems_and_odd_sizes_are_priced_too(arguments: dict[str, Any], size: int) -> None:
    network = SparseNet(**arguments)
    with FlopCounterMode(display=False) as counter:
        network.compact()(torch.randn(1, 3, size, size))
    assert 2 * int(costs.multiply_adds(network.wiring())) == counter.get_total_flops()


def test_edges_are_those_of_equation_2_and_start_anew_in_each_stage() -> None:
    wiring = SparseNet(22, 4).wiring()
    names = wiring.nodes.names
    edges = {
        (names[source], names[target])
        for source, target in zip(wiring.source.tolist(), wiring.target.tolist(), strict=True)
    }
    expected = set()
    for stage, before, after in (
        (1, "stem", "transition1"), (2, "transition1", "transition2"),
        (3, "transition2", "classifier"),
    ):  # fmt: skip
        nodes = [before, *(f"stage{stage}.layer{layer}" for layer in range(1, 7)), after]
        for target in range(1, 8):
            expected |= {(nodes[target - 2**k], nodes[target]) for k in range(3) if 2**k <= target}
    assert edges == expected
    assert wiring.live_nodes.all()
    assert wiring.live_edges.all()
    assert not wiring.learnable.any()


def test_work_grows_with_the_layers_and_no_faster() -> None:
    networks: list[SparseNet] = []

    def build(depth: int) -> None:
        with shapes_only():
            networks.append(SparseNet(depth, 12, **BC))

    built = [count_calls(lambda d=depth: build(d)) for depth in (124, 244)]
    assert built[1] < 2.1 * built[0]
    summaries = [count_calls(lambda n=n: summarize(n.wiring())) for n in networks]
    assert summaries[1] < 2.3 * summaries[0]  # each layer has log(layers) edges


def test_1001_layers_are_summarized() -> None:
    with shapes_only():
        network = SparseNet(1001, 12, **BC)
    summary = summarize(network.wiring())
    assert summary["modules"] == {"total": 3 * 166 + 2, "live": 3 * 166 + 2}
    assert summary["live_per_group"]["stage3"] == [166, 166]


def test_compact_is_a_copy_in_evaluation_mode() -> None:
    network = SparseNet(22, 4)
    compacted = network.compact()
    images = torch.randn(2, 3, 16, 16)
    assert network.training
    assert not compacted.training
    assert torch.equal(compacted(images), network.eval()(images))
    nn.init.zeros_(compacted.classifier.weight)
    assert network.classifier.weight.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 41}, r"3n \+ 4 .* got 41"),
        ({"depth": 102, "bottleneck": True}, r"6n \+ 4 .* got 102"),
        ({"depth": 4}, r"3n \+ 4 .* got 4"),
        ({"growth": 0}, "growth must be at least 1, got 0"),
        ({"growth": (16, 32)}, r"one for each of 3 stages, got \[16, 32\]"),
        ({"compression": 0.0}, "above 0 and at most 1, got 0.0"),
        ({"compression": 0.01}, "a transition of 48 channels at least one, got 0.01"),
        ({"pattern": "sparse"}, '"log" or "dense", got "sparse"'),
        ({"base": 1}, r"base \(c\) must be an integer of at least 2, got 1"),
        ({"stem": "mnist"}, 'no stem "mnist"'),
        ({"stem": "imagenet", "depth": 40}, "121, 169, 201 and bottleneck true, got 40 and false"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseNet(**arguments)
