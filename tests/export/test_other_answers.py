"""Networks whose logits are in a mapping, a tuple or an object, as those that the tasks take."""

from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.fcn import FCN, FCNHead

from wiring_lightning.export import ExportError, export_network, load_exported

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Named = namedtuple("Named", ["aux", "logits"])
ANSWERS = {
    "out": lambda logits: OrderedDict(aux=2 * logits, out=logits),
    "logits": lambda logits: {"logits": logits, "hidden": logits[:, :1]},
    "tuple": lambda logits: (logits, logits[:, :1]),
    "named": lambda logits: Named(2 * logits, logits),
}


class Answering(nn.Module):
    """Gives its logits in one of several ways."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 4, 3, padding=1), how

    def forward(self, images: Tensor) -> Any:
        return self.how(self.conv(images))


# The answer is looked into while tracing, whatever the format is.
@pytest.mark.parametrize(
    ("kind", "suffix"),
    [*((kind, ".safetensors") for kind in ANSWERS), ("out", ".pt2"), ("out", ".onnx")],
)
def test_the_file_gives_the_logits(kind: str, suffix: str, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    network = Answering(ANSWERS[kind])
    done = export_network(network, tmp_path / f"net{suffix}", IMAGES)
    assert done.agreement == 1
    found = load_exported(tmp_path / f"net{suffix}", trust=True)(IMAGES)
    torch.testing.assert_close(found, network.conv(IMAGES), atol=1e-5, rtol=1e-5)


def test_an_answer_without_logits_is_one_sentence(tmp_path: Path) -> None:
    network = Answering(lambda logits: {"boxes": logits})
    with pytest.raises(ExportError, match=r"^Answering gives a dict with boxes, .*\.$") as said:
        export_network(network, tmp_path / "net.pt2", IMAGES)
    assert "\n" not in str(said.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "how",
    [
        lambda logits: logits.mean((1, 2, 3)),
        lambda logits: logits.mean(),
        lambda logits: logits[:, :, :0],
        lambda logits: logits.flatten(1)[:, :0],
    ],
)
def test_an_answer_without_classes_is_one_sentence(how: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^Answering gives an answer of shape \[.*\]: .*\.$"):
        export_network(Answering(how), tmp_path / "net.safetensors", IMAGES)
    assert not list(tmp_path.iterdir())


def test_a_network_of_torchvision_for_pixels(tmp_path: Path) -> None:
    classes, features = 3, nn.Sequential(OrderedDict(out=nn.Conv2d(3, 8, 3, stride=2)))
    network = FCN(IntermediateLayerGetter(features, {"out": "out"}), FCNHead(8, classes)).eval()
    done = export_network(network, tmp_path / "net.safetensors", torch.randn(3, 3, 32, 32))
    assert done.agreement == 1
    assert done.network(torch.randn(1, 3, 32, 32)).shape == (1, classes, 32, 32)
