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


def test_with_one_source_each_no_stream_has_to_move(trained: Iterator[ResNeXt]) -> None:
    for network in trained:
        chosen = [gate.selection() for gate in gates(network)]
        compact = network.compact()
        kept = [part for part in compact.modules() if isinstance(part, Selection)]
        for selection in kept:
            if selection.only_source is not None:
                sources = selection.matrix.shape[1]
                assert torch.equal(selection.matrix[:sources], torch.eye(sources))
                assert selection.in_order
        if all(selection.only_source is not None for selection in chosen):
            assert all(selection.only_source is not None for selection in kept)


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


@pytest.fixture(params=["_logits", "_logits_by_image"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way in which a CPU computes the images of a part, whatever their size."""
    bound = 2**40 if request.param == "_logits" else 0
    monkeypatch.setattr("wiring_lightning.backbones.multi_branch._LARGE_STATE", bound)
    return str(request.param)


@pytest.mark.parametrize("folded", [False, True])
def test_a_large_batch_is_computed_in_parts(
    trained: Iterator[ResNeXt], folded: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, (images, _) = deepcopy(next(trained)).eval(), batch()
    compact = network.compact(folded)
    assert not any(part.training for part in compact.modules())
    seen: list[int] = []
    in_parts = getattr(compact, way)

    def counted(part: Tensor) -> Tensor:
        seen.append(len(part))
        logits: Tensor = in_parts(part)
        return logits

    monkeypatch.setattr(compact, way, counted)
    with torch.no_grad():
        expected = network(images)
        assert_near(compact(images), expected, 1e-10)
        monkeypatch.setattr("wiring_lightning.functional.batch_parts._PART_BYTES", 1)
        assert_near(compact(images), expected, 1e-10)
    assert seen == [len(images)] + [1] * len(images)


@pytest.mark.parametrize(
    ("shape", "side", "dtype", "expected"),
    [
        ((11, 2, 4, 1), 8, torch.float32, "_logits"),
        ((11, 4, 4, 2), 16, torch.float32, "_logits"),
        ((11, 2, 4, 2), 32, torch.float32, "_logits_by_image"),
        ((11, 2, 4, C), 32, torch.float16, "_logits"),
        ((29, 8, 8, 4), 8, torch.float32, "_logits"),
        ((29, 8, 8, 4), 16, torch.float32, "_logits"),  # 512 KB, the bound itself
        ((29, 8, 8, 4), 16, torch.float64, "_logits_by_image"),
        ((29, 8, 8, 1), 32, torch.float32, "_logits_by_image"),
    ],
    ids=str,
)
def test_only_large_images_are_computed_one_by_one(
    shape: tuple[int, int, int, int],
    side: int,
    dtype: torch.dtype,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    network = ResNeXt(*shape, wiring="random").to(dtype).eval().compact()
    seen = []
    for name in ("_logits", "_logits_by_image"):
        monkeypatch.setattr(network, name, lambda part, name=name: seen.append(name) or part)
    with torch.no_grad():
        network(torch.zeros(1, 3, side, side, dtype=dtype))
    assert seen == [expected]


@pytest.mark.parametrize("name", ["stem", "blocks.module1", "blocks.module3", "classifier"])
def test_hooks_of_modules_are_called_once_with_the_whole_batch(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wiring_lightning.functional.batch_parts._PART_BYTES", 1)
    network, (images, _) = small(2).eval().compact(), batch()
    expected, seen = network(images), list[int]()
    network.get_submodule(name).register_forward_hook(lambda _m, _i, out: seen.append(len(out)))
    with torch.no_grad():
        assert_near(network(images), expected, 1e-10)
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


@pytest.mark.usefixtures("way")
def test_no_images_give_no_logits() -> None:
    network, (images, _) = small(2).eval().compact(), batch()
    with torch.no_grad():
        assert network(images[:0]).shape == (0, 10)


@pytest.mark.usefixtures("way")
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
