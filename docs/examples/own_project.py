"""MaskConnect in a Lightning project of your own: put a gate between blocks, add the callback."""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from wiring_lightning.callbacks import MaskConnect
from wiring_lightning.nn import Gate

BLOCKS, CHANNELS = 8, 8


class DigitReader(LightningModule):
    """Two rows of eight convolutions; each of the second row reads two of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, BLOCKS * CHANNELS, 3, padding=1)
        self.gate = Gate(targets=BLOCKS, candidates=BLOCKS, fan_in=2)
        self.second = nn.Conv2d(BLOCKS * CHANNELS, BLOCKS * CHANNELS, 3, padding=1, groups=BLOCKS)
        self.classifier = nn.Linear(BLOCKS * CHANNELS, 10)

    def forward(self, images: Tensor) -> Tensor:
        """The gate turns `[batch, candidates, ...]` into `[batch, targets, ...]`."""
        sources = self.first(images).relu().unflatten(1, (BLOCKS, CHANNELS))
        hidden = self.second(self.gate(sources).flatten(1, 2)).relu()
        return self.classifier(hidden.mean((2, 3)))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Nothing here knows that the wiring learns."""
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The callback takes the gate's scores out of this optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=0.02)


seed_everything(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
data = DataLoader(TensorDataset(images, torch.tensor(digits.target)), batch_size=64, shuffle=True)
model = DigitReader()
trainer = Trainer(
    max_epochs=12,
    callbacks=[MaskConnect(lr=1.0, freeze_epoch=8)],
    logger=False,
    enable_checkpointing=False,
)
trainer.fit(model, data)

# The wiring is frozen now. It is part of `model.state_dict()`, like the weights.
for target, row in enumerate(model.gate.best):
    print(f"block {target} of row 2 reads {row.nonzero().flatten().tolist()} of row 1")
unread = (~model.gate.best.any(dim=0)).nonzero().flatten().tolist()
print(f"nobody reads {unread} of row 1")
