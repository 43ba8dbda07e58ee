"""The architecture of the ResNeXt."""

from itertools import chain
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tests.backbones.small_resnext import DEPTH, WIDTH, WIRINGS, C, own_parameters
from tests.shapes import shapes_only
from wiring_lightning import costs
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.nn import Branches


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
    with shapes_only():
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
    with shapes_only():
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


def test_what_somebody_keeps_of_a_modules_outputs_outlives_the_backward_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kept in an attribute, without any hook, as a subclass of `Branches` could."""
    kept, forward = [], Branches.forward

    def keep(block: Branches, inputs: Tensor) -> Tensor:
        outputs = forward(block, inputs)
        if not block.merge:
            kept.append((outputs.detach(), outputs.detach().clone()))
        return outputs

    monkeypatch.setattr(Branches, "forward", keep)
    ResNeXt(DEPTH, WIDTH, C, 2)(torch.randn(2, 3, 32, 32)).sum().backward()
    assert len(kept) > 1
    assert all(torch.equal(now, before) for now, before in kept)
