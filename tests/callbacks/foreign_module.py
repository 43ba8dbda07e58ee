"""LightningModules that know nothing of this package, their batches and plain gate updates."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from tests.trainers import quiet_trainer
from wiring_lightning.nn import Gate, find_gates

STEPS = 10  # in an epoch


class Net(nn.Module):
    """Two layers of units, with a gate before each unit of the second and of the last one."""

    def __init__(self, features: int = 5, classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(features, 4 * 6)
        self.gate = Gate(4, 4, 2)
        self.second = nn.Linear(6, 6)
        self.last = Gate(2, 4, 1)
        self.head = nn.Linear(2 * 6, classes)

    def forward(self, x: Tensor) -> Tensor:
        units = torch.tanh(self.first(x).unflatten(1, (4, 6)))
        units = torch.tanh(self.second(self.gate(units)))
        return self.head(self.last(units).flatten(1))


class Foreign(LightningModule):
    """AdamW with a group for the head, one for the scores alone, and a schedule by step."""

    def __init__(self, net: nn.Module | None = None, lr: float = 0.05) -> None:
        super().__init__()
        self.net = net or Net()
        self.lr = lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return loss_of(self.net, batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("loss", loss_of(self.net, batch))

    test_step = validation_step

    def configure_optimizers(self) -> dict[str, Any]:
        scores = {gate.scores for gate in self.net.modules() if isinstance(gate, Gate)}
        optimizer = AdamW([*weight_groups(self.net, self.lr), {"params": list(scores), "lr": 9.0}])
        scheduler = StepLR(optimizer, 4, gamma=0.5)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


class WithoutScores(Foreign):
    """An optimizer that was never given the scores."""

    def configure_optimizers(self) -> Optimizer:
        return AdamW(weight_groups(self.net, self.lr))


class SelfMade(Foreign):
    """Brings its own optimizer, which outlives a fit."""

    def __init__(self, make: Callable[..., Optimizer] = SGD, **settings: Any) -> None:
        super().__init__()
        self.made = make(self.net.parameters(), **{"lr": 0.05, **settings})

    def configure_optimizers(self) -> Optimizer:
        return self.made


class Snapshots(Callback):
    """The module's state after every batch."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.states.append(copy_of(pl_module))


def loss_of(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


def weight_groups(net: nn.Module, lr: float) -> list[dict[str, Any]]:
    """The weights without the scores, with another rate and decay for the head."""
    weights = {name: p for name, p in net.named_parameters() if not name.endswith("scores")}
    head = [weight for name, weight in weights.items() if name.startswith("head")]
    body = [weight for name, weight in weights.items() if not name.startswith("head")]
    return [
        {"params": body, "lr": lr, "weight_decay": 0.3},
        {"params": head, "lr": 2 * lr, "weight_decay": 0.0},
    ]


def batches(steps: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(8, 5, generator=generator),
            torch.randint(0, 3, (8,), generator=generator),
        )
        for _ in range(steps)
    ]


def loader(steps: int = STEPS) -> DataLoader[Any]:
    images, labels = zip(*batches(steps), strict=True)
    return DataLoader(TensorDataset(torch.cat(images), torch.cat(labels)), batch_size=8)


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def differs(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
    assert first.keys() == second.keys()
    return {name for name, value in first.items() if not torch.equal(value, second[name])}


def gates_of(module: nn.Module) -> list[Gate]:
    return list(find_gates(module).values())


def fit(module: LightningModule, *callbacks: Callback, **settings: Any) -> Trainer:
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    trainer.fit(module, loader(), ckpt_path=ckpt_path)
    return trainer


def update_and_draw(gates: list[Gate], lr: float, seed: int, step: int) -> None:
    """Algorithm 1 in a few lines: clip(scores - lr * gradient), normalise, write back, draw."""
    with torch.no_grad():
        scores = torch.cat([gate.scores - lr * gate.scores.grad for gate in gates]).clamp(0, 1)
        scores = scores / scores.sum(1, keepdim=True)
        generator = torch.Generator()
        generator.manual_seed((seed * 0x9E3779B97F4A7C15 + step) & (2**63 - 1))
        noise = torch.empty_like(scores).exponential_(generator=generator)
        keys = torch.where(scores > 0, scores.log(), -1e4) - noise.log()
        start = 0
        for gate in gates:
            rows = slice(start, start + gate.targets)
            gate.scores.copy_(scores[rows])
            gate.active.zero_()
            best = keys[rows].topk(gate.fan_in).indices
            gate.active.scatter_(1, best, torch.ones_like(best, dtype=torch.bool))
            gate.scores.grad = None
            start += gate.targets
