"""DNW on a network of timm, in a project that knows nothing of this package, then exported."""

import tempfile
from pathlib import Path

import timm
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from wiring_lightning.callbacks import DNW

EPOCHS = 2


class DigitReader(LightningModule):
    """A plain LightningModule; nothing in it is about sparse weights."""

    def __init__(self) -> None:
        super().__init__()
        self.net = timm.create_model("test_resnet", in_chans=1, num_classes=10)

    def forward(self, images: Tensor) -> Tensor:
        """From images `[batch, 1, 16, 16]` to logits `[batch, 10]`."""
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Accuracy of the averaged weights."""
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> dict:
        """AdamW, with a cosine that ends with the training."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


seed_everything(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
images = nn.functional.interpolate(images, size=(16, 16))
every = TensorDataset(images, torch.tensor(digits.target))
train, val = torch.utils.data.random_split(every, [1500, 297])

folder = Path(tempfile.mkdtemp())
sparse = DNW(density=0.2)
best = ModelCheckpoint(folder, monitor="val_acc", mode="max")
average = EMAWeightAveraging(decay=0.9)
trainer = Trainer(
    max_epochs=EPOCHS, precision="bf16-mixed", callbacks=[sparse, average, best], logger=False
)
trainer.fit(DigitReader(), DataLoader(train, 64, shuffle=True), DataLoader(val, 297))

# The checkpoint holds the averaged weights, and of every layer exactly a fifth.
model = DigitReader().eval()
model.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
for name, layer in model.named_modules():
    if isinstance(layer, nn.Conv2d) and name != "net.conv1.0":
        share = float((layer.weight != 0).float().mean())
        assert share <= 0.2 + 1 / layer.weight.numel(), name
print(f"accuracy {float(best.best_model_score):.1%} with a fifth of the weights")

batch = torch.export.Dim("batch")
program = torch.export.export(model.net, (images[:2],), dynamic_shapes=({0: batch},))
torch.export.save(program, folder / "digits.pt2")
exported = torch.export.load(folder / "digits.pt2").module()
torch.testing.assert_close(exported(images[:8]), model(images[:8]))
