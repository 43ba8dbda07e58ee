"""The costs that BudgetedSearch takes, and what it says about bad input."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from tests.callbacks.tiny_super_network import (
    BATCH,
    OneLossIsNot,
    Searching,
    TinySuperNetwork,
    fit,
    losses_of,
    new_module,
    new_search,
)
from tests.trainers import quiet_trainer
from wiring_lightning import costs
from wiring_lightning.callbacks import BudgetedSearch, MaskConnect
from wiring_lightning.wiring import Wiring

# Other costs


def test_the_cost_may_be_any_callable() -> None:
    seen: list[tuple[int, ...]] = []

    def modules(wiring: Wiring) -> Tensor:
        seen.append(tuple(wiring.active.shape))
        return wiring.live_nodes.sum(-1) - 2

    trainer = fit(new_module(), new_search(cost=modules, budget=2.5), limit_train_batches=2)
    assert seen == [(BATCH, 12), (BATCH, 12), (12,)]
    assert 2 < float(trainer.callback_metrics["search/cost_sampled"]) < 7


def test_a_latency_is_measured_on_the_network_of_the_module() -> None:
    module = new_module()
    cost = costs.Latency(repeats=2, warmup=0)
    trainer = fit(module, new_search(cost=cost, budget=100.0), limit_train_batches=2)
    assert cost.image_shape == (5,)
    assert 0 < float(trainer.callback_metrics["search/cost_sampled"]) < 100
    assert not module.net._forward_pre_hooks


def test_a_budget_may_be_a_share_of_what_a_cost_gave() -> None:
    search = new_search(budget=0.5 * costs.parameters(new_module().net.wiring()))
    assert search.budget == 0.5 * float(costs.parameters(new_module().net.wiring()))


def configured(cost: Any) -> Any:
    """The cost of a callback that was built from a config."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(BudgetedSearch, "search")
    config = parser.parse_object({"search": {"budget": 10, "cost": cost}})
    return parser.instantiate_classes(config).search.cost


@pytest.mark.filterwarnings("ignore")
def test_a_config_names_a_cost_or_a_class_with_settings() -> None:
    assert configured("parameters") == "parameters"
    assert configured("wiring_lightning.costs.multiply_adds") is costs.multiply_adds
    settings = {"machines": 4, "order": "node"}
    for path in ("SequentialSteps", "wiring_lightning.costs.SequentialSteps"):
        steps = configured({"class_path": path, "init_args": settings})
        assert repr(steps) == "SequentialSteps(machines=4, order='node')"
    latency = {"class_path": "Latency", "init_args": {"repeats": 5}}
    noisy = configured({"class_path": "NoisyCost", "init_args": {"cost": latency, "std": 0.1}})
    assert (noisy.std, noisy.cost.repeats) == (0.1, 5)


def plain(w):  # type: ignore[no-untyped-def]
    return costs.parameters(w)


def as_float(wiring: Wiring) -> float:
    return float(costs.parameters(wiring))


def more_settings(wiring: Wiring, live: bool = True, *, scale: float = 2.0) -> Tensor:
    return costs.parameters(wiring) * scale


class Joules:
    def __call__(self, architecture: Any) -> Any:
        return costs.parameters(architecture).numpy()


joules, half = Joules(), partial(more_settings, scale=0.5)


@pytest.mark.parametrize("name", ["plain", "as_float", "more_settings", "joules", "half"])
def test_a_config_names_a_function_with_or_without_types(name: str) -> None:
    cost = configured(f"{__name__}.{name}")
    assert cost is globals()[name]
    wiring = new_module().net.wiring()
    scale = {"more_settings": 2.0, "half": 0.5}.get(name, 1.0)
    assert float(cost(wiring)) == scale * float(costs.parameters(wiring))


# Bad input


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"budget": -1.0}, "budget must be from 0 up, got -1"),
        ({"budget": float("nan")}, "budget must be from 0 up, got nan"),
        ({"budget": "10"}, "budget must be a number from 0 up, got '10'"),
        ({"budget": None}, "budget must be a number from 0 up, got None"),
        ({"budget": torch.ones(2)}, "budget must be a number from 0 up, got tensor"),
        ({"budget": 0.0}, "a budget of 0 has no order of magnitude"),
        ({"budget": 5e-324}, "has no order of magnitude to compute a penalty from"),
        ({"penalty": -0.1}, "penalty must be from 0 up, got -0.1"),
        ({"relative_penalty": float("inf")}, "relative_penalty must be finite and from 0 up"),
        ({"lr": -1}, "lr must be from 0 up, got -1"),
        ({"lr": "1"}, "lr must be a number from 0 up, got '1'"),
        ({"warmup_epochs": -1}, "warmup_epochs must be at least 0, got -1"),
        ({"warmup_epochs": 1.5}, "warmup_epochs must be a whole number, got 1.5"),
        ({"warmup_epochs": 5, "freeze_epoch": 5}, "warmup_epochs is 5 and freeze_epoch is 5"),
        ({"freeze_epoch": -1}, "freeze_epoch must be at least 0"),
        ({"cost": "flops"}, 'there is no cost named "flops"'),
        ({"cost": None}, "a cost is a function from a wiring .* parameters, .*; got None"),
        ({"cost": costs.latency}, "a wiring alone, but latency has a missing .* 'network'"),
        ({"cost": lambda: 5}, "a wiring alone, but <lambda> has a too many positional"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"seed": 2**64}, "seed must be at most"),
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
        ({"cost": "parameters", "machines": 2}, 'machines=2 is for the cost "sequential_steps"'),
        ({"cost": "sequential_steps", "machines": 0}, "machines must be at least 1, got 0"),
        ({"cost": "parameters", "order": "node"}, "order='node' is for the cost"),
        ({"cost": "sequential_steps", "order": "last"}, "order must be one of critical_path"),
    ],
)
def test_bad_arguments_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(MisconfigurationException, match=named):
        new_search(**settings)


class OnlyLoss(Searching):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return losses_of(self.net, batch).mean()


class MeanTwice(Searching):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        loss = losses_of(self.net, batch).mean()
        return {"loss": loss, "losses": loss.detach()}


class Unpriced(TinySuperNetwork):
    wiring = None  # type: ignore[assignment]


class TwoGates(TinySuperNetwork):
    def __init__(self) -> None:
        super().__init__()
        self.other = TinySuperNetwork()


class ByHand(Searching):
    """Manual optimization that returns nothing, as usual."""

    automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.optimizers().zero_grad()
        self.manual_backward(losses_of(self.net, batch).mean())
        self.optimizers().step()


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (lambda: Searching(nn.Linear(5, 3)), "found no gate to learn in Searching"),
        (lambda: Searching(TwoGates()), "found 2 gates in Searching"),
        (lambda: Searching(Unpriced()), "needs a method `wiring` that adds every edge"),
        (lambda: OnlyLoss(), "needs the loss of each example: let `training_step` of OnlyLoss"),
        (lambda: ByHand(), "needs the loss of each example: let `training_step` of ByHand"),
        (lambda: MeanTwice(), r"for 16 examples, but the losses .* have the shape \(\)"),
    ],
)
def test_what_a_search_needs_is_said(module: Any, named: str) -> None:
    with pytest.raises(MisconfigurationException, match=named):
        fit(module(), new_search())


def test_missing_losses_are_found_in_the_warm_up() -> None:
    with pytest.raises(MisconfigurationException, match="needs the loss of each example"):
        fit(OnlyLoss(), new_search(warmup_epochs=10), limit_train_batches=1)


def size(wiring: Wiring) -> Tensor:
    return costs.parameters(wiring).double()


def one_is_nan(wiring: Wiring) -> Tensor:
    prices = size(wiring)
    prices[3:4] = float("nan")
    return prices


def only_the_best_is_infinite(wiring: Wiring) -> Tensor:
    return size(wiring) if wiring.active.dim() > 1 else size(wiring) * float("inf")


@pytest.mark.parametrize(
    ("cost", "named"),
    [
        (
            lambda wiring: torch.tensor(1.0),
            r"<lambda> gave the shape \(\) for 16 architectures, not",
        ),
        (lambda wiring: 5.0, r"<lambda> gave the shape \(\) for 16 architectures, not \(16,\)"),
        (lambda wiring: size(wiring)[..., None], r"gave the shape \(16, 1\) for 16 archit"),
        (lambda wiring: None, "<lambda> gave a NoneType; it must give a number"),
        (lambda wiring: size(wiring) * 1j, "<lambda> gave complex numbers; a cost must be real"),
        (lambda wiring: "much", "<lambda> gave a str; it must give a number"),
        (one_is_nan, "the cost one_is_nan gave nan; a cost must be a finite number"),
        (lambda wiring: size(wiring) * float("-inf"), "gave -inf; a cost must be a finite"),
        (only_the_best_is_infinite, "only_the_best_is_infinite gave inf; a cost must be"),
        (costs.NoisyCost(one_is_nan, std=1.0), "the cost one_is_nan gave nan; a cost must be"),
    ],
)
def test_a_cost_must_price_every_architecture(cost: Any, named: str) -> None:
    with pytest.raises((MisconfigurationException, ValueError), match=named):
        fit(new_module(), new_search(cost=cost), limit_train_batches=1)


def test_a_cost_may_give_arrays_and_numbers() -> None:
    def priced(cost: Any) -> Tensor:
        module = new_module()
        fit(module, new_search(cost=cost), limit_train_batches=3)
        return module.net.gate.logits

    expected = priced(size)
    assert torch.equal(priced(lambda wiring: size(wiring).numpy()), expected)
    assert torch.equal(priced(lambda wiring: size(wiring).tolist()), expected)
    layouts = [lambda x: x.astype(">f8"), lambda x: x.astype(np.longdouble), backwards]
    for layout in layouts:
        assert torch.equal(priced(lambda wiring, to=layout: to(size(wiring).numpy())), expected)


def backwards(prices: Any) -> Any:
    """The same numbers with a negative stride."""
    return prices[..., ::-1].copy()[..., ::-1] if prices.ndim else prices


def test_steps_whose_losses_are_not_finite_are_counted(
    recwarn: pytest.WarningsRecorder,
) -> None:
    fit(OneLossIsNot(), new_search(), max_epochs=3, limit_train_batches=3)
    said = [str(one.message) for one in recwarn if "were not finite" in str(one.message)]
    assert [one.partition(" the prob")[0] for one in said] == [
        "BudgetedSearch: in 2 steps of an epoch"
    ]


@pytest.mark.parametrize(
    ("cost", "told"),
    [
        ("parameters", True),
        ("sequential_steps", True),
        (costs.multiply_adds, True),
        (costs.SequentialSteps(machines=2), True),
        ("latency", False),  # slow, and another one each time
        (costs.NoisyCost("parameters", std=1.0), False),
        (size, False),  # who knows
    ],
)
def test_a_budget_that_changes_nothing_is_told(
    cost: Any, told: bool, recwarn: pytest.WarningsRecorder
) -> None:
    fit(new_module(), new_search(cost=cost, budget=1e6), limit_train_batches=1)
    said = [str(one.message) for one in recwarn if "the budget changes nothing" in str(one.message)]
    assert len(said) == told


def test_the_best_cost_is_without_noise() -> None:
    module, noise = new_module(), costs.NoisyCost("parameters", std=100.0)
    trainer = fit(module, new_search(cost=costs.NoisyCost(noise, std=9.0)), limit_train_batches=1)
    best = float(costs.parameters(module.net.wiring()))
    assert float(trainer.callback_metrics["search/cost_best"]) == best


def test_it_is_not_for_gates_of_other_methods() -> None:
    with pytest.raises(MisconfigurationException, match="found no gate to learn in Searching"):
        fit(new_module(), MaskConnect())


@pytest.mark.parametrize(
    ("given", "expected"), [({}, True), ({"find_unused_parameters": False}, False)]
)
def test_ddp_may_skip_modules_unless_the_user_decided(
    given: dict[str, bool], expected: bool
) -> None:
    strategy = DDPStrategy(**given)
    trainer = quiet_trainer(strategy=strategy, callbacks=[new_search()])
    module = new_module()
    new_search().setup(trainer, module, "fit")
    assert strategy._ddp_kwargs["find_unused_parameters"] is expected
    assert module._ddp_params_and_buffers_to_ignore == ["net.gate.logits"]


@pytest.mark.parametrize(("ranks", "refused"), [(1, False), (2, True)])
def test_batch_norm_that_waits_for_other_ranks_is_refused(
    ranks: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, search = new_module(), new_search()
    module.net.add_module("norm", nn.SyncBatchNorm(3))
    trainer = quiet_trainer(callbacks=[search])
    monkeypatch.setattr(type(trainer), "world_size", property(lambda _: ranks))
    with pytest.raises(MisconfigurationException) as said:
        search.on_fit_start(trainer, module)  # without a strategy that has made optimizers
    assert ("sync_batchnorm" in str(said.value)) == refused


def test_probabilities_that_take_no_gradient_are_named_and_stay() -> None:
    module = new_module()
    module.net.gate.requires_grad_(False)
    before = module.net.gate.logits.detach().clone()
    search = new_search(freeze_epoch=1)
    with pytest.warns(UserWarning, match="net.gate stay as they are, because their logits take no"):
        fit(module, search, max_epochs=1)
    assert torch.equal(module.net.gate.logits, before)
    assert not search.frozen
    assert not bool(module.net.gate.frozen)
