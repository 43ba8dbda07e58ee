"""A super-network of your own, with a cost of your own, searched within a budget."""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import wiring_lightning as wl

WIDTHS = [4, 8, 16, 32]


class Widths(LightningModule):
    """Four hidden layers side by side; the search decides which of them are there."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(64, width) for width in WIDTHS)
        self.outputs = nn.ModuleList(nn.Linear(width, 10) for width in WIDTHS)
        count = len(WIDTHS)  # the image is node 0 of the gate, and the logits are node 1
        self.gate = wl.nn.BernoulliGate(2, source=[0] * count, target=[1] * count)

    def forward(self, images: Tensor) -> Tensor:
        """Every image draws its own layers; evaluation uses the most probable ones."""
        drawn = self.gate.draw(len(images)).float().unsqueeze(-1)
        layers = zip(self.hidden, self.outputs, strict=True)
        return sum(
            drawn[:, i] * out(hidden(images).relu()) for i, (hidden, out) in enumerate(layers)
        )

    def wiring(self) -> wl.Wiring:
        """The one method that the search needs: what can be drawn."""
        graph = wl.WiringBuilder()
        image = graph.add_node("image")
        pairs = zip(WIDTHS, self.hidden, self.outputs, strict=True)
        layers = [graph.add_layers(f"width.{n}", *pair, side=1) for n, *pair in pairs]
        graph.draw([image] * len(layers), layers, self.gate.choice())
        graph.connect(layers, graph.add_node("logits"))
        return graph.wiring()

    def training_step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """The search needs the loss of each example beside their mean."""
        losses = nn.functional.cross_entropy(self(batch[0]), batch[1], reduction="none")
        return {"loss": losses.mean(), "losses": losses.detach()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The callback takes the logits of the gate out of this optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def joules(wiring: wl.Wiring) -> Tensor:
    """A cost of one's own: a fixed price per layer that is there, and one per parameter."""
    layers = wiring.live_nodes[..., 1:-1].sum(-1)
    return 0.5 * layers + 0.001 * wl.costs.parameters(wiring)


seed_everything(0)
digits = load_digits()
images = torch.tensor(digits.data, dtype=torch.float32) / 16
data = DataLoader(TensorDataset(images, torch.tensor(digits.target)), batch_size=64, shuffle=True)
model = Widths()
search = wl.callbacks.BudgetedSearch(budget=2.0, cost=joules, relative_penalty=3.0, lr=2.0)
trainer = Trainer(max_epochs=8, callbacks=[search], logger=False, enable_checkpointing=False)
trainer.fit(model, data)

best = model.wiring()
kept = [name for name, live in zip(best.nodes.names, best.live_nodes, strict=True) if live]
print(f"{kept[1:-1]} cost {float(joules(best)):.2f} of {search.budget}")
model.eval()
right = (model(images).argmax(1) == torch.tensor(digits.target)).float().mean()
print(f"and read {right:.1%} of the digits they trained on")
