"""What the ResNeXt computes, against plain twins."""

import pytest
import torch
from torch.nn import functional

from tests.backbones.plain_resnext import (
    LoopGateConnect,
    PlainResNeXt,
    assert_near,
    assert_same_gradients,
    assert_same_statistics,
    copy_weights,
    network_pairs,
)
from tests.backbones.small_resnext import LAYOUT, TOLERANCE, C, backward, batch, gates, small, train
from wiring_lightning.backbones import ResNeXt


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


def looped(network: ResNeXt, fan_in: int, identity: str) -> LoopGateConnect:
    twin = LoopGateConnect(*LAYOUT, fan_in=fan_in, identity=identity)
    twin = twin.to(network.classifier.weight.dtype)
    copy_weights(network_pairs(network, twin))
    twin.gates = [gate.weights().detach().requires_grad_() for gate in gates(network)]
    return twin


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("wiring", "fan_in", "identity"),
    [("learned", 1, "mean"), ("learned", 2, "mean"), ("learned", 3, "sum"), ("real", 2, "mean"),
     ("real", 3, "sum")],
)  # fmt: skip
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
