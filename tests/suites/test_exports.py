"""Weights-only checkpoints and compacted networks are the whole network."""

from pathlib import Path

import pytest
import torch

from tests.methods import METHODS, Method, digits
from tests.trainers import quiet_trainer
from wiring_lightning import costs
from wiring_lightning.nn import Gate

methods = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def _logits(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(images)


@methods
def test_weights_only_checkpoint_in_a_bare_backbone_gives_the_same_logits(
    method: Method, tmp_path: Path
) -> None:
    task = method.task()
    trainer = quiet_trainer(callbacks=method.new_callbacks())
    trainer.fit(task, digits())
    trainer.strategy.save_checkpoint(
        trainer._checkpoint_connector.dump_checkpoint(weights_only=True), tmp_path / "w.ckpt"
    )
    saved = torch.load(tmp_path / "w.ckpt", weights_only=True)
    assert "callbacks" not in saved
    weights = {
        name.removeprefix("backbone."): value
        for name, value in saved["state_dict"].items()
        if name.startswith("backbone.")
    }
    torch.manual_seed(99)
    bare = method.backbone(**method.arguments)
    bare.load_state_dict(weights)
    images = torch.randn(5, 1, 8, 8)
    assert torch.equal(_logits(bare, images), _logits(task.backbone, images))


@methods
def test_compact_network_is_smaller_and_computes_the_same(method: Method) -> None:
    task = method.task()
    trainer = quiet_trainer(callbacks=method.new_callbacks())
    trainer.fit(task, digits())
    backbone = task.backbone
    compacted = backbone.compact()
    images = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(
        _logits(compacted, images), _logits(backbone, images), atol=1e-5, rtol=1e-5
    )
    assert not any(isinstance(module, Gate) for module in compacted.modules())
    assert sum(p.numel() for p in compacted.parameters()) == costs.parameters(backbone.wiring())
