"""A tiny fit that writes event files, and what reads them back."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.trainers import quiet_trainer
from wiring_lightning.backbones import ResNeXt

BATCHES = 3


class Module(LightningModule):
    """Classifies noise; logs one metric per step, one per epoch and one of each kind."""

    def __init__(self, backbone: nn.Module, lr: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="backbone")
        self.backbone = backbone

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.backbone(batch[0]), batch[1])
        self.log("each_step", loss)
        self.log("each_epoch", float(self.current_epoch + 10), on_step=False, on_epoch=True)
        self.log("both", 1.0, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val", float(self.current_epoch + 20))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Without the scores, which some of the tests change themselves.
        weights = [p for name, p in self.named_parameters() if not name.endswith("scores")]
        return torch.optim.SGD(weights, lr=self.hparams["lr"], momentum=0.5)


class Noise(LightningDataModule):
    """A few images of noise."""

    batch_size = 2

    def loader(self) -> DataLoader[Any]:
        images, labels = torch.randn(2 * BATCHES, 1, 8, 8), torch.arange(2 * BATCHES) % 2
        return DataLoader(TensorDataset(images, labels), self.batch_size)

    train_dataloader = val_dataloader = loader


def backbone(wiring: str = "learned", fan_in: int = 2) -> ResNeXt:
    return ResNeXt(depth=11, width=1, cardinality=4, fan_in=fan_in, num_classes=2, in_channels=1,
                   image_size=8, wiring=wiring)  # fmt: skip


def fit(
    folder: Path,
    network: nn.Module,
    *callbacks: Callback,
    epochs: int = 2,
    ckpt_path: str | None = None,
    **arguments: Any,
) -> Module:
    arguments.setdefault("logger", TensorBoardLogger(folder, name="", version="run"))
    trainer = quiet_trainer(
        max_epochs=epochs, callbacks=[*callbacks], log_every_n_steps=1, limit_val_batches=1,
        **arguments,
    )  # fmt: skip
    module = Module(network)
    trainer.fit(module, Noise(), ckpt_path=ckpt_path)
    return module


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "run"), size_guidance={"images": 0}).Reload()


def numbers(folder: Path) -> dict[str, list[float]]:
    """All values by tag, of the tags of the monitor."""
    read = events(folder)
    tags = [tag for tag in read.Tags()["scalars"] if tag.startswith("wiring/")]
    return {tag: [event.value for event in read.Scalars(tag)] for tag in tags}
