"""Lightning's finders try some steps and go back, also to the first weights of absent edges."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, LearningRateFinder
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from tests.trainers import quiet_trainer
from wiring_lightning.backbones import NeuralGraph
from wiring_lightning.callbacks import DNW, L1Anneal, PruneAndRetrain
from wiring_lightning.tasks import ClassificationTask


class Data(LightningDataModule):
    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    @override
    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(32, 1, 8, 8, generator=generator)
        return DataLoader(TensorDataset(images, torch.arange(32) % 10), self.batch_size)


class Rated(ClassificationTask):
    lr = 0.1

    @override
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(learner: Callback, finder: list[Callback], batch_size: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    task = Rated(NeuralGraph(nodes=60, inputs=4, outputs=8, edges=300, in_channels=1, image_size=8))
    trainer = quiet_trainer(max_epochs=3, callbacks=[learner, *finder])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about its loaders
        trainer.fit(task, Data(batch_size))
    return dict(task.state_dict())


FINDERS: dict[str, Callable[[], tuple[Callback, int]]] = {
    "batch size": lambda: (BatchSizeFinder(init_val=8, max_trials=1, steps_per_trial=1), 4),
    "rate": lambda: (LearningRateFinder(num_training_steps=3, update_attr=False), 16),
}


@pytest.mark.parametrize("finder", FINDERS)
@pytest.mark.parametrize(
    "make",
    [DNW, lambda: PruneAndRetrain(1, rewind=True), lambda: L1Anneal(freeze_epoch=2)],
    ids=["DNW", "PruneAndRetrain", "L1Anneal"],
)
def test_a_graph_learns_after_a_finder_as_without_one(
    make: Callable[[], Callback], finder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    found, first = FINDERS[finder]()
    with_finder = fitted(make(), [found], first)
    size = getattr(found, "optimal_batch_size", None) or first
    plain = fitted(make(), [], size)
    for name, value in plain.items():
        assert torch.equal(with_finder[name], value), name
