from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.steps import peak_memory, training_step
from tests.backbones.plain_sparsenet import (
    ListSparseResNet,
    PreActivationResNet,
    assert_same,
    copy_in_order,
    in_order,
    scramble,
    watch_outputs,
)
from tests.calls import count_calls
from tests.shapes import shapes_only
from wiring_lightning import costs
from wiring_lightning.backbones import SparseResNet
from wiring_lightning.cli.report import summarize
from wiring_lightning.functional import sources

DEPTH, BLOCKS = 56, 6  # blocks per stage


def pair(
    pattern: str, base: int = 2, dtype: torch.dtype = torch.float64, **options: Any
) -> tuple[SparseResNet, PreActivationResNet]:
    network = SparseResNet(DEPTH, pattern, base, **options).to(dtype)
    scramble(network)
    kind = PreActivationResNet if pattern == "dense" else ListSparseResNet
    twin = kind(BLOCKS).to(dtype)
    twin.base = base
    copy_in_order(network, twin)
    return network, twin


# Size


@pytest.mark.parametrize(("depth", "expected"), [(56, 590_426), (110, 1_146_842)])
@pytest.mark.parametrize("pattern", ["log", "dense"])
def test_networks_have_the_papers_size(depth: int, expected: int, pattern: str) -> None:
    """For ten classes. `tests/test_sparsenet_tables.py` counts every network of the paper."""
    with shapes_only():
        network = SparseResNet(depth, pattern)
    assert sum(p.numel() for p in network.parameters()) == expected
    wiring = network.wiring()
    assert int(costs.parameters(wiring)) == int(costs.parameters(wiring, live=False)) == expected


# What it computes


@pytest.mark.parametrize(
    ("dtype", "tolerance", "checkpointing"),
    [
        (torch.float32, 1e-5, True),
        (torch.float64, 1e-10, False),
        (torch.float64, 1e-10, True),
    ],
)
def test_dense_is_a_standard_pre_activation_resnet(
    dtype: torch.dtype, tolerance: float, checkpointing: bool
) -> None:
    network, twin = pair("dense", dtype=dtype, checkpointing=checkpointing)
    assert_same(network, twin, torch.randn(4, 3, 8, 8, dtype=dtype), tolerance)


def test_gradients_of_dense_in_float32_are_those_of_a_standard_resnet() -> None:
    """Without kinks: batch norms shift almost all activations above zero."""
    network, twin = pair("dense", dtype=torch.float32)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.constant_(norm.weight, 0.2)
            nn.init.constant_(norm.bias, 2.0)
    copy_in_order(network, twin)
    images = torch.randn(8, 3, 16, 16)
    for result in (network(images), twin(images)):
        functional.cross_entropy(result, torch.arange(8)).backward()
    scale = max(float(p.grad.abs().max()) for p in twin.parameters())
    for ours, theirs in zip(in_order(network), in_order(twin), strict=True):
        if theirs.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5 * scale, rtol=1e-5)


@pytest.mark.parametrize(("base", "checkpointing"), [(2, False), (2, True), (3, True)])
def test_log_is_a_list_with_sums(base: int, checkpointing: bool) -> None:
    network, twin = pair("log", base, checkpointing=checkpointing)
    assert_same(network, twin, torch.randn(4, 3, 8, 8, dtype=torch.float64), 1e-10)


@pytest.mark.parametrize("pattern", ["log", "dense"])
def test_other_batch_norms_take_the_ordinary_path(pattern: str) -> None:
    network, twin = pair(pattern, checkpointing=True)
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert_same(network, twin, torch.randn(4, 3, 8, 8, dtype=torch.float64), 1e-10)


# Memory and depth


def test_evaluation_frees_an_output_after_its_last_reader() -> None:
    network = SparseResNet(110).eval()
    count = 12
    watched = [watch_outputs(list(stage)) for stage in network.stages.values()]
    with torch.no_grad():
        network(torch.randn(1, 3, 8, 8))
    for alive in watched:
        assert len(alive) == count - 1  # block 1 is in the stage's entry
        for block, held in enumerate(alive, start=2):
            later = range(block + 1, count + 2)
            needed = set().union(*(sources(reader) for reader in later))
            # While a block runs, its sum is all that is left of what it alone still reads.
            assert {index + 1 for index in held} == {o for o in needed if 1 < o < block}


@pytest.mark.parametrize("pattern", ["log", "dense"])
def test_peak_memory_against_lists_and_plain_layers(pattern: str) -> None:
    network, twin = pair(pattern, dtype=torch.float32)
    frugal, _ = pair(pattern, dtype=torch.float32, checkpointing=True)
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    peaks = [
        peak_memory(training_step(net, images, labels), "cpu") for net in (network, frugal, twin)
    ]
    assert peaks[0] < 0.9 * peaks[2]
    assert peaks[1] < 0.6 * peaks[2]


@pytest.mark.parametrize(
    ("depth", "checkpointing"),
    [(1001, False), pytest.param(2000, True, marks=pytest.mark.slow)],
)
def test_very_deep_networks_run_forward_and_backward(depth: int, checkpointing: bool) -> None:
    network = SparseResNet(depth, checkpointing=checkpointing)
    network(torch.randn(1, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


# The graph


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({"depth": 29, "image_size": 16}, 16),
        ({"depth": 29, "pattern": "dense", "image_size": 15}, 15),
        ({"depth": 20, "stem": "mini_imagenet"}, 64),
    ],
)
def test_multiply_adds_are_those_of_torchs_counter(arguments: dict[str, Any], size: int) -> None:
    network = SparseResNet(**arguments)
    with FlopCounterMode(display=False) as counter:
        network.compact()(torch.randn(1, 3, size, size))
    assert 2 * int(costs.multiply_adds(network.wiring())) == counter.get_total_flops()


@pytest.mark.parametrize("pattern", ["log", "dense"])
def test_edges_are_those_of_the_paper_and_start_anew_in_each_stage(pattern: str) -> None:
    wiring = SparseResNet(DEPTH, pattern).wiring()
    names = wiring.nodes.names
    edges = {
        (names[source], names[target])
        for source, target in zip(wiring.source.tolist(), wiring.target.tolist(), strict=True)
    }
    expected = {("stem", "stage1.input")}
    for stage in (1, 2, 3):
        after = f"stage{stage + 1}.input" if stage < 3 else "classifier"
        blocks = (f"stage{stage}.block{block}" for block in range(1, BLOCKS + 1))
        nodes = [f"stage{stage}.input", *blocks, after]
        for target in range(1, BLOCKS + 2):
            distances = [1, 2, 4] if pattern == "log" else range(1, target + 1)
            expected |= {(nodes[target - d], nodes[target]) for d in distances if d <= target}
    assert edges == expected
    assert len(wiring.source) == len(expected)
    assert wiring.live_nodes.all()


@pytest.mark.parametrize("pattern", ["log", "dense"])
def test_work_grows_with_the_edges_and_no_faster(pattern: str) -> None:
    networks: list[SparseResNet] = []

    def build(depth: int) -> None:
        with shapes_only():
            networks.append(SparseResNet(depth, pattern))

    built = [count_calls(lambda d=depth: build(d)) for depth in (128, 254)]
    assert built[1] < 2.1 * built[0]
    wirings = [network.wiring() for network in networks]
    summaries = [count_calls(lambda n=n: summarize(n.wiring())) for n in networks]
    assert summaries[1] / summaries[0] < len(wirings[1].source) / len(wirings[0].source)


def test_2000_layers_are_summarized() -> None:
    with shapes_only():
        network = SparseResNet(2000)
    wiring = network.wiring()
    assert summarize(wiring)["live_per_group"] == {f"stage{s}": [223, 223] for s in (1, 2, 3)}
    assert int(costs.parameters(wiring)) == 20_621_402


def test_compact_is_a_copy_in_evaluation_mode() -> None:
    network = SparseResNet(29)
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
        ({"depth": 57}, r"9n \+ 2 .* got 57"),
        ({"depth": 2}, r"9n \+ 2 .* got 2"),
        ({"pattern": "sparse"}, '"log" or "dense", got "sparse"'),
        ({"base": 0}, r"base \(c\) must be an integer of at least 2, got 0"),
        ({"stem": "imagenet"}, 'got "imagenet"'),
        ({"stem": "mnist"}, 'no stem "mnist"'),
    ],
)
def test_bad_arguments_get_one_clear_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseResNet(**arguments)
