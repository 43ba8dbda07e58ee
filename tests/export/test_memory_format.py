"""Networks whose convolutions are stored in channels_last, as folded ones are, become files."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.export.networks import images_for, made
from tests.methods import named
from wiring_lightning.export import export_network, load_exported

NAMES = ["resnet-learned", "resnet-fabric", "conv-fabric"]
SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "suffix",
    [".safetensors", pytest.param(".pt2", marks=SLOW), pytest.param(".onnx", marks=SLOW)],
)
def test_a_folded_network_is_exported(name: str, suffix: str, tmp_path: Path) -> None:
    pytest.importorskip(
        {".onnx": "onnxruntime", ".safetensors": "safetensors"}.get(suffix, "torch")
    )
    method = named(name)
    folded = made(method).eval().compact(fold_batch_norm=True)
    assert any(not weight.is_contiguous() for weight in folded.parameters())
    images = images_for(method)
    export_network(folded, tmp_path / f"net{suffix}", images)
    loaded = load_exported(tmp_path / f"net{suffix}", trust=True)
    for count in (1, 5):
        with torch.no_grad():
            found, expected = loaded(images[:count]), folded(images[:count])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_layout_of_weights_changes_nothing_else(name: str) -> None:
    method = named(name)
    network, images = made(method).eval(), images_for(method)
    folded: nn.Module = network.compact(fold_batch_norm=True)
    usual: nn.Module = network.compact(fold_batch_norm=True).to(
        memory_format=torch.contiguous_format
    )
    assert all(weight.is_contiguous() for weight in usual.parameters())
    usual.load_state_dict(folded.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(usual(images), folded(images), atol=1e-5, rtol=1e-5)
