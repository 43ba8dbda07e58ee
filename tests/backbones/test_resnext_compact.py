"""What is left of the ResNeXt without its dead branches."""

from collections.abc import Iterator
from copy import deepcopy
from itertools import chain

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.backbones.plain_resnext import assert_near
from tests.backbones.small_resnext import TOLERANCE, C, batch, gates, own_parameters, small, train
from wiring_lightning import costs
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.nn import Gate, Selection


@pytest.fixture(
    params=[
        ("learned", 1),
        ("learned", 2),
        ("full", C),
        ("random", 1),
        ("covered", 2),
        ("real", 2),
        ("real", C),
    ],
    ids=str,
)
def trained(request: pytest.FixtureRequest) -> Iterator[ResNeXt]:
    """Networks with statistics of training, one for each of several random scores."""
    wiring, fan_in = request.param
    network = small(fan_in, wiring=wiring)
    train(network, steps=2)

    def rewired() -> Iterator[ResNeXt]:
        for _ in range(3):
            with torch.no_grad():
                for gate in gates(network):
                    if gate.mode == "learned":
                        gate.scores.uniform_()
                    elif gate.mode == "real":  # some sources that nobody listens to
                        gate.scores.uniform_()[:, torch.randperm(C)[: C - fan_in]] = 0
                    else:
                        gate.load_state_dict(Gate(C, C, fan_in, mode=gate.mode).state_dict())
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


@pytest.mark.parametrize("folded", [False, True])
def test_a_large_batch_is_computed_in_parts(
    trained: Iterator[ResNeXt], folded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, (images, _) = deepcopy(next(trained)).eval(), batch()
    compact = network.compact(folded)
    assert not any(part.training for part in compact.modules())
    seen: list[int] = []
    in_parts = compact._logits

    def counted(part: Tensor) -> Tensor:
        seen.append(len(part))
        return in_parts(part)

    monkeypatch.setattr(compact, "_logits", counted)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with torch.no_grad():
        expected = network(images)
        assert_near(compact(images), expected, 1e-10)
        monkeypatch.setattr("wiring_lightning.functional.batch_parts._PART_BYTES", 1)
        assert_near(compact(images), expected, 1e-10)
    assert sum(seen) == 2 * len(images)
    assert seen[:2] == [len(images), 2]


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(
    "name", ["stem", "blocks.module1", "blocks.module2", "blocks.module2.spatial", "classifier"]
)
def test_hooks_of_modules_are_called_once_with_the_whole_batch(
    name: str, dtype: torch.dtype, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wiring_lightning.functional.batch_parts._PART_BYTES", 1)
    network, (images, _) = small(2).to(dtype).eval().compact(), batch()
    images = images.to(dtype)
    expected, seen = network(images), list[int]()
    network.get_submodule(name).register_forward_hook(lambda _m, _i, out: seen.append(len(out)))
    with torch.no_grad():
        assert_near(network(images), expected, error)
    assert seen == [len(images)]


@pytest.mark.parametrize("part", ["", "stem", "blocks.module2"])
def test_norms_in_training_mode_see_the_whole_batch_without_gradients(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in `torch.optim.swa_utils.update_bn`."""
    monkeypatch.setattr("wiring_lightning.functional.batch_parts._PART_BYTES", 1)
    (images, _), results = batch(), []
    compact = small(2).eval().compact()
    for enabled in (True, False):
        network = deepcopy(compact)
        network.get_submodule(part).train()
        with torch.set_grad_enabled(enabled):
            logits = network(images)
        results.append({"logits": logits.detach(), **network.state_dict()})
    assert not torch.equal(compact(images), results[0]["logits"])
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_images_give_no_logits(dtype: torch.dtype) -> None:
    network, (images, _) = small(2).to(dtype).eval().compact(), batch()
    with torch.no_grad():
        assert network(images[:0].to(dtype)).shape == (0, 10)


@pytest.mark.parametrize("fan_in", [1, 2])
def test_work_without_gradients_is_counted_like_work_with_them(fan_in: int) -> None:
    network, (images, _) = small(fan_in).eval().compact(), batch()
    counts = []
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled), FlopCounterMode(display=False) as counter:
            network(images)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_norms_of_another_class_that_cannot_be_folded() -> None:
    network, (images, _) = nn.SyncBatchNorm.convert_sync_batchnorm(small(2)).eval(), batch()
    compact = network.compact()
    with torch.no_grad():
        assert_near(compact(images), network(images), 1e-10)
        assert_near(network.compact(fold_batch_norm=True)(images), network(images), 1e-10)


def test_branches_that_all_readers_read_are_merged() -> None:
    network, (images, _) = small(C).eval(), batch()
    folded = network.compact(fold_batch_norm=True)
    assert not any(isinstance(module, Selection) for module in folded.modules())
    assert all(block.merge and block.shared_input for block in folded.blocks.values())
    assert_near(folded(images), network(images), 1e-10)
    work = [int(costs.multiply_adds(each.wiring())) for each in (folded, network)]
    assert work[0] < work[1]  # projections are computed once
    full = small(C, wiring="full")
    assert work[0] == int(costs.multiply_adds(full.wiring()))
