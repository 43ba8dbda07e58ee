"""A model that notes what it is trained on, to compare a resumed run with an unbroken one."""

from typing import Any

import torch
from lightning.pytorch import LightningModule


class Recorder(LightningModule):
    """A linear model that notes each batch it is trained on.

    Args:
        pixels: numbers in an image.
        estimate_steps: whether to ask how many steps there will be, which makes Lightning drop the
            state of the loaders.
        fail_at: epoch and batch in which the training breaks.
    """

    def __init__(
        self, pixels: int, estimate_steps: bool = False, fail_at: tuple[int, int] | None = None
    ):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(pixels))
        self.estimate_steps = estimate_steps
        self.fail_at = fail_at
        self.seen: list[Any] = []

    def training_step(self, batch, batch_idx):
        images, labels = batch
        if self.fail_at == (self.current_epoch, batch_idx):
            raise RuntimeError("power cut")
        self.seen.append((self.current_epoch, batch_idx, labels.tolist(), images.sum().item()))
        return ((images.flatten(1) @ self.weight - 1) ** 2).mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        if self.estimate_steps:
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def assert_continues(full: Recorder, resumed: Recorder, step: int) -> None:
    assert resumed.seen == full.seen[step:]
    assert torch.equal(resumed.weight, full.weight)
