"""Convolutional Neural Fabrics against the published numbers and a twin written scale by scale."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from wiring_lightning import costs
from wiring_lightning.backbones import ConvFabric
from wiring_lightning.costs import sequential_steps

# columns: parameters and multiply-adds of the 128-channel fabric, and its steps on 1, 2 and 4
# machines, as printed.
PUBLISHED = {
    1: ("0.744", "53.8", [12, 12, 12]),
    2: ("3.849", "406.2", [39, 26, 19]),
    4: ("8.580", "1010.3", [83, 47, 31]),
    8: ("18.042", "2218.6", [171, 90, 53]),
}


def twin(network, images, columns, scales, segmentation):
    """All edges, as the paper's appendix describes the grid."""
    modules = network.fabric.edge_modules

    def edge(kind, x, column, scale):
        name = f"column{column + 1}_scale{scale + 1}_{kind}"
        conv, norm = [m for m in modules[name] if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
        stride = 2 if kind == "down" or (kind == "within" and scale and not climbs(column)) else 1
        assert conv.kernel_size == (3, 3)
        if kind == "up" or (kind == "within" and climbs(column)):
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return norm(functional.conv2d(x, conv.weight, conv.bias, stride, padding=1))

    def climbs(column):
        return segmentation and column == columns - 1

    grid = {(0, 0): network.stem(images)}
    for column in range(columns):
        for scale in reversed(range(scales)) if climbs(column) else range(scales):
            if (column, scale) == (0, 0):
                continue
            total = 0
            if column > 0 and scale > 0:
                total = total + edge("down", grid[column - 1, scale - 1], column, scale)
            if column > 0:
                total = total + edge("same", grid[column - 1, scale], column, scale)
            if column > 0 and scale < scales - 1:
                total = total + edge("up", grid[column - 1, scale + 1], column, scale)
            if climbs(column) and scale < scales - 1:
                total = total + edge("within", grid[column, scale + 1], column, scale)
            elif not climbs(column) and column in (0, columns - 1) and scale > 0:
                total = total + edge("within", grid[column, scale - 1], column, scale)
            grid[column, scale] = functional.relu(total)
    if segmentation:
        return network.classifier(grid[columns - 1, 0])
    return network.classifier(grid[columns - 1, scales - 1].mean((2, 3)))


@pytest.mark.parametrize("columns", PUBLISHED)
def test_published_sizes(columns):
    parameters, multiply_adds, steps = PUBLISHED[columns]
    network = ConvFabric(columns, counting="printed")
    wiring = network.wiring()
    total = sum(p.numel() for p in network.parameters()) - len(network.gate.logits)
    assert int(costs.parameters(wiring)) == int(costs.parameters(wiring, live=False)) == total
    assert f"{total / 1e6:.3f}" == parameters
    assert f"{int(costs.multiply_adds(wiring)) / 1e6:.1f}" == multiply_adds
    assert [
        int(sequential_steps(wiring, machines, "reverse_postorder")) for machines in (1, 2, 4)
    ] == steps


def test_published_size_for_segmentation():
    """Table 4 of the paper: 35.614 billion multiply-adds at 256 x 256."""
    network = ConvFabric(8, 64, 9, 3, "segmentation", image_size=256, counting="printed")
    assert f"{int(costs.multiply_adds(network.wiring())) / 1e9:.3f}" == "35.614"


def test_segments_at_full_size():
    torch.manual_seed(0)
    network = ConvFabric(8, 2, 9, 3, "segmentation", image_size=256)
    logits = network(torch.randn(2, 3, 256, 256))
    assert logits.shape == (2, 3, 256, 256)
    functional.cross_entropy(logits, torch.zeros(2, 256, 256).long()).backward()
    assert network.stem[0].weight.grad.isfinite().all()


@pytest.mark.parametrize("segmentation", [False, True])
@pytest.mark.parametrize(("columns", "scales"), [(2, 3), (3, 4), (4, 1)])
def test_equals_the_twin(columns, scales, segmentation):
    torch.manual_seed(0)
    task = "segmentation" if segmentation else "classification"
    network = ConvFabric(columns, 4, scales, 5, task, image_size=8).double()
    network.gate.sampling = False
    images = torch.randn(3, 3, 8, 8, dtype=torch.double)
    expected = twin(network, images, columns, scales, segmentation)
    torch.testing.assert_close(network(images), expected)
    torch.testing.assert_close(
        network.eval()(images), twin(network, images, columns, scales, segmentation)
    )


def test_one_column_is_a_chain():
    network = ConvFabric(1, 4, 4, image_size=8).eval()
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(network(images), twin(network, images, 1, 4, False))


def test_doubling_last_is_another_function_with_fewer_multiply_adds():
    torch.manual_seed(0)
    last = ConvFabric(3, 4, 3, image_size=8, doubling="last")
    first = ConvFabric(3, 4, 3, image_size=8)
    conv, norm, _ = layers = last.fabric.edge_modules["column2_scale1_up"].eval()
    images = torch.randn(2, 4, 4, 4)
    small = norm(conv(images))
    torch.testing.assert_close(
        layers(images), small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    )
    layers = first.fabric.edge_modules["column2_scale1_up"]
    images = torch.randn(2, 4, 4, 4)
    conv, norm = layers[1], layers[2]
    doubled = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(layers.eval()(images), norm(conv(doubled)))
    costs_of = [int(costs.multiply_adds(network.wiring())) for network in (last, first)]
    up_edges = 2 * 9 * 4 * 4 * (4**2 + 2**2)  # two columns, from scales of 4 x 4 and 2 x 2
    assert costs_of[1] - costs_of[0] == 3 * up_edges


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_printed_counts_are_those_of_the_small_maps(task):
    """The network is the same; only what `wiring()` says of its doubling edges differs."""
    exact, printed, last = (
        ConvFabric(3, 4, 3, task=task, image_size=8, **options)
        for options in ({}, {"counting": "printed"}, {"doubling": "last"})
    )
    printed.load_state_dict(exact.state_dict())
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(printed.eval()(images), exact.eval()(images))
    compact = printed.compact()
    torch.testing.assert_close(compact(images), exact(images))
    counts = [int(costs.multiply_adds(n.wiring())) for n in (exact, printed, last, compact)]
    assert counts[0] > counts[1] == counts[2] == counts[3]
    both = ConvFabric(3, 4, 3, task=task, image_size=8, doubling="last", counting="printed")
    assert int(costs.multiply_adds(both.wiring())) == counts[2]


def test_a_single_example_trains_down_to_one_pixel():
    """At 1 x 1, batch norm of a subset of one example has no variance to take."""
    torch.manual_seed(0)
    network = ConvFabric(2, 4, 4, image_size=8)
    network(torch.randn(1, 3, 8, 8)).sum().backward()
    assert network.stem[0].weight.grad.isfinite().all()


def test_unconnected_examples_have_logits_of_zero():
    torch.manual_seed(0)
    network = ConvFabric(2, 4, 3, task="segmentation", image_size=8, initial=-1.0)
    nn.init.constant_(network.classifier.bias, 3.0)
    network.gate.seed(0)
    logits = network(torch.randn(32, 3, 8, 8))
    live = network.fabric.topology.live(network.gate.drawn).any(1)
    assert not live.all()
    assert live.any()
    assert logits[~live].eq(0).all()
    assert logits[live].ne(0).any((1, 2, 3)).all()


@pytest.mark.parametrize("task", ["classification", "segmentation"])
@pytest.mark.parametrize("seed", [0, 1])
def test_compact_is_the_same_function_without_dead_parts(task, seed):
    torch.manual_seed(seed)
    network = ConvFabric(4, 8, 4, 5, task, image_size=16)
    nn.init.normal_(network.gate.logits, mean=0.5)
    network.gate.sampling = False
    images = torch.randn(2, 3, 16, 16)
    for _ in range(3):
        network(images)  # running statistics that matter
    wiring, compact = network.wiring(), network.compact()
    logits = network.eval()(images)
    with FlopCounterMode(display=False) as counter:
        torch.testing.assert_close(compact(images[:1]), logits[:1], atol=1e-5, rtol=1e-5)
    small, fabric = compact.wiring(), compact.fabric
    parameters = sum(p.numel() for p in compact.parameters())
    assert parameters == int(costs.parameters(wiring)) == int(costs.parameters(small))
    assert parameters < int(costs.parameters(wiring, live=False))
    additions = sum(
        (fabric.target.count(node) - 1) * 8 * (16 // fabric.spaces[node].reduction) ** 2
        for node in set(fabric.target)
    )
    counted = counter.get_total_flops() // 2 + additions
    assert counted == int(costs.multiply_adds(wiring)) == int(costs.multiply_adds(small))
    assert small.live_nodes.all()
    torch.testing.assert_close(compact.compact()(images), compact(images))
    compact.train()(images).square().sum().backward()
    assert all(p.grad is not None for p in compact.parameters())


def test_a_compact_network_compiles_to_one_graph():
    network = ConvFabric(2, 4, 2, image_size=8).compact()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(compiled(images), network(images))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"columns": 0}, "columns must be at least 1, got 0"),
        ({"scales": 7}, "32 is not divisible by 64"),
        ({"image_size": 24}, "24 is not divisible by 32"),
        ({"columns": 1, "task": "segmentation"}, "at least 2 columns"),
        ({"columns": 1, "scales": 1}, "at least 2 scales"),
        ({"task": "detection"}, 'got "detection"'),
        ({"doubling": "never"}, 'got "never"'),
        ({"counting": "twice"}, 'counting must be "exact" or "printed", got "twice"'),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        ConvFabric(**arguments)
