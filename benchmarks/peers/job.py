"""The job that all tools do: a small network on digits, in the same order of batches."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

SPARSE_LAYERS = ("first", "second", "third", "last")
DENSITY = 0.1
EPOCH = 20  # batches
BATCH = 64
EVERY = 10  # steps from one change of the masks to the next
UNTIL = 0.75  # the share of the training after which nothing changes
OPTIMIZER: dict[str, float] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}


@dataclass(frozen=True)
class Plan:
    """How the job is done once.

    Args:
        epochs: of `EPOCH` steps each.
        save: where a checkpoint is written.
        save_epoch: after how many epochs.
        resume: the checkpoint with which the run begins.
        resume_epoch: how many epochs are done in it.
        average: whether an average of the weights is kept beside the training.
        backend: with which the network is compiled, if it is.
        skip: the step (from 0) whose loss is infinite, with a gradient scaler that skips it.
        rank: of this process.
        world: number of processes, which share each batch.
    """

    epochs: int = 6
    save: Path | None = None
    save_epoch: int = 3
    resume: Path | None = None
    resume_epoch: int = 3
    average: bool = False
    backend: str | None = None
    skip: int | None = None
    rank: int = 0
    world: int = 1

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.epochs * EPOCH

    @property
    def dtype(self) -> torch.dtype:
        """Float64, so that two orders of a sum hardly differ; scalers want float32."""
        return torch.float64 if self.skip is None else torch.float32


@dataclass
class Outcome:
    """What one run left.

    Args:
        weights: the weights that the trained network computes with, by layer.
        state: the `state_dict` of the network in the checkpoint, if one was written.
        finished: the `state_dict` of the network that is handed over at the end.
        average: as `weights`, of the average.
        graphs: how many graphs were compiled in training.
        breaks: how many breaks these graphs have.
        compiled_error: largest difference of logits between the compiled network and one without
            the tool that has the same weights.
        accuracy: on digits that were not trained on.
        skipped: how many weights the skipped step changed.
        notes: what had to be done differently from the instructions.
    """

    weights: dict[str, Tensor]
    finished: dict[str, Tensor]
    state: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] | None = None
    graphs: int = 0
    breaks: int = 0
    compiled_error: float = 0.0
    accuracy: float = 0.0
    skipped: int | None = None
    notes: list[str] = field(default_factory=list)


class Network(nn.Module):
    """Two convolutions and two linear layers, 43,000 weights, no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.third = nn.Linear(512, 72)
        self.last = nn.Linear(72, 10)
        for name in SPARSE_LAYERS:
            nn.init.kaiming_normal_(self.get_submodule(name).weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images [batch, 1, 8, 8]."""
        features = functional.relu(self.second(functional.relu(self.first(images))))
        features = functional.max_pool2d(features, 2).flatten(1)
        logits: Tensor = self.last(functional.relu(self.third(features)))
        return logits


def new_network(plan: Plan) -> Network:
    """The same at every call; seeds what is drawn after it, too."""
    torch.manual_seed(0)
    return Network().to(plan.dtype)


def batches(plan: Plan) -> list[tuple[Tensor, Tensor]]:
    """An epoch, of which this process gets its share of each batch."""
    images, labels = _digits(plan.dtype)
    share = slice(plan.rank, None, plan.world)
    return [
        (images[start : start + BATCH][share], labels[start : start + BATCH][share])
        for start in range(0, EPOCH * BATCH, BATCH)
    ]


def accuracy(network: nn.Module, plan: Plan) -> float:
    """On the digits that no batch has."""
    images, labels = (part[EPOCH * BATCH :] for part in _digits(plan.dtype))
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).double().mean())


def _digits(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    pixels = torch.tensor(images, dtype=dtype).view(-1, 1, 8, 8) / 8 - 1
    return pixels[order], torch.tensor(labels)[order]


def loss_of(network: nn.Module, batch: tuple[Tensor, Tensor], step: int, plan: Plan) -> Tensor:
    """Cross-entropy, or infinity in the step that is to be skipped."""
    loss = functional.cross_entropy(network(batch[0]), batch[1])
    return loss * torch.inf if step == plan.skip else loss


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """The weights with which each layer computes, copied.

    `torch.nn.utils.prune` multiplies by the mask only in the next forward pass, so it is done here.
    """
    found = {}
    for name in SPARSE_LAYERS:
        layer = network.get_submodule(name)
        if hasattr(layer, "weight_mask"):
            found[name] = (layer.weight_orig * layer.weight_mask).detach().clone()
        else:
            found[name] = layer.weight.detach().clone()
    return found


def look_at_compiled(network: nn.Module, outcome: Outcome, plan: Plan) -> None:
    """Count graphs, and compare the last one with a plain network of the same weights and biases.

    Gradients are on, as in training, so that the graph is the one of training.
    """
    from torch._dynamo.utils import counters  # slow to import, and only this check needs it

    outcome.graphs = counters["stats"]["unique_graphs"]
    outcome.breaks = sum(counters["graph_break"].values())
    plain = new_network(plan)
    with torch.no_grad():
        for name, weight in outcome.weights.items():
            plain.get_submodule(name).weight.copy_(weight)
            plain.get_submodule(name).bias.copy_(network.get_submodule(name).bias)
    images = batches(plan)[0][0]
    outcome.compiled_error = float((network(images) - plain(images)).detach().abs().max())


def write(path: Path, content: dict[str, Any]) -> None:
    torch.save(content, path)


def read(path: Path) -> dict[str, Any]:
    """A checkpoint of this job; tools keep more than tensors in theirs."""
    content: dict[str, Any] = torch.load(path, weights_only=False)
    return content
