from typing import Any

import pytest
import torch
import torchvision
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.steps import peak_memory
from tests.backbones.plain_resnet import (
    LoopMaskConnect,
    PlainResNet,
    copy_layers,
    grow,
    layer_parameters,
)
from tests.methods import digits
from tests.shapes import shapes_only, without_draws
from tests.trainers import quiet_trainer
from wiring_lightning import costs
from wiring_lightning.backbones import ResNet
from wiring_lightning.callbacks import MaskConnect
from wiring_lightning.nn import find_gates
from wiring_lightning.tasks import ClassificationTask

STAGES, DEPTH = (3, 3, 3), 20  # nine blocks


def backward(network: nn.Module, images: Tensor) -> Tensor:
    logits = network(images)
    functional.cross_entropy(logits, torch.arange(len(images)) % 10).backward()
    return logits.detach()


def assert_same(network: nn.Module, twin: nn.Module, images: Tensor, tolerance: float) -> None:
    logits, expected = backward(network, images), backward(twin, images)
    torch.testing.assert_close(logits, expected, atol=tolerance, rtol=tolerance)
    for ours, theirs in zip(layer_parameters(network), layer_parameters(twin), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        scale = float(theirs.grad.abs().max())
        torch.testing.assert_close(ours.grad, theirs.grad, atol=tolerance * scale, rtol=tolerance)


def twin_of(network: ResNet) -> LoopMaskConnect:
    """The loop with the gates that the network uses in training mode."""
    loop = LoopMaskConnect(STAGES).to(network.classifier.weight.dtype)
    copy_layers(network, loop)
    gate = network.connection
    assert gate is not None
    loop.fan_in, loop.mean = network.fan_in, network.mean
    loop.gates = gate.active.to(network.classifier.weight.dtype).requires_grad_()
    if gate.log_weights is not None:
        loop.weights = gate.log_weights.detach().exp().requires_grad_()
    return loop


# The architecture


@pytest.mark.parametrize(
    ("depth", "fan_in", "expected"), [(38, 10, 567_220), (74, 15, 1_150_516), (110, 20, 1_733_812)]
)
def test_cifar_networks_have_the_papers_size(depth: int, fan_in: int, expected: int) -> None:
    with without_draws():
        network = ResNet(depth, fan_in, num_classes=100)
    assert sum(p.numel() for p in layer_parameters(network)) == expected
    assert int(costs.parameters(network.wiring(), live=False)) == expected


def test_imagenet_network_is_torchvisions_without_its_projections() -> None:
    with shapes_only():
        network = ResNet(50, 10, num_classes=1000, stem="imagenet")
        theirs = torchvision.models.resnet50()
    projections = [p.numel() for name, p in theirs.named_parameters() if "downsample" in name]
    assert len(projections) == 4 * 3
    ours = sum(p.numel() for p in layer_parameters(network))
    assert ours == 22_780_456
    assert ours + sum(projections) == sum(p.numel() for p in theirs.parameters()) == 25_557_032


def test_imagenet_network_computes_what_torchvision_does_with_padded_shortcuts() -> None:
    class Pad(nn.Module):
        def __init__(self, channels: int, stride: int) -> None:
            super().__init__()
            self.channels, self.stride = channels, stride

        def forward(self, x: Tensor) -> Tensor:
            return grow(x, self.channels, self.stride)

    theirs = torchvision.models.resnet50(num_classes=10).eval()
    for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        conv = layer[0].downsample[0]
        layer[0].downsample = Pad(conv.out_channels, conv.stride[0])
    with without_draws():
        network = ResNet(50, 10, stem="imagenet", wiring="previous").eval()
    assert len(list(theirs.parameters())) == len(layer_parameters(network))
    with torch.no_grad():
        for ours, other in zip(layer_parameters(network), theirs.parameters(), strict=True):
            ours.copy_(other)
        images = torch.randn(2, 3, 64, 64)
        expected = theirs(images)
        torch.testing.assert_close(network(images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_previous_is_exactly_a_resnet(dtype: torch.dtype, tolerance: float) -> None:
    network = ResNet(DEPTH, wiring="previous").to(dtype)
    twin = PlainResNet(STAGES).to(dtype)
    copy_layers(network, twin)
    assert_same(network, twin, torch.randn(4, 3, 16, 16, dtype=dtype), tolerance)


def test_a_learned_wiring_of_previous_blocks_is_a_resnet_too() -> None:
    network = ResNet(DEPTH, fan_in=1).double()
    network.connection.active.copy_(torch.eye(8))
    twin = PlainResNet(STAGES).double()
    copy_layers(network, twin)
    assert_same(network, twin, torch.randn(4, 3, 16, 16).double(), 1e-10)


# Sums over earlier blocks


@pytest.mark.parametrize(
    ("fan_in", "identity", "weighted"),
    [
        (1, "mean", False),
        (2, "mean", True),
        (4, "mean", False),
        (4, "sum", False),
        (7, "sum", True),
        (8, "mean", True),
    ],
)
def test_sums_and_all_gradients_are_those_of_a_loop(
    fan_in: int, identity: Any, weighted: bool
) -> None:
    network = ResNet(DEPTH, fan_in, identity=identity, weighted=weighted).double()
    gate = network.connection
    if weighted:
        nn.init.normal_(gate.log_weights, std=0.3)
    loop = twin_of(network)
    assert_same(network, loop, torch.randn(4, 3, 8, 8).double(), 1e-9)
    choice = torch.arange(8) >= fan_in  # the others read all earlier blocks, nothing to learn
    grad = torch.zeros(8, 8) if gate.scores.grad is None else gate.scores.grad
    expected = loop.gates.grad.tril()
    torch.testing.assert_close(grad[choice].double(), expected[choice], atol=1e-8, rtol=1e-6)
    if weighted:
        slopes = (loop.weights.grad * loop.weights).detach()
        torch.testing.assert_close(gate.log_weights.grad, slopes, atol=1e-8, rtol=1e-6)


def test_sums_are_right_for_bottlenecks_behind_a_stem_of_another_width() -> None:
    network = ResNet(50, 3, num_classes=10, stem="imagenet").double()
    loop = LoopMaskConnect((3, 4, 6, 3), width=64, bottleneck=True, imagenet=True).double()
    copy_layers(network, loop)
    loop.fan_in, loop.gates = 3, network.connection.active.double().requires_grad_()
    assert_same(network, loop, torch.randn(2, 3, 32, 32).double(), 1e-8)


@pytest.mark.parametrize(("fan_in", "side"), [(2, 1), (5, 2), (2, 3), (7, 5)])
def test_sums_are_right_for_odd_and_tiny_images(fan_in: int, side: int) -> None:
    network = ResNet(DEPTH, fan_in).double()
    images = torch.randn(6, 3, side, side).double()
    assert_same(network, twin_of(network), images, 1e-8)


def test_every_gate_gets_the_slope_of_the_loss_chosen_or_not() -> None:
    network = ResNet(DEPTH, fan_in=3).double()
    # The block before is among the sources: channels that only padding fills are at the kink of the
    # ReLU, where a difference has no slope to compare with.
    active = torch.eye(8) + torch.eye(8).roll(-1, 1).tril() + torch.eye(8).roll(-3, 1).tril()
    active[:3] = torch.ones(3, 8).tril()
    network.connection.active.copy_(active)
    images = torch.randn(4, 3, 8, 8).double()
    labels = torch.arange(4)
    loop = twin_of(network)
    functional.cross_entropy(network(images), labels).backward()
    gradient = network.connection.scores.grad
    step = 1e-6
    slopes = []
    for j, k in [(4, 0), (5, 4), (6, 2), (7, 0), (7, 6), (8, 3), (8, 7)]:
        losses = []
        for sign in (1, -1):
            bumped = network.connection.active.double()
            bumped[j - 1, k] += sign * step
            loop.gates = bumped
            with torch.no_grad():
                losses.append(float(functional.cross_entropy(loop(images), labels)))
        slopes.append((losses[0] - losses[1]) / (2 * step))
        assert float(gradient[j - 1, k]) == pytest.approx(slopes[-1], rel=1e-5, abs=1e-9)
    assert len({slope for slope in slopes if abs(slope) > 1e-6}) >= 2


def test_early_blocks_take_all_and_later_ones_k() -> None:
    network = ResNet(DEPTH, fan_in=3, wiring="random")
    assert network.connection.active.sum(1).tolist() == [1, 2, 3, 3, 3, 3, 3, 3]
    assert not network.connection.active.triu(1).any()
    wiring = network.wiring()
    assert len(wiring.source) == 1 + 8 * 9 // 2 + 1
    assert not wiring.learnable.any()
    assert int(ResNet(DEPTH, fan_in=3).wiring().learnable.sum()) == 4 + 5 + 6 + 7 + 8


@pytest.mark.parametrize(
    ("last", "live"),
    [
        ({6: 1, 7: 5, 8: 7}, ["block1", "block6", "block8", "block9"]),
        ({6: 0, 7: 0, 8: 7}, ["block1", "block8", "block9"]),  # a stage is left out
        ({6: 5, 7: 6, 8: 1}, ["block1", "block2", "block9"]),
    ],
    ids=["first block of a stage", "whole stage", "two stages"],
)
@pytest.mark.parametrize("fold", [False, True])
def test_a_compact_network_with_one_source_each_is_a_chain(
    last: dict[int, int], live: list[str], fold: bool
) -> None:
    network = ResNet(DEPTH, fan_in=1).double()
    scores = torch.zeros(8, 8)
    for j, k in {1: 0, 2: 0, 3: 0, 4: 0, 5: 0, **last}.items():
        scores[j - 1, k] = 1.0
    with torch.no_grad():
        network.connection.scores.copy_(scores.masked_fill(network.connection.scores < 0, -1.0))
    network.eval()
    compacted = network.compact(fold_batch_norm=fold)
    assert list(compacted.blocks) == live
    assert compacted.connection is None
    images = torch.randn(3, 3, 16, 16).double()
    torch.testing.assert_close(compacted(images), network(images), atol=1e-12, rtol=1e-12)
    again = compacted.compact()
    assert torch.equal(again(images), compacted(images))
    sizes = [sum(p.numel() for p in form.parameters()) for form in (compacted, again)]
    assert sizes[0] == sizes[1]
    assert fold or sizes[0] == costs.parameters(network.wiring())


# Scale, memory and errors


def _mean_activation(network: ResNet, images: Tensor) -> float:
    seen: list[Tensor] = []
    last = list(network.blocks.values())[-1]
    handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    with torch.no_grad():
        network(images)
    handle.remove()
    return float(seen[0].abs().mean())


@pytest.mark.slow
def test_mean_identity_keeps_110_layers_bounded_before_and_after_10_steps() -> None:
    data = digits(batch_size=16)
    data.setup("fit")
    images, _ = next(iter(data.train_dataloader()))
    network = ResNet(110, 20, in_channels=1)
    literal = ResNet(110, 20, in_channels=1, identity="sum")
    assert _mean_activation(network, images) < 1e3
    assert _mean_activation(literal, images) > 1e9  # what the formula as printed does
    task = ClassificationTask(network)
    trainer = quiet_trainer(callbacks=[MaskConnect(lr=0.3)], max_steps=10, max_epochs=-1)
    trainer.fit(task, data)
    assert trainer.global_step == 10
    assert _mean_activation(network.train(), images) < 1e3


def _peak(network: nn.Module, images: Tensor) -> float:
    def step() -> None:
        network(images).square().sum().backward()

    return peak_memory(step, "cpu")


@pytest.mark.parametrize("fan_in", [2, 9])
def test_memory_is_that_of_a_resnet_and_of_the_outputs(fan_in: int) -> None:
    images = torch.randn(4, 3, 16, 16)
    blocks, size = 9, 4 * 16 * 16 * 16 * 4  # per stage, and an output of the first stage in bytes
    outputs = blocks * (size + size // 2 + size // 4) / 2**20
    learned, plain = ResNet(56, fan_in), ResNet(56, wiring="previous")
    assert _peak(learned, images) < 1.2 * _peak(plain, images) + outputs


def test_a_second_backward_pass_needs_retain_graph_as_everywhere_in_torch() -> None:
    network = ResNet(DEPTH, fan_in=2).double()
    images = torch.randn(2, 3, 8, 8).double()
    loss = network(images).square().sum()
    loss.backward(retain_graph=True)
    first = network.connection.scores.grad.clone()
    loss.backward()
    torch.testing.assert_close(network.connection.scores.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize(("fan_in", "weighted"), [(1, False), (2, False), (4, True), (7, False)])
def test_gradients_of_inner_blocks_alone_are_those_of_a_loop(fan_in: int, weighted: bool) -> None:
    network = ResNet(DEPTH, fan_in, weighted=weighted).double()
    loop = twin_of(network)
    images = torch.randn(3, 3, 8, 8).double()
    outputs: dict[tuple[str, int], Tensor] = {}
    for name, blocks in (("ours", network.blocks.values()), ("loop", loop.blocks)):
        for number, block in enumerate(blocks):
            block.register_forward_hook(
                lambda _module, _given, output, key=(name, number): outputs.update({key: output})
            )
    network(images)
    loop(images)
    for number in (5, 2, 6, 8):  # one pass after another through the same graph
        direction = torch.randn_like(outputs["ours", number])
        pairs = zip(layer_parameters(network), layer_parameters(loop), strict=True)
        for ours, theirs in [*pairs, (network.connection.scores, loop.gates)]:
            ours.grad = theirs.grad = None
        for name in ("ours", "loop"):
            (outputs[name, number] * direction).sum().backward(retain_graph=True)
        for ours, theirs in zip(layer_parameters(network), layer_parameters(loop), strict=True):
            if theirs.grad is None or ours.grad is None:  # of a later layer, or none reads it
                assert all(p.grad is None or not p.grad.any() for p in (ours, theirs))
                continue
            scale = float(theirs.grad.abs().max())
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12 * scale, rtol=1e-9)
        learned = torch.arange(8) >= (0 if weighted else fan_in)
        gradient, expected = network.connection.scores.grad, loop.gates.grad.tril()
        if gradient is None:
            assert not expected[learned].any()
            continue
        torch.testing.assert_close(
            gradient[learned].double(), expected[learned], rtol=1e-6, atol=1e-6
        )


def test_bf16_autocast_and_channels_last_stay_close() -> None:
    torch.manual_seed(0)
    network = ResNet(DEPTH, fan_in=2)
    images = torch.randn(8, 3, 16, 16)
    expected = backward(network, images)
    gradient = network.connection.scores.grad.clone()
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    logits.float().log_softmax(1)[range(8), range(8)].mean().neg().backward()
    assert (logits.float() - expected).abs().max() < 0.1 * expected.abs().max()
    assert (network.connection.scores.grad - gradient).abs().max() < 0.2 * gradient.abs().max()
    network.zero_grad()
    again = backward(network, images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(again, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network.connection.scores.grad, gradient, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("network", [ResNet(DEPTH, fan_in=2), ResNet(DEPTH, fan_in=8)])
def test_frozen_gates_and_frozen_layers_train_the_rest(network: ResNet) -> None:
    for gate in find_gates(network).values():
        gate.freeze()
    network.blocks["block1"].requires_grad_(False)
    network.stem.requires_grad_(False)
    backward(network, torch.randn(2, 3, 8, 8))
    assert network.connection.scores.grad is None
    trained = [p for p in layer_parameters(network) if p.requires_grad]
    assert all(p.grad is not None for p in trained)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 21}, r"2 \+ 6n .* got 21"),
        ({"depth": 51, "stem": "imagenet"}, "18, 34, 50, 101, 152 .* got 51"),
        ({"depth": 20, "fan_in": 9}, "between 1 and 8, .* got 9"),
        ({"depth": 20, "fan_in": 0}, "between 1 and 8, .* got 0"),
        ({"wiring": "full"}, '"learned", "previous", "random" or "covered", got "full"'),
        ({"identity": "median"}, '"mean" or "sum", got "median"'),
        ({"stem": "mnist"}, 'no stem "mnist"'),
    ],
)
def test_bad_arguments_get_one_clear_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet(**arguments)


def test_works_in_a_foreign_module_with_a_scheduler() -> None:
    class Foreign(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = ResNet(14, 2, in_channels=1)

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.1)

    module = Foreign()
    before = module.net.connection.scores.detach().clone()
    trainer: Trainer = quiet_trainer(callbacks=[MaskConnect(lr=1.0)], max_steps=3)
    trainer.fit(module, digits())
    assert not torch.equal(before, module.net.connection.scores.detach())
