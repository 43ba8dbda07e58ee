"""Weights-only checkpoints and compacted networks are the whole network."""

from pathlib import Path

import torch
from torch import Tensor, nn

from tests.methods import METHODS, Method, digits, over
from tests.shallow import shallow
from tests.trainers import quiet_trainer
from wiring_lightning import costs
from wiring_lightning.nn import Adjacency, BernoulliGate, Gate
from wiring_lightning.tasks import ClassificationTask


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network.eval()(images)


@over([shallow(method) for method in METHODS], "network")
def test_a_trained_network_is_in_its_weights_only_checkpoint_and_in_its_compact_form(
    method: Method, tmp_path: Path
) -> None:
    task, images = method.task(), torch.randn(5, 1, 8, 8)
    trainer = quiet_trainer(
        callbacks=method.new_callbacks(), max_epochs=method.epochs, limit_train_batches=4
    )
    trainer.fit(task, digits())
    trainer.save_checkpoint(tmp_path / "w.ckpt", weights_only=True)
    _check_bare(method, task, images, tmp_path / "w.ckpt")
    _check_compact(task.backbone, images)


def _check_bare(method: Method, task: ClassificationTask, images: Tensor, file: Path) -> None:
    """A backbone alone gives the same logits with these weights."""
    saved = torch.load(file, weights_only=True)
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


def _check_compact(backbone: nn.Module, images: Tensor) -> None:
    """It is smaller if anything was dead, has no gates, and computes the same."""
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
