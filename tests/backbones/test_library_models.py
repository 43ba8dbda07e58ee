"""Networks of timm and torchvision are those that the libraries build."""

import sys
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from tests.shapes import shapes_only
from tests.trainers import same_state
from wiring_lightning.backbones import timm_models, torchvision_models
from wiring_lightning.wiring import count_parameters


def built(make: Any, **arguments: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    return make(**arguments).state_dict()


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "efficientvit_m0"])
def test_a_network_of_timm_is_that_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    arguments = {"num_classes": 7, "in_chans": 1}
    theirs = built(lambda **given: timm.create_model(name, **given), **arguments)
    assert same_state(built(getattr(timm_models, name), **arguments), theirs)


def test_a_tag_names_the_same_network() -> None:
    pytest.importorskip("timm")
    tagged, plain = timm_models.builder("resnet10t.c3_in1k"), timm_models.builder("resnet10t")
    assert tagged is plain.c3_in1k  # type: ignore[attr-defined]
    assert same_state(built(tagged, num_classes=3), built(plain, num_classes=3))


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'wiring_lightning\[timm\]'"):
        timm_models.builder("resnet18")


def test_a_network_of_torchvision_is_that_of_torchvision() -> None:
    arguments = {"num_classes": 7, "zero_init_residual": True}
    theirs = built(torchvision.models.resnet18, **arguments)
    assert same_state(built(torchvision_models.resnet18, **arguments), theirs)


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x0_5", "swin_t"])
def test_in_chans_changes_the_first_layer_only(name: str) -> None:
    with shapes_only():
        theirs = torchvision.models.get_model(name, num_classes=7)
        ours = torchvision_models.builder(name)(num_classes=7, in_chans=1)
    first = next(layer for layer in theirs.modules() if isinstance(layer, nn.Conv2d))
    assert count_parameters(ours) == count_parameters(theirs) - first.weight[:, 1:].numel()
    changed = next(layer for layer in ours.modules() if isinstance(layer, nn.Conv2d))
    assert repr(changed) == repr(first).replace("Conv2d(3,", "Conv2d(1,")
    assert [*ours.state_dict()] == [*theirs.state_dict()]


def test_segmentation_downloads_no_weights_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    with shapes_only():
        network = torchvision_models.lraspp_mobilenet_v3_large(num_classes=2)
        with pytest.raises(ValueError, match="a download"):
            torchvision_models.resnet18(weights="DEFAULT")
    assert network(torch.zeros(1, 3, 32, 32, device="meta"))["out"].shape == (1, 2, 32, 32)


@pytest.mark.parametrize(
    ("make", "arguments", "said"),
    [
        ("resnet18", {"chanels": 1}, "takes no argument 'chanels'"),
        ("resnet18", {"weights": "NO_SUCH"}, r"cannot be built with \(weights='NO_SUCH'\)"),
        ("vit_b_16", {"image_size": 30}, "Input shape indivisible by patch size"),
        ("inception_v3", {"in_chans": 1, "transform_input": True}, "in_chans must be 3"),
    ],
)
def test_wrong_arguments_are_named(make: str, arguments: dict[str, Any], said: str) -> None:
    with shapes_only(), pytest.raises((TypeError, ValueError), match=said):
        torchvision_models.builder(make)(**arguments)


@pytest.mark.parametrize(
    ("name", "near"), [("resnet81", "resnet18"), ("fcn_resnet5", "fcn_resnet50")]
)
def test_a_wrong_name_lists_near_ones(name: str, near: str) -> None:
    with pytest.raises(AttributeError, match=rf"no network '{name}'; near ones are .*{near}"):
        torchvision_models.builder(name)


@pytest.mark.parametrize(
    ("name", "outputs", "kernel"), [("resnet18", 64, 7), ("regnet_y_400mf", 32, 3)]
)
@pytest.mark.parametrize("channels", [1, 13])
def test_the_first_layer_is_drawn_as_the_network_draws_it(
    name: str, outputs: int, kernel: int, channels: int
) -> None:
    network = torchvision_models.builder(name)(num_classes=2, in_chans=channels)
    layer = next(one for one in network.modules() if isinstance(one, nn.Conv2d))
    assert layer.in_channels == channels
    # Both draw by He et al., for the outputs; torch itself would draw for the inputs.
    deviation = (2 / (outputs * kernel**2)) ** 0.5
    five_errors = 5 * (0.5 / layer.weight.numel() + 0.5 / (3 * outputs * kernel**2)) ** 0.5
    assert float(layer.weight.std()) == pytest.approx(deviation, rel=five_errors)


def test_the_first_layer_keeps_everything_but_its_channels() -> None:
    before = nn.Conv2d(3, 6, (3, 5), stride=2, padding=(1, 2), dilation=2, groups=3,
                       padding_mode="reflect")  # fmt: skip
    network = nn.Sequential(nn.Sequential(before), nn.Conv2d(6, 2, 1))
    torchvision_models._take_channels(network, 6)
    layer = network[0][0]
    assert repr(layer) == repr(before).replace("Conv2d(3,", "Conv2d(6,")
    assert layer.weight.shape == (6, 2, 3, 5)
    assert torch.equal(layer.bias, before.bias)


@pytest.mark.parametrize(
    ("network", "key", "names"),
    [
        ("resnet18", "weights", "IMAGENET1K_V1, DEFAULT"),
        ("resnet50", "weights", "IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
        ("fcn_resnet50", "weights", "COCO_WITH_VOC_LABELS_V1, DEFAULT"),
        ("fcn_resnet50", "weights_backbone", "IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
    ],
)
def test_weights_that_do_not_exist_are_refused_with_those_that_do(
    network: str, key: str, names: str
) -> None:
    with pytest.raises(ValueError, match=f"{key} must be one of {names}, got 'WRONG'"):
        torchvision_models.builder(network)(**{key: "WRONG"})


def test_every_network_of_torchvision_tells_its_weights() -> None:
    for name in torchvision_models.names():
        with pytest.raises(ValueError, match=r"weights must be one of .*DEFAULT"):
            torchvision_models.builder(name)(weights="WRONG")


def test_the_long_name_of_weights_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, *_: object, **__: object) -> None:
        raise RuntimeError(url)

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    for name in ("IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"):
        with pytest.raises(RuntimeError, match="resnet18"):
            torchvision_models.resnet18(weights=name)
