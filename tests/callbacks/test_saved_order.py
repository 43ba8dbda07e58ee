"""A checkpoint gives each sparse weight its own state, in whatever order they are now."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.trainers import quiet_trainer
from wiring_lightning import callbacks
from wiring_lightning.callbacks import SparseLayers

LEARNERS: dict[str, Callable[..., SparseLayers[Any]]] = {
    "DNW": callbacks.DNW,
    "DNW, falling": lambda **choice: callbacks.DNW(initial_density=0.9, **choice),
    "NoUpdateRule": callbacks.NoUpdateRule,
    "RandomEdges": callbacks.RandomEdges,
    "L1Anneal": callbacks.L1Anneal,
    "TargetedDropout": lambda **choice: callbacks.TargetedDropout(rho=1.0, **choice),
    "PruneAndRetrain": lambda **choice: callbacks.PruneAndRetrain(1, **choice),
    "SET": lambda **choice: callbacks.SET(every=2, **choice),
    "RigL": lambda **choice: callbacks.RigL(delta_t=2, **choice),
    "GradualPruning": lambda **choice: callbacks.GradualPruning(every=2, **choice),
    "PruneAtStart": callbacks.PruneAtStart,
    "SNIP": callbacks.SNIP,
    "ACDC": callbacks.ACDC,
    "NMSparsity": lambda **choice: callbacks.NMSparsity(
        1, 4, **{key: value for key, value in choice.items() if key != "density"}
    ),
}


class Ordered(LightningModule):
    """Layers that look alike, defined in an order, and their optimizers."""

    def __init__(self, order: str, optimizers: str) -> None:
        super().__init__()
        self.automatic_optimization = len(optimizers) == 1
        layers = {"a": (8, 16), "b": (8, 16), "c": (8, 6)}
        for number, name in enumerate(order):
            torch.manual_seed(number)  # so the weights before the resume are others
            setattr(self, name, nn.Linear(*layers[name]))
        self.head = nn.Linear(38, 4)
        self.held = optimizers

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.a(x), self.b(x), self.c(x)], 1).relu())

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        if not self.automatic_optimization:
            optimizers: Any = self.optimizers()
            for optimizer in optimizers:
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in optimizers:
                optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        """With a rate of 0: what moves is moved by the learner."""
        if self.automatic_optimization:
            return torch.optim.SGD(self.parameters(), lr=0.0)
        layers = {"1": self.a, "2": self.b, "3": self.c}
        return [torch.optim.SGD(layers[one].parameters(), lr=0.0) for one in self.held]


class AtStart(Callback):
    """The weights with which training begins."""

    def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
        self.weights = {name: value.clone() for name, value in pl_module.named_parameters()}


def fit(module: Ordered, *learners: Callback, epochs: int, path: Path | None = None) -> Any:
    torch.manual_seed(9)
    data = DataLoader(TensorDataset(torch.randn(32, 8), torch.arange(32) % 4), batch_size=8)
    trainer = quiet_trainer(callbacks=[*learners], max_epochs=epochs)
    trainer.fit(module, data, ckpt_path=path, weights_only=True)
    return trainer


def assert_resumes(make: Callable[[], Callback], order: str, held: str, path: Path) -> None:
    """Compare what a fit has saved with what one in another order starts from."""
    first = Ordered("abc", "".join(sorted(held)))
    fit(first, make(), epochs=2).save_checkpoint(path)
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert not torch.equal(saved["a.weight"], saved["b.weight"])
    start = AtStart()
    module = Ordered(order, held)
    fit(module, make(), start, epochs=3, path=path)
    for name, value in saved.items():
        assert torch.equal(start.weights[name], value), name
    for name in "abc":
        weight = getattr(module, name).weight
        assert 0 < int(weight.count_nonzero()) <= int(saved[f"{name}.weight"].count_nonzero())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("learner", "order", "held"),
    [
        (learner, order, held)
        for learner in LEARNERS
        for order, held in (("bca", "1"), ("cab", "123"), ("abc", "213"))
        if held == "1" or learner not in ("PruneAndRetrain", "SNIP")  # which need one optimizer
    ],
)
def test_modules_and_optimizers_may_be_in_another_order(
    learner: str, order: str, held: str, tmp_path: Path
) -> None:
    needs_length = learner in ("DNW, falling", "SET", "RigL", "GradualPruning", "ACDC")
    length = {"total_steps": 12} if len(held) > 1 and needs_length else {}

    def make() -> Callback:
        return LEARNERS[learner](density=0.25, layers=["a", "b", "c"], **length)

    assert_resumes(make, order, held, tmp_path / "a.ckpt")


@pytest.mark.filterwarnings("ignore")
def test_weights_of_a_group_may_be_in_another_order(tmp_path: Path) -> None:
    groups = {"all": ["a", "b"]}

    def make() -> Callback:
        return callbacks.RandomEdges(density=0.25, groups=groups, layers=["c"])

    assert_resumes(make, "cba", "1", tmp_path / "a.ckpt")


@pytest.mark.filterwarnings("ignore")
def test_weights_that_were_apart_are_not_given_to_one_optimizer(tmp_path: Path) -> None:
    def make() -> Callback:
        return callbacks.DNW(density=0.25, layers=["a", "b", "c"])

    path = tmp_path / "a.ckpt"
    fit(Ordered("abc", "123"), make(), epochs=2).save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    content["optimizer_states"] = content["optimizer_states"][:1]
    content["optimizer_states"][0]["param_groups"][0]["params"] = list(range(8))
    torch.save(content, path)
    with pytest.raises(MisconfigurationException, match="give each optimizer the same weights"):
        fit(Ordered("abc", "1"), make(), epochs=3, path=path)
