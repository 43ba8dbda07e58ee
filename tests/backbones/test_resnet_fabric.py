"""The ResNet Fabric against the published numbers and an independent plain ResNet."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from tests.shapes import shapes_only
from wiring_lightning import costs
from wiring_lightning.backbones import ResNetFabric
from wiring_lightning.costs import sequential_steps
from wiring_lightning.nn import find_bernoulli_gates

# width: parameters and multiply-adds of the fabric, and of the ResNet in it, as printed.
PUBLISHED = {
    3: ("0.761", "91.1", 273_258, "40.90"),
    5: ("1.391", "163.7", 468_138, "69.27"),
    7: ("2.021", "236.3", 663_018, "97.64"),
    9: ("2.651", "308.8", 857_898, "126.01"),
    18: ("5.487", "635.3", 1_734_858, "253.67"),
}


class PlainResNet(nn.Module):
    """ResNet of He et al. with 6 N + 2 layers, biases and 1 x 1 projections."""

    def __init__(self, blocks):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.blocks = nn.ModuleList()
        for into, out in pairwise([16] + [16] * blocks + [32] * blocks + [64] * blocks):
            stride = out // into
            self.blocks.append(
                nn.ModuleDict(
                    {
                        "conv1": nn.Conv2d(into, out, 3, stride, padding=1),
                        "bn1": nn.BatchNorm2d(out),
                        "conv2": nn.Conv2d(out, out, 3, padding=1),
                        "bn2": nn.BatchNorm2d(out),
                    }
                )
            )
            if stride > 1:
                self.blocks[-1]["conv0"] = nn.Conv2d(into, out, 1, stride)
                self.blocks[-1]["bn0"] = nn.BatchNorm2d(out)
        self.fc = nn.Linear(64, 10)

    def forward(self, images):
        x = functional.relu(self.bn(self.conv(images)))
        for block in self.blocks:
            y = functional.relu(block["bn1"](block["conv1"](x)))
            y = block["bn2"](block["conv2"](y))
            x = functional.relu(y + (block["bn0"](block["conv0"](x)) if "conv0" in block else x))
        return self.fc(functional.avg_pool2d(x, x.shape[-1]).flatten(1))

    def take(self, fabric):
        """The weights of the fabric's chain."""
        copy(self.conv, fabric.stem[0])
        copy(self.bn, fabric.stem[1])
        copy(self.fc, fabric.classifier)
        width = len(self.blocks) // 3
        for index, block in enumerate(self.blocks):
            name = f"stage{index // width + 1}_block{index % width + 1}"
            residual = fabric.fabric.edge_modules[f"{name}_residual"]
            for part, layer in zip(("conv1", "bn1", "conv2", "bn2"), (0, 1, 3, 4), strict=True):
                copy(block[part], residual[layer])
            if "conv0" in block:
                shortcut = fabric.fabric.edge_modules[f"{name}_shortcut"]
                copy(block["conv0"], shortcut[0])
                copy(block["bn0"], shortcut[1])


def copy(to, layer):
    to.load_state_dict(layer.state_dict())


def force(network, edges):
    with torch.no_grad():
        network.gate.logits.copy_(torch.where(edges, 50.0, -50.0))


def randomize(network):
    """Statistics and affine parameters that matter."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)


@pytest.mark.parametrize("width", PUBLISHED)
def test_published_sizes(width):
    parameters, multiply_adds, resnet_parameters, resnet_multiply_adds = PUBLISHED[width]
    with shapes_only():
        layout = ResNetFabric(width)
    gates = sum(gate.logits.numel() for gate in find_bernoulli_gates(layout).values())
    total = sum(p.numel() for p in layout.parameters()) - gates
    network = ResNetFabric(width)
    wiring = network.wiring()
    assert int(costs.parameters(wiring)) == int(costs.parameters(wiring, live=False)) == total
    assert f"{total / 1e6:.3f}" == parameters
    assert f"{int(costs.multiply_adds(wiring)) / 1e6:.1f}" == multiply_adds
    resnet = wiring.with_active(network.active_edges(network.resnet()))
    plain = sum(p.numel() for p in PlainResNet(width).parameters())
    assert int(costs.parameters(resnet)) == resnet_parameters == plain
    assert f"{int(costs.multiply_adds(resnet)) / 1e6:.2f}" == resnet_multiply_adds
    assert int(sequential_steps(wiring)) == 18 * width - 4
    assert int(sequential_steps(resnet)) == 6 * width + 4


@pytest.mark.parametrize("width", [1, 3, 5])
def test_contains_the_plain_resnet(width):
    torch.manual_seed(width)
    network, plain = ResNetFabric(width).double(), PlainResNet(width).double()
    randomize(network)
    plain.take(network)
    force(network, network.resnet())
    images = torch.randn(2, 3, 16, 16, dtype=torch.double)
    for mode in (True, False):
        logits, expected = network.train(mode)(images), plain.train(mode)(images)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    network.train()(images).square().sum().backward()
    plain.train()(images).square().sum().backward()
    gradients = sum(p.grad is not None for p in network.parameters())
    assert gradients == len(list(plain.parameters()))
    torch.testing.assert_close(network.stem[0].weight.grad, plain.conv.weight.grad)
    block = network.fabric.edge_modules["stage2_block1_residual"]
    torch.testing.assert_close(block[3].weight.grad, plain.blocks[width]["conv2"].weight.grad)
    torch.testing.assert_close(block[1].running_mean, plain.blocks[width]["bn1"].running_mean)
    compact = network.compact()
    assert sum(p.numel() for p in compact.parameters()) == sum(
        p.numel() for p in plain.parameters()
    )


@pytest.mark.parametrize("width", [7, 9, 18])
def test_deep_resnets_are_contained(width):
    torch.manual_seed(width)
    network, plain = ResNetFabric(width), PlainResNet(width).eval()
    plain.take(network)
    force(network, network.resnet())
    images = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(network.eval()(images), plain(images), atol=1e-5, rtol=1e-5)


def test_published_steps_on_several_machines():
    network = ResNetFabric(18)
    wiring = network.wiring()
    resnet = wiring.with_active(network.active_edges(network.resnet()))
    for machines, all_steps, steps in ((1, 320, 112), (2, 179, 110), (4, 110, 110)):
        assert int(sequential_steps(wiring, machines, "reverse_postorder")) == all_steps
        assert int(sequential_steps(resnet, machines, "reverse_postorder")) == steps


def test_connections_between_stages_are_mirrored():
    network = ResNetFabric(4)
    reads = {}
    for name in network.fabric.names:
        target, _, kind = name.rpartition(".")
        if kind.startswith("residual_from_"):
            reads.setdefault(target, []).append(kind.removeprefix("residual_from_"))
    assert reads == {
        "stage2.block1": ["stage1_block3", "stage1_block2"],
        "stage2.block2": ["stage1_block2", "stage1_block3", "stage1_block1"],
        "stage2.block3": ["stage1_block1", "stage1_block2", "stem"],
        "stage2.block4": ["stem", "stage1_block1"],
        "stage3.block1": ["stage2_block3", "stage2_block2"],
        "stage3.block2": ["stage2_block2", "stage2_block3", "stage2_block1"],
        "stage3.block3": ["stage2_block1", "stage2_block2", "stage1_block4"],
        "stage3.block4": ["stage1_block4", "stage2_block1"],
    }
    across = network.fabric.edge_modules["stage3_block4_residual_from_stage1_block4"]
    assert across[0].weight.shape == (64, 16, 3, 3)
    assert across[0].stride == (4, 4)


def test_residual_and_shortcut_are_edges_of_their_own():
    """Figure 3 of the paper shows positions of which only the shortcut is left."""
    network = ResNetFabric(2, image_size=8)
    chain = network.resnet()
    chain[network.fabric.names.index("stage1.block2.residual")] = False
    force(network, chain)
    names = network.compact().fabric.names
    assert "stage1.block2.shortcut" in names
    assert "stage1.block2.residual" not in names


def test_unconnected_examples_have_logits_of_zero():
    torch.manual_seed(0)
    network = ResNetFabric(1, initial=-0.5)
    nn.init.constant_(network.classifier.bias, 3.0)
    network.gate.seed(0)
    logits = network(torch.randn(64, 3, 8, 8))
    live = network.fabric.topology.live(network.gate.drawn).any(1)
    assert not live.all()
    assert live.any()
    assert logits[~live].eq(0).all()
    assert logits[live].ne(0).all()
    force(network, torch.zeros_like(network.resnet()))
    logits = network(torch.randn(3, 3, 8, 8))
    assert logits.eq(0).all()
    logits.sum().backward()  # a batch in which nobody is connected must not stop the training
    assert network.classifier.bias.grad.eq(0).all()
    assert network.eval()(torch.randn(3, 3, 8, 8)).eq(0).all()
    with pytest.raises(ValueError, match="does not connect the input to the output"):
        network.compact()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_compact_is_the_same_function_without_dead_parts(seed):
    torch.manual_seed(seed)
    network = ResNetFabric(3, image_size=16)
    randomize(network)
    nn.init.normal_(network.gate.logits, mean=0.3)
    images = torch.randn(2, 3, 16, 16)
    wiring, compact = network.wiring(), network.compact()
    logits = network.eval()(images)
    with FlopCounterMode(display=False) as counter:
        torch.testing.assert_close(compact(images[:1]), logits[:1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(compact(images), logits, atol=1e-5, rtol=1e-5)
    small = compact.wiring()
    assert small.live_nodes.all()
    assert not small.learnable.any()
    parameters = sum(p.numel() for p in compact.parameters())
    assert parameters == int(costs.parameters(wiring)) == int(costs.parameters(small))
    assert parameters < int(costs.parameters(wiring, live=False))
    additions = count_additions(compact, images[:1])
    counted = counter.get_total_flops() // 2 + additions
    assert counted == int(costs.multiply_adds(wiring)) == int(costs.multiply_adds(small))
    again = compact.compact()
    torch.testing.assert_close(again(images), compact(images))
    loss = compact.train()(images).square().sum()
    loss.backward()
    assert all(p.grad is not None for p in compact.parameters())


def count_additions(network, image):
    """Numbers that are added at nodes: maps that arrive, less the one that starts each sum."""
    fabric = network.fabric
    sides = {0: image.shape[-1]}
    for number, target in enumerate(fabric.target):
        origin, space = fabric.spaces[fabric.source[number]], fabric.spaces[target]
        sides[target] = sides[fabric.source[number]] * origin.reduction // space.reduction
    return sum(
        (fabric.target.count(node) - 1) * fabric.spaces[node].channels * sides[node] ** 2
        for node in set(fabric.target)
    )


def test_an_architecture_without_a_path_costs_nothing():
    """Edges that lead nowhere or come from nowhere are candidates all the same."""
    names = ["stage1.block1.residual", "stage1.block3.residual"]
    with pytest.warns(UserWarning, match="does not connect the input to the output with its 2"):
        network = ResNetFabric(3, architecture=names)
    wiring = network.wiring()
    assert int(costs.parameters(wiring)) == int(costs.multiply_adds(wiring)) == 0
    total = sum(p.numel() for p in network.parameters())
    assert int(costs.parameters(wiring, live=False)) == total
    assert network(torch.randn(2, 3, 8, 8)).eq(0).all()


def test_wiring_of_drawn_architectures():
    torch.manual_seed(0)
    network = ResNetFabric(2, image_size=8, initial=0.5)
    network(torch.randn(6, 3, 8, 8))
    drawn = network.gate.drawn
    batch = network.wiring().with_active(network.active_edges(drawn))
    prices = costs.parameters(batch)
    assert prices.shape == (6,)
    for row, price in zip(drawn, prices, strict=True):
        force(network, row)
        connected = network.fabric.topology.live(row.unsqueeze(0)).any()
        expected = sum(p.numel() for p in network.compact().parameters()) if connected else 0
        assert int(price) == expected


def test_scores_are_probabilities():
    network = ResNetFabric(1)
    nn.init.normal_(network.gate.logits)
    wiring = network.wiring()
    scores = wiring.score[wiring.learnable]
    torch.testing.assert_close(
        scores.sort().values, network.gate.logits.detach().sigmoid().sort().values
    )
    assert wiring.score[~wiring.learnable].eq(1).all()


def test_width_must_be_positive():
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        ResNetFabric(0)
