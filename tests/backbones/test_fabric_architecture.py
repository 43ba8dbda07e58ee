"""A fabric with a given architecture is the compact network of a search that found it."""

from collections.abc import Callable

import pytest
import torch

from wiring_lightning import costs
from wiring_lightning.backbones import ConvFabric, ResNetFabric

FABRICS: dict[str, Callable[..., ConvFabric | ResNetFabric]] = {
    "classification": lambda **more: ConvFabric(3, 4, 2, image_size=8, **more),
    "segmentation": lambda **more: ConvFabric(3, 4, 2, 5, "segmentation", image_size=8, **more),
    "residual": lambda **more: ResNetFabric(2, image_size=8, **more),
}


@pytest.fixture(params=FABRICS, name="build")
def any_fabric(request: pytest.FixtureRequest) -> Callable[..., ConvFabric | ResNetFabric]:
    return FABRICS[request.param]


def test_the_found_architecture_can_be_built(build) -> None:
    torch.manual_seed(0)
    searched = build()
    searched.gate.logits.data[2::4] = -1
    again = build(architecture=searched.architecture_names)
    assert 0 < len(again.fabric.names) < len(searched.fabric.names)
    again.load_state_dict(searched.compact().state_dict())
    images = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(again.eval()(images), searched.eval()(images))
    for cost in (costs.parameters, costs.multiply_adds, costs.sequential_steps):
        assert cost(again.wiring()) == cost(searched.wiring())
    assert again.architecture_names == searched.architecture_names


def test_a_given_architecture_is_not_searched(build) -> None:
    full = build(architecture="full").train()
    assert full.gate is None
    assert not full.wiring().learnable.any()
    assert full.fabric.names == build().fabric.names


def test_the_resnet_is_that_of_the_fabric() -> None:
    fabric, resnet = ResNetFabric(2), ResNetFabric(2, architecture="resnet")
    there = zip(fabric.fabric.names, fabric.resnet().tolist(), strict=True)
    assert list(resnet.fabric.names) == [name for name, kept in there if kept]


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (["column1.scale2.within", "nothing"], 'the edge "nothing", but this fabric has none'),
        (["column1.scale2.within"] * 2, "2 times"),
        ("resnet", "a known word or a list"),
    ],
)
def test_bad_architectures_are_refused(architecture: str | list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FABRICS["classification"](architecture=architecture)
