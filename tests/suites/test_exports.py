"""Weights-only checkpoints and compacted networks are the whole network."""

from pathlib import Path

import torch
from torch import Tensor, nn

from tests.methods import METHODS, Method, digits, over
from tests.trainers import quiet_trainer
from wiring_lightning import costs
from wiring_lightning.nn import Adjacency, BernoulliGate, Gate
from wiring_lightning.tasks import ClassificationTask


def _trained(method: Method) -> tuple[ClassificationTask, Tensor]:
    """A network after one epoch, or as many as the method needs, and images to compare with."""
    task = method.task()
    trainer = quiet_trainer(callbacks=method.new_callbacks(), max_epochs=method.epochs)
    trainer.fit(task, digits())
    return task, torch.randn(5, 1, 8, 8)


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network.eval()(images)


@over(METHODS, "network")
def test_weights_only_checkpoint_in_a_bare_backbone_gives_the_same_logits(
    method: Method, tmp_path: Path
) -> None:
    task, images = _trained(method)
    task.trainer.save_checkpoint(tmp_path / "w.ckpt", weights_only=True)
    saved = torch.load(tmp_path / "w.ckpt", weights_only=True)
    assert "callbacks" not in saved
    weights = {
        name.removeprefix("backbone."): value
        for name, value in saved["state_dict"].items()
        if name.startswith("backbone.")
    }
    torch.manual_seed(99)
    bare = method.backbone(**method.arguments)
    expected = _logits(task.backbone, images)
    assert not torch.allclose(_logits(bare, images), expected, atol=0.01)
    bare.load_state_dict(weights)
    assert torch.equal(_logits(bare, images), expected)


@over(METHODS, "network")
def test_compact_network_is_smaller_and_computes_the_same(method: Method) -> None:
    task, images = _trained(method)
    backbone = task.backbone
    wiring, compacted = backbone.wiring(), backbone.compact()
    torch.testing.assert_close(
        _logits(compacted, images), _logits(backbone, images), atol=1e-5, rtol=1e-5
    )
    assert not any(isinstance(m, Gate | BernoulliGate | Adjacency) for m in compacted.modules())
    before, after = _size(backbone), _size(compacted)
    assert after == costs.parameters(wiring)
    dead = costs.parameters(wiring, live=False) - costs.parameters(wiring) + wiring.unlisted
    assert after < before if dead else after <= before


def _size(network: nn.Module) -> int:
    """Parameters of the network itself, without scores."""
    names = ("scores", "logits")
    return sum(p.numel() for name, p in network.named_parameters() if not name.endswith(names))
