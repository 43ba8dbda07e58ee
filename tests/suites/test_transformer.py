"""A transformer, from sparse training to an exported file: each step computes the same."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from tests.methods import digits
from tests.nn.sparse_layers import sparse_is_faster
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import DNW, RigL
from wiring_lightning.export import export_network, load_exported
from wiring_lightning.nn import SparseLinear, remove_dead_channels, store_sparse
from wiring_lightning.tasks import ClassificationTask


class Own(nn.Module):
    """Torch's encoder over patches of 2 x 2 pixels; in evaluation it runs as one operator."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 2, 2)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(self.encoder(tokens).mean(1))


class OfTorchvision(nn.Module):
    """Its layers are called one by one."""

    def __init__(self) -> None:
        super().__init__()
        vision_transformer = pytest.importorskip("torchvision.models.vision_transformer")
        self.net = vision_transformer.VisionTransformer(8, 2, 1, 4, 16, 32, num_classes=10)
        nn.init.normal_(self.net.heads.head.weight)  # it begins as zeros

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.expand(-1, 3, -1, -1))


NETWORKS = {"own": Own, "torchvision": OfTorchvision}
LEARNERS: dict[str, Callable[[], Callback]] = {
    "DNW": lambda: DNW(density=0.15, layers=["Linear", "*.in_proj_weight"]),
    "RigL": lambda: RigL(density=0.15, delta_t=2, total_steps=6),
}
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def trained(network: nn.Module, learner: Callback) -> nn.Module:
    trainer = quiet_trainer(callbacks=[learner], limit_train_batches=6)
    trainer.fit(ClassificationTask(network), digits())
    return network.eval()


def logits(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network(IMAGES)


@pytest.mark.parametrize(
    ("name", "learner"),
    [("own", "DNW"), pytest.param("torchvision", "RigL", marks=pytest.mark.slow)],
)
def test_every_step_computes_the_same(name: str, learner: str, tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    pytest.importorskip("safetensors")
    torch.manual_seed(0)
    network = trained(NETWORKS[name](), LEARNERS[learner]())
    projections = [p for key, p in network.named_parameters() if key.endswith("in_proj_weight")]
    (projection,) = projections
    # It is sparse only where a pattern names it.
    assert bool((projection == 0).any()) == (learner == "DNW")
    expected = logits(network)
    assert expected.std() > 1e-2
    small = remove_dead_channels(network, IMAGES)
    packed = store_sparse(small, IMAGES, sparse_is_faster())
    for changed in (small, packed, deepcopy(packed)):
        torch.testing.assert_close(logits(changed), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            changed(IMAGES), expected, atol=1e-5, rtol=1e-5
        )  # with gradients
    kept = [key for key, layer in packed.named_modules() if isinstance(layer, SparseLinear)]
    assert len(kept) == (1 if name == "own" else 3)  # the head, and layers that are called
    export_network(packed, tmp_path / "net.safetensors", IMAGES)
    assert isinstance(packed.get_submodule(kept[0]), SparseLinear)  # it was left as it is
    loaded = load_exported(tmp_path / "net.safetensors")
    torch.testing.assert_close(logits(loaded), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "suffix"), [("own", ".onnx"), ("torchvision", ".pt2")])
def test_other_formats(name: str, suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = trained(NETWORKS[name](), DNW(density=0.15))
    packed = store_sparse(network, IMAGES, sparse_is_faster())
    path = tmp_path / f"net{suffix}"
    export_network(packed, path, IMAGES)
    found = logits(load_exported(path, trust=True))
    torch.testing.assert_close(found, logits(network), atol=1e-4, rtol=1e-4)
