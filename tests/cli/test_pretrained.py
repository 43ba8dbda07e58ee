"""Runs that began with pretrained weights: what is read again is the network that was trained."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import segmentation

import wiring_lightning as wl
from tests.cli.commands import write
from wiring_lightning.backbones import torchvision_models
from wiring_lightning.backbones._downloads import without_downloads
from wiring_lightning.nn.outputs import find_outputs


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be downloaded."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


def pretrained(
    entry: Callable[..., nn.Module], weights: dict[str, Tensor], **arguments: Any
) -> nn.Module:
    """What torchvision builds of its weights, if these are what it downloads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: weights)
        return entry(weights="DEFAULT", **arguments).eval()


def run_of(network: nn.Module, path: str, folder: Path, **arguments: Any) -> Path:
    """The folder of a run in which a network was trained."""
    backbone = {"class_path": path, "init_args": arguments}
    segments = "deeplab" in path or "fcn" in path
    task = "SegmentationTask" if segments else "ClassificationTask"
    model = {"class_path": task, "init_args": {"backbone": backbone}}
    write({"model": model, "data": "Digits"}, folder / "config.yaml")
    state = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "global_step": 1}, folder / "last.ckpt")
    return folder


@torch.no_grad()
def check_same(loaded: nn.Module, trained: nn.Module, size: int) -> None:
    """Both give the same logits for images, and nothing was taken for random first values."""
    images = torch.randn(2, 3, size, size)
    found, wanted = (find_outputs(one(images), "it").logits for one in (loaded, trained))
    assert torch.equal(found, wanted)
    assert wanted.std() > 0


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("entry", "arguments", "auxiliary", "size"),
    [
        (torchvision.models.inception_v3, {}, True, 75),
        (torchvision.models.googlenet, {}, False, 32),
        (torchvision.models.googlenet, {"aux_logits": True}, True, 32),
        (segmentation.deeplabv3_mobilenet_v3_large, {}, True, 32),
    ],
)
def test_what_torchvision_derives_from_weights_is_there_again(
    entry: Any, arguments: dict[str, Any], auxiliary: bool, size: int, tmp_path: Path
) -> None:
    segments = entry is segmentation.deeplabv3_mobilenet_v3_large
    plain = {"aux_loss": True, "weights_backbone": None} if segments else {"init_weights": False}
    trained = pretrained(entry, entry(weights=None, **plain).state_dict(), **arguments)
    assert any(name.lower().startswith("aux") for name in trained.state_dict()) is auxiliary
    path = f"torchvision:{entry.__name__}"
    folder = run_of(trained, path, tmp_path, weights="DEFAULT", **arguments)
    with warnings.catch_warnings(action="error", category=UserWarning):
        loaded: Any = wl.load(folder)  # not a word of heads that are not pretrained
    check_same(loaded, trained, size)
    wanted = getattr(trained, "transform_input", None)
    assert getattr(loaded.backbone, "transform_input", None) is wanted
    assert wanted is (None if segments else True)


@pytest.mark.usefixtures("no_network")
def test_what_timm_derives_from_weights_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm")
    with monkeypatch.context() as patch:
        patch.setattr(timm.models._builder, "load_pretrained", lambda *_, **__: None)
        trained = timm.create_model("fbnetc_100", pretrained=True, num_classes=5).eval()
    for name in ("load_state_dict_from_hf", "load_state_dict_from_url"):  # no download
        monkeypatch.setattr(timm.models._builder, name, None)
    folder = run_of(trained, "timm:fbnetc_100", tmp_path, pretrained=True, num_classes=5)
    loaded: Any = wl.load(folder)
    check_same(loaded, trained, 32)
    assert loaded.backbone.bn1.eps == trained.bn1.eps == 1e-3


def test_an_argument_that_only_begins_like_weights_is_there_again(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    small: dict[str, Any] = {
        "img_size": 32, "window_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1],
        "num_classes": 5, "pretrained_window_sizes": [2, 2],
    }  # fmt: skip
    trained = timm.create_model("swinv2_tiny_window8_256", **small).eval()
    for weight in trained.parameters():
        nn.init.normal_(weight)  # the first ones leave its attention out
    folder = run_of(trained, "timm:swinv2_tiny_window8_256", tmp_path, **small)
    check_same(wl.load(folder), trained, 32)


def test_networks_of_other_code_are_built_with_their_weights_again() -> None:
    """What was put in the place of loading weights is gone, also after an error."""
    before = nn.Module.load_state_dict
    with without_downloads(), pytest.raises(ValueError, match="num_classes"):
        torchvision_models.resnet18(weights="DEFAULT", num_classes=3)
    assert nn.Module.load_state_dict is before
    layer = nn.Linear(2, 2)
    layer.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.ones(2)})
    assert layer.bias.tolist() == [1, 1]
