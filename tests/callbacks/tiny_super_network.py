"""A super-network of linear layers, and LightningModules that know nothing of this package."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import BudgetedSearch
from wiring_lightning.nn import BernoulliGate
from wiring_lightning.wiring import Wiring, make_wiring

FEATURES, HIDDEN, CLASSES = 5, 6, 3
SOURCE, TARGET = [0, 0, 0, 0, 1, 1], [1, 1, 1, 2, 2, 2]  # modules between three states
MODULE = HIDDEN * HIDDEN + HIDDEN  # parameters of one
FIXED = (FEATURES + 1) * HIDDEN + (HIDDEN + 1) * CLASSES  # those of stem and classifier
STEPS, BATCH = 12, 16


class TinySuperNetwork(nn.Module):
    """Three states; a state is the sum of what the drawn modules make of earlier states."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(FEATURES, HIDDEN)
        self.layers = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in SOURCE)
        self.classifier = nn.Linear(HIDDEN, CLASSES)
        self.gate = BernoulliGate(3, SOURCE, TARGET)

    def forward(self, x: Tensor) -> Tensor:
        drawn = self.gate.draw(len(x)).float()
        states = [self.stem(x), 0.0, 0.0]
        for edge, (source, target) in enumerate(zip(SOURCE, TARGET, strict=True)):
            sent = torch.tanh(self.layers[edge](states[source]))
            states[target] = states[target] + drawn[:, edge : edge + 1] * sent
        return self.classifier(states[2])

    def wiring(self) -> Wiring:
        state_of = [0, 5, 8]
        numbers = [1, 2, 3, 4, 6, 7]  # of the modules
        names = ["stem", "module1", "module2", "module3", "module4", "state", "module5", "module6",
                 "classifier"]  # fmt: skip
        wiring = make_wiring(
            names,
            [state_of[source] for source in SOURCE] + numbers,
            numbers + [state_of[target] for target in TARGET],
            [True] * 12,
            parameters=[(FEATURES + 1) * HIDDEN, *[MODULE] * 4, 0, *[MODULE] * 2,
                        (HIDDEN + 1) * CLASSES],
        )  # fmt: skip
        return wiring.with_active(self.active_edges(self.gate.best))

    def active_edges(self, drawn: Tensor) -> Tensor:
        drawn = drawn.cpu()
        return torch.cat([drawn, torch.ones_like(drawn)], -1)

    def compact(self) -> nn.Module:
        live = self.wiring().live_nodes[[1, 2, 3, 4, 6, 7]].tolist()
        if not any(live):
            raise ValueError("nothing is left")
        return Plain(self, [edge for edge, alive in enumerate(live) if alive]).eval()


class Plain(nn.Module):
    def __init__(self, network: TinySuperNetwork, edges: list[int]) -> None:
        super().__init__()
        self.edges = edges
        self.stem, self.classifier = network.stem, network.classifier
        self.layers = nn.ModuleList(network.layers[edge] for edge in edges)

    def forward(self, x: Tensor) -> Tensor:
        states = [self.stem(x), 0.0, 0.0]
        for edge, layer in zip(self.edges, self.layers, strict=True):
            sent = torch.tanh(layer(states[SOURCE[edge]]))
            states[TARGET[edge]] = states[TARGET[edge]] + sent
        return self.classifier(states[2])


class Searching(LightningModule):
    """Trains any network, and returns the loss of every example too."""

    def __init__(self, net: nn.Module | None = None, **optimizer: Any) -> None:
        super().__init__()
        self.net = net or TinySuperNetwork()
        self.settings = {"lr": 0.05, "momentum": 0.9, **optimizer}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        losses = losses_of(self.net, batch)
        return {"loss": losses.mean(), "losses": losses.detach()}

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), **self.settings)


class OneLossIsNot(Searching):
    """Trains on the losses that are finite, but returns all."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        losses = losses_of(self.net, batch)
        seen = losses.detach().clone()
        if self.current_epoch == 1 and batch_idx < 2:
            seen[batch_idx] = [float("nan"), float("inf")][batch_idx]
        return {"loss": losses.mean(), "losses": seen}


def losses_of(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(net(batch[0]), batch[1], reduction="none")


def examples(steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """Classes that a linear layer cannot tell apart."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(steps * BATCH, FEATURES, generator=generator)
    labels = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 1).long()
    return x, labels


class Batches:
    """The same batches in every epoch, and in the middle of one after a resume."""

    def __init__(self, batch_size: int = BATCH) -> None:
        self.batches = list(zip(*(part.split(batch_size) for part in examples()), strict=True))
        self.given = self.skipped = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.given, self.skipped = self.skipped, 0
        while self.given < len(self.batches):
            self.given += 1
            yield self.batches[self.given - 1]

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.skipped = state["given"] % len(self.batches)


# Fits

BUDGET = FIXED + 2 * MODULE + 0.5 * MODULE  # two of the six modules


def new_module(**settings: Any) -> Searching:
    torch.manual_seed(0)
    return Searching(**settings)


def new_search(**settings: Any) -> BudgetedSearch:
    return BudgetedSearch(
        **{"cost": "parameters", "budget": BUDGET, "relative_penalty": 2.0, "lr": 1.0, **settings}
    )


def fit(module: LightningModule, *callbacks: Callback, **settings: Any) -> Trainer:
    ckpt_path, batch_size = settings.pop("ckpt_path", None), settings.pop("batch_size", BATCH)
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    trainer.fit(module, Batches(batch_size), ckpt_path=ckpt_path)
    return trainer


class Watches(Callback):
    """Logits and draws after every batch."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []
        self.drawn: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.logits.append(pl_module.net.gate.logits.detach().clone())
        self.drawn.append(pl_module.net.gate.drawn.clone())
