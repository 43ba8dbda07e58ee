"""One weight under several names: all of them hold the same in what is saved."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import Tensor, nn

from tests.callbacks.reader import Reader, batches
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import (
    DNW,
    GradualPruning,
    NMSparsity,
    RigL,
    TargetedDropout,
    WiringError,
)


class Tied(Reader):
    """Two layers share one weight, and a third name of it is in a module of its own class."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.ModuleList(nn.Conv2d(8, 16, 3, padding=1) for _ in range(2))
        self.pair[1].weight = self.pair[0].weight
        self.third = nn.Module()
        self.third.register_parameter("kernel", self.pair[0].weight)

    def forward(self, images: Tensor) -> Tensor:
        first = self.first(images)
        return self.head((self.pair[0](first) + self.pair[1](first)).mean((2, 3)))


class Averaged(Tied):
    """Keeps a moving average of the two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.average = deepcopy(self.pair).requires_grad_(False)

    def on_train_batch_end(self, *_: Any) -> None:
        for own, value in zip(self.average.parameters(), self.pair.parameters(), strict=True):
            own.lerp_(value.detach(), 0.3)

    def configure_optimizers(self) -> Any:
        return self.make([p for p in self.parameters() if p.requires_grad])


class Saves(Callback):
    """Saves in the middle of the fit, where an average or what is dropped is not settled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)


NAMES = {
    "none": [["pair.0.weight", "pair.1.weight", "third.kernel"]],
    "inside": [
        ["pair.0.weight", "pair.1.weight", "third.kernel"],
        ["average.0.weight", "average.1.weight"],
    ],
}
LEARNERS: dict[str, Any] = {
    "TargetedDropout": lambda: TargetedDropout(density=0.2),
    "DNW": lambda: DNW(density=0.2),
    "RigL": lambda: RigL(density=0.2, delta_t=1),
    "GradualPruning": lambda: GradualPruning(density=0.2, every=1, until=0.4),
    "NMSparsity": lambda: NMSparsity(n=1, m=4, layers=["Conv2d"], exclude=["first"]),
}
AVERAGES: dict[str, Any] = {
    "none": lambda: [],
    "EMA": lambda: [EMAWeightAveraging(decay=0.7)],
    "SWA": lambda: [StochasticWeightAveraging(0.01, swa_epoch_start=1)],
    "inside": lambda: [],
}


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("learner", LEARNERS)
def test_all_names_of_a_weight_are_saved_with_what_was_settled(
    learner: str, average: str, tmp_path: Path
) -> None:
    module = Averaged() if average == "inside" else Tied()
    callbacks = [*AVERAGES[average](), LEARNERS[learner](), Saves(tmp_path / "a.ckpt")]
    data = torch.utils.data.DataLoader(batches(4, torch.float32), batch_size=None)
    quiet_trainer(callbacks=callbacks, max_epochs=2).fit(module, data)
    saved = torch.load(tmp_path / "a.ckpt", weights_only=False)["state_dict"]
    most = {"NMSparsity": 288}.get(learner, 230)  # of 1152
    for names in NAMES.get(average, NAMES["none"]):
        first, *others = (saved[name] for name in names)
        assert 0 < int(first.count_nonzero()) <= most
        assert all(torch.equal(first, other) for other in others)
    loaded = Averaged() if average == "inside" else Tied()
    loaded.load_state_dict(saved)
    assert int(loaded.pair[1].weight.count_nonzero()) <= most


@pytest.mark.parametrize("name", ["pair.0", "pair.1"])
def test_a_name_of_a_learned_weight_that_gets_another_one_is_an_error(name: str) -> None:
    class Unties(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            layer = pl_module.get_submodule(name)
            layer.weight = nn.Parameter(layer.weight.detach().clone())

    trainer = quiet_trainer(callbacks=[RigL(density=0.2), Unties()])
    data = torch.utils.data.DataLoader(batches(1, torch.float32), batch_size=None)
    with pytest.raises(WiringError, match=rf"{name}\.weight of the network were replaced"):
        trainer.fit(Tied(), data)
