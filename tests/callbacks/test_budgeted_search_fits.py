"""What BudgetedSearch remembers from fit to fit, and what it logs."""

import warnings
from itertools import product
from math import log2, prod
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from tests.callbacks.tiny_super_network import (
    BUDGET,
    STEPS,
    OneLossIsNot,
    Searching,
    Watches,
    fit,
    new_module,
    new_search,
)
from tests.trainers import same_state
from wiring_lightning import costs

# What it remembers


class SampledCosts(Callback):
    """The mean cost of what was sampled, after each epoch."""

    def __init__(self) -> None:
        self.by_epoch: dict[int, float] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        cost = trainer.callback_metrics["search/cost_sampled"]
        self.by_epoch[trainer.current_epoch] = float(cost)


@pytest.mark.parametrize("step", [5, STEPS])
@pytest.mark.parametrize("noise", [False, True])
def test_a_resumed_run_equals_the_uninterrupted_one(step: int, noise: bool, tmp_path: Path) -> None:
    def run(resume: str | None) -> tuple[dict[str, Tensor], dict[str, Any], dict[int, float]]:
        torch.manual_seed(1 if resume else 0)
        cost = costs.NoisyCost("parameters", std=30.0, seed=9) if noise else "parameters"
        module, search = Searching(), new_search(cost=cost, seed=4, warmup_epochs=0)
        sampled = SampledCosts()
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=step, save_top_k=-1)
        callbacks = [search, sampled] if resume else [search, sampled, saver]
        fit(module, *callbacks, max_epochs=3, ckpt_path=resume, enable_checkpointing=not resume)
        return module.state_dict(), search.state_dict(), sampled.by_epoch

    whole, state, sampled = run(None)
    resumed, other_state, other_sampled = run(str(tmp_path / f"step={step}.ckpt"))
    assert same_state(whole, resumed)
    assert state == other_state
    assert state["batches"] == 3 * STEPS
    assert other_sampled == {epoch: sampled[epoch] for epoch in other_sampled}
    assert len(other_sampled) == (3 if step < STEPS else 2)


def test_a_checkpoint_inside_the_warm_up_resumes_into_the_search(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=7, save_top_k=-1)
    whole, resumed = new_module(), new_module()
    settings: dict[str, Any] = {"warmup_epochs": 1, "seed": 2}
    fit(whole, new_search(**settings), saver, max_epochs=2, enable_checkpointing=True)
    path = str(tmp_path / "step=7.ckpt")
    fit(resumed, new_search(**settings), max_epochs=2, ckpt_path=path)
    assert same_state(whole.state_dict(), resumed.state_dict())
    assert not (whole.net.gate.logits == 3).all()


def test_the_same_callback_serves_two_fits() -> None:
    search, module = new_search(), new_module()
    for _ in range(2):
        before = module.net.gate.logits.detach().clone()
        trainer = fit(module, search)
        assert search.state_dict()["batches"] == STEPS
        assert not torch.equal(before, module.net.gate.logits)
        assert not trainer.optimizers[0]._optimizer_step_post_hooks


# What it says at the end, which a run that resumes after a last batch says, too


def said_by(module: Searching, *callbacks: Callback, **settings: Any) -> list[str]:
    """Train, and return what the search warned of."""
    with warnings.catch_warnings(record=True, action="always") as said:
        fit(module, *callbacks, limit_train_batches=3, **settings)
    return [text for one in said if (text := str(one.message)).startswith("BudgetedSearch")]


def every_step(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)


COSTS: dict[str, Any] = {
    "parameters": lambda: "parameters",
    "noise": lambda: costs.NoisyCost("parameters", std=30.0),
    "of one's own": lambda: lambda wiring: 2 * costs.parameters(wiring),
}


@pytest.mark.parametrize("limit", [{"max_epochs": 2}, {"max_epochs": 9, "max_steps": 6}])
@pytest.mark.parametrize("cost", COSTS)
def test_a_resumed_run_says_what_is_more_than_the_budget(
    cost: str, limit: dict[str, int], tmp_path: Path
) -> None:
    def run(**settings: Any) -> list[str]:
        module = new_module()
        said = said_by(
            module, new_search(cost=COSTS[cost](), budget=50, lr=0.01), **limit, **settings
        )
        times = 2 if cost == "of one's own" else 1
        price = times * int(costs.parameters(module.net.wiring()))
        return [text for text in said if f"architecture costs {price:,} " in text]

    module, saver = new_module(), every_step(tmp_path)
    search = new_search(cost=COSTS[cost](), budget=50, lr=0.01)
    assert said_by(module, search, saver, enable_checkpointing=True, **limit)
    for step in (5, 6):
        assert len(run(ckpt_path=str(tmp_path / f"step={step}.ckpt"))) == 1


def test_a_resumed_run_says_so_without_an_image_to_time(tmp_path: Path) -> None:
    for path in (None, str(tmp_path / "step=3.ckpt")):
        cost = costs.Latency(repeats=1, warmup=0)
        callbacks = [
            new_search(cost=cost, budget=1e-9, lr=0.0),
            *([] if path else [every_step(tmp_path)]),
        ]
        said = said_by(new_module(), *callbacks, ckpt_path=path, enable_checkpointing=not path)
        assert len([text for text in said if "more than the budget" in text]) == 1


def test_a_second_fit_does_not_tell_the_price_of_the_first(tmp_path: Path) -> None:
    small, saver = new_module(), every_step(tmp_path)
    for layer in (0, 1, 2, 4):  # leaves one module out of the input, and one out of the second
        small.net.gate.logits.data[layer] = -3.0
    small.net.gate.logits.data[3] = 3.0
    assert said_by(small, new_search(lr=0.0), saver, enable_checkpointing=True) == []
    search = new_search(lr=0.0)
    assert "more than the budget" in said_by(new_module(), search)[0]
    assert said_by(new_module(), search, ckpt_path=str(tmp_path / "step=3.ckpt")) == []
    other = new_search(lr=0.0, cost=costs.multiply_adds, budget=1.0)  # knows no price
    said_by(new_module(), other, ckpt_path=str(tmp_path / "step=3.ckpt"))


@pytest.mark.parametrize(("epochs", "step"), [(3, 4), (3, 5), (3, 6), (2, 4), (2, 6)])
def test_a_resumed_run_counts_the_steps_before_that_were_not_finite(
    epochs: int, step: int, tmp_path: Path
) -> None:
    whole = said_by(
        OneLossIsNot(), new_search(), every_step(tmp_path), max_epochs=epochs,
        enable_checkpointing=True,
    )  # fmt: skip
    path = str(tmp_path / f"step={step}.ckpt")
    resumed = said_by(OneLossIsNot(), new_search(), max_epochs=epochs, ckpt_path=path)
    for said in (whole, resumed):
        counted = [text for text in said if "were not finite" in text]
        assert [text.partition(" the prob")[0] for text in counted] == [
            "BudgetedSearch: in 2 steps of an epoch"
        ]


# What it logs


def test_the_numbers_of_an_epoch_are_those_of_the_gate_and_the_draws() -> None:
    watches, module = Watches(), new_module()
    trainer = fit(module, watches, new_search(lr=1.0))
    chance = module.net.gate.logits.detach().double().sigmoid()
    prices = costs.parameters(
        module.net.wiring().with_active(module.net.active_edges(torch.cat(watches.drawn)))
    )
    bits = entropy_by_enumeration(chance)
    expected = {
        "near_0": (chance < 0.05).double().mean(),
        "near_1": (chance > 0.95).double().mean(),
        "cost_best": costs.parameters(module.net.wiring()),
        "cost_sampled": prices.double().mean(),
        "within_budget": (prices <= BUDGET).double().mean(),
        "budget": BUDGET,
    }
    logged = {
        name.removeprefix("search/"): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("search/")
    }
    assert logged.pop("entropy_bits") == pytest.approx(bits, rel=0.03)
    assert logged.pop("entropy") == pytest.approx(bits / edges_asked(chance), rel=0.03)
    assert logged == {name: pytest.approx(float(value)) for name, value in expected.items()}
    assert 1 < bits < 6


def edges_asked(chance: Tensor) -> float:
    """The mean number of edges that are drawn: edges 5 and 6 need one of the first three."""
    return 4 + 2 * (1 - float((1 - chance[:3]).prod()))


def entropy_by_enumeration(chance: Tensor) -> float:
    """Bits of the architectures that can be drawn: edges 5 and 6 need one of the first three."""
    probability: dict[tuple[bool, ...], float] = {}
    for coins in product([False, True], repeat=6):
        weights = [
            float(p) if coin else 1 - float(p) for p, coin in zip(chance, coins, strict=True)
        ]
        drawn = (*coins[:4], *(coin and any(coins[:3]) for coin in coins[4:]))
        probability[drawn] = probability.get(drawn, 0.0) + prod(weights)
    return -sum(p * log2(p) for p in probability.values() if p)


def test_a_search_that_cuts_the_network_in_two_says_so() -> None:
    search = new_search(budget=1.0, penalty=10.0, lr=5.0)
    with pytest.warns(UserWarning, match="does not connect the input to the output") as caught:
        fit(new_module(), search, max_epochs=3)
    assert sum("does not connect" in str(warning.message) for warning in caught) == 1
