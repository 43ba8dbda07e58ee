"""Layers that read earlier layers: a small language model of which every block chooses its inputs.

In a residual network, a block reads the sum of what all layers before it have added. Here it reads
K of them, and MaskConnect learns which. The text ships with Python: the topics of its `help()`.
"""

import pydoc_data.topics
from typing import Literal

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

import wiring_lightning as wl

BYTES, CONTEXT = 256, 32


class Block(nn.Module):
    """Attention to earlier bytes, then two linear layers; what both add to the input."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.shrink = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[batch, length, width]` -> the same shape."""
        parts = self.attention(self.attention_norm(inputs)).unflatten(2, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each [batch, heads, length, features]
        read = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        attended = self.mixed(read.transpose(1, 2).flatten(2))
        hidden = functional.gelu(self.expand(self.norm(inputs + attended)))
        return attended + self.shrink(hidden)


class LanguageModel(nn.Module):
    """Blocks that read the outputs of earlier layers, each multiplied by a coefficient.

    Args:
        wiring: `"learned"` (K outputs, for `callbacks.MaskConnect`), `"random"` (K that stay),
            `"all"` (the plain residual network, all coefficients 1) or `"weighted"` (all, with
            learned coefficients that start at 1, as in DenseFormer).
        fan_in: K.
        beside: whether a block reads the plain sum too. The coefficients of its K edges then start
            at 0.05, otherwise at 1.
        layers: number of blocks.
        width: features of a layer.
    """

    def __init__(
        self,
        wiring: Literal["learned", "random", "all", "weighted"] = "learned",
        fan_in: int = 2,
        beside: bool = False,
        layers: int = 12,
        width: int = 32,
    ) -> None:
        super().__init__()
        self.beside = beside
        self.letters, self.places = nn.Embedding(BYTES, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, BYTES))
        start = torch.full((layers, layers), 0.05 if beside else 1.0)
        self.strength = nn.Parameter(start, requires_grad=wiring != "all")
        self.gate = None
        if wiring in ("learned", "random"):  # block i has i + 1 candidates: embedding and blocks
            before = torch.ones(layers, layers).tril().bool()
            self.gate = wl.nn.Gate(layers, layers, fan_in, mode=wiring, usable=before)

    def coefficients(self) -> Tensor:
        """`[block, earlier layer]` what each block multiplies each earlier output by."""
        edges = self.strength if self.gate is None else self.gate.weights() * self.strength
        return edges + 1 if self.beside else edges

    def forward(self, text: Tensor) -> Tensor:
        """`[batch, length]` bytes -> `[batch, length, 256]` logits of each next byte."""
        outputs = [self.letters(text) + self.places.weight[: text.shape[1]]]
        for block, row in zip(self.blocks, self.coefficients(), strict=True):
            outputs.append(block(torch.tensordot(row[: len(outputs)], torch.stack(outputs), 1)))
        return self.head(torch.stack(outputs).sum(0))  # which reads all layers

    def wiring(self) -> wl.Wiring:
        """What the blocks read in evaluation mode; `beside` the sum, the edges of the gate."""
        graph, count = wl.WiringBuilder(), wl.wiring.count_parameters
        layers = [graph.add_node("embedding", count(self.letters, self.places))]
        layers += [
            graph.add_node(f"block{i}", count(block)) for i, block in enumerate(self.blocks, 1)
        ]
        graph.add_node("head", count(self.head), reads=layers)
        if self.gate is not None:
            graph.choose(layers[:-1], layers[1:], self.gate.choice())
        else:
            for i in range(1, len(layers)):
                graph.connect(layers[:i], layers[i])
        return graph.wiring()


class NextByte(LightningModule):
    """Nothing here knows that the wiring learns."""

    def __init__(self, network: LanguageModel) -> None:
        super().__init__()
        self.network = network

    def loss(self, text: Tensor) -> Tensor:
        """Nats per byte."""
        return functional.cross_entropy(self.network(text[:, :-1]).mT, text[:, 1:])

    def training_step(self, text: Tensor) -> Tensor:
        """Text `[batch, CONTEXT + 1]`: every byte but the first is to be predicted."""
        return self.loss(text)

    def validation_step(self, text: Tensor) -> None:
        """The same for text that is not trained on."""
        self.log("nats", self.loss(text), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The callback takes the gate's scores out of this optimizer."""
        return torch.optim.Adam(self.parameters(), lr=6e-3)


def read_text() -> tuple[Tensor, Tensor]:
    """Windows `[count, CONTEXT + 1]` of bytes to train on, and the last tenth to validate on.

    Windows to train on start at every byte; those to validate on do not overlap.
    """
    topics = "\n\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    text = torch.tensor(list(topics.encode()))
    cut = len(text) * 9 // 10
    size = CONTEXT + 1
    return text[:cut].unfold(0, size, 1), text[cut:].unfold(0, size, size)


if __name__ == "__main__":
    seed_everything(0)
    training, validation = read_text()
    network = LanguageModel(wiring="learned", fan_in=2)
    trainer = Trainer(
        max_epochs=3,
        limit_train_batches=40,
        limit_val_batches=3,
        callbacks=[wl.callbacks.MaskConnect(lr=5.0, update="project", freeze_epoch=2)],
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(
        NextByte(network),
        DataLoader(training, batch_size=16, shuffle=True),
        DataLoader(validation, batch_size=128),
    )
    for i, row in enumerate(network.gate.best):  # number 0 is the embedding
        print(f"block {i + 1} reads {row.nonzero().flatten().tolist()}")
    wl.plots.save_figure(wl.plots.draw_wiring(network.wiring()), "language_model.png")
