"""A search in a network in which another learner chooses edges, too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import wiring_lightning as wl
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import BudgetedSearch, MaskConnect
from wiring_lightning.wiring import Wiring

WIDTHS = (4, 8, 64, 128)


class Both(nn.Module):
    """A search decides which layers are there, and a gate which two of them the head reads."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(16, width) for width in WIDTHS)
        self.out = nn.ModuleList(nn.Linear(width, 4) for width in WIDTHS)
        self.gate = wl.nn.BernoulliGate(2, [0] * 4, [1] * 4)
        self.pick = wl.nn.Gate(targets=1, candidates=4, fan_in=2)

    def forward(self, x: Tensor) -> Tensor:
        drawn = self.gate.draw(len(x)).to(x)
        parts = zip(self.hidden, self.out, strict=True)
        sent = [drawn[:, i : i + 1] * b(a(x).relu()) for i, (a, b) in enumerate(parts)]
        picked: Tensor = self.pick(torch.stack(sent, 1))
        return picked[:, 0]

    def wiring(self) -> Wiring:
        wiring = wl.WiringBuilder()
        source = wiring.add_node("x")
        layers = [
            wiring.add_layers(f"width.{width}", a, b, side=1)
            for width, a, b in zip(WIDTHS, self.hidden, self.out, strict=True)
        ]
        wiring.draw([source] * 4, layers, self.gate.choice())
        wiring.choose(layers, [wiring.add_node("logits")], self.pick.choice())
        return wiring.wiring()


class Measurable(Both):
    """One whose architectures can be built."""

    def active_edges(self, drawn: Tensor) -> Tensor:
        return self.wiring().active_edges(drawn)

    def compact(self) -> nn.Module:
        return nn.Linear(16, 4)


class Trains(LightningModule):
    def __init__(self, kind: type[Both]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = kind()
        # The head reads the two narrow layers until the gate has learned.
        self.net.pick.scores.data.copy_(torch.tensor([[0.4, 0.4, 0.1, 0.1]]))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        losses = nn.functional.cross_entropy(self.net(batch[0]), batch[1], reduction="none")
        return {"loss": losses.mean(), "losses": losses.detach()}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def train(kind: type[Both], *callbacks: Callback, resume: Path | None = None) -> Trains:
    torch.manual_seed(1)
    x = torch.randn(128, 16)
    labels = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    module, saves = Trains(kind), len(callbacks) > 2
    trainer = quiet_trainer(callbacks=[*callbacks], max_epochs=4, enable_checkpointing=saves)
    data = DataLoader(TensorDataset(x, labels), batch_size=32)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return module


def learners(cost: Any = "parameters", **search: Any) -> list[Callback]:
    return [MaskConnect(lr=0.3), BudgetedSearch(500, cost, penalty=1e-3, **search)]


@pytest.mark.parametrize("kind", [Both, Measurable])
def test_sampled_architectures_are_priced_with_the_edges_of_the_moment(kind: type[Both]) -> None:
    seen: list[tuple[bool, ...]] = []
    prices: list[Tensor] = []

    def cost(wiring: Wiring) -> Tensor:
        rows = wiring.active[..., 4:].reshape(-1, 4)
        assert rows.eq(rows[0]).all()
        seen.append(tuple(rows[0].tolist()))
        prices.append(wl.costs.parameters(wiring))
        return prices[-1]

    class Compares(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            seen.clear()
            self.edges = tuple(pl_module.net.wiring().active[4:].tolist())

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            now = tuple(pl_module.net.wiring().active[4:].tolist())
            found.append((seen[0], self.edges, now))

    found: list[tuple[tuple[bool, ...], ...]] = []
    mask, search = learners(cost, lr=0.0)
    train(kind, search, mask, Compares())
    assert len({now for _, _, now in found}) > 1  # MaskConnect has changed its choice
    for priced, before, after in found:
        assert priced in (before, after)


@pytest.mark.parametrize("kind", [Both, Measurable])
def test_a_resumed_run_equals_the_uninterrupted_one(kind: type[Both], tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    whole = train(kind, *learners(), saver).state_dict()
    for epoch in (0, 2):
        resumed = train(kind, *learners(), resume=tmp_path / f"epoch={epoch}.ckpt").state_dict()
        for name, value in whole.items():
            assert torch.equal(resumed[name], value), name


def test_a_latency_is_measured_of_the_edges_of_the_moment() -> None:
    cost = wl.costs.Latency(repeats=1, warmup=0)
    module = train(Measurable, *learners(cost))
    wiring = module.net.wiring()
    assert float(cost(wiring)) >= 0
    others = torch.cat([torch.ones(4, dtype=torch.bool), ~wiring.active[4:]])
    with pytest.raises(ValueError, match="no architecture of the network"):
        cost(wiring.with_active(others))
