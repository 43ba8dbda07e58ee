"""What a classification task tells callbacks about a step."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import functional

from tests.trainers import quiet_trainer
from wiring_lightning.data import Digits
from wiring_lightning.tasks import ClassificationTask


class Outputs(Callback):
    """Keeps what `training_step` hands on, and the batch that it came from."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append((outputs, *batch))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_every_example_has_its_own_loss(smoothing: float) -> None:
    class Flat(nn.Module):
        num_classes = 10

        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.arange(10.0) / 5)

        def forward(self, images: Tensor) -> Tensor:
            return images.mean((1, 2, 3))[:, None] + self.bias

    class Still(ClassificationTask):
        def configure_optimizers(self) -> None:
            """Nothing moves, so that the losses can be computed again afterwards."""

    task = Still(Flat(), label_smoothing=smoothing)
    outputs = Outputs()
    trainer = quiet_trainer(callbacks=[outputs], limit_train_batches=1)
    trainer.fit(task, Digits(batch_size=16))
    [(step, images, labels)] = outputs.seen
    log_share = task(images).double().log_softmax(1)
    target = functional.one_hot(labels, 10) * (1 - smoothing) + smoothing / 10
    by_hand = -(target * log_share).sum(1)
    assert not step["losses"].requires_grad
    torch.testing.assert_close(step["losses"].double(), by_hand, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(step["loss"].double(), by_hand.mean(), atol=1e-5, rtol=1e-5)
