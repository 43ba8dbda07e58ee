"""BudgetedSearch in LightningModules that know nothing of this package: what it does and when."""

from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint

from tests.callbacks.tiny_super_network import (
    BATCH,
    BUDGET,
    FIXED,
    MODULE,
    STEPS,
    Searching,
    TinySuperNetwork,
    Watches,
    examples,
    fit,
    losses_of,
    new_module,
    new_search,
)
from tests.trainers import same_state
from wiring_lightning import costs
from wiring_lightning.callbacks import BudgetedSearch, Phase, PhaseSchedule
from wiring_lightning.callbacks.search_numbers import gate_numbers
from wiring_lightning.functional import derived_seed, log_probability
from wiring_lightning.nn import BernoulliGate

# What it computes


def plain_loop(lr: float, penalty: float, seed: int, skipped: int = 0) -> TinySuperNetwork:
    """What the callback has to do: Equation 7 with autograd, in a loop of its own."""
    torch.manual_seed(0)
    net = TinySuperNetwork()
    weights = [p for name, p in net.named_parameters() if not name.endswith("logits")]
    optimizer = SGD(weights, lr=0.05, momentum=0.9)
    for step, batch in enumerate(zip(*(part.split(BATCH) for part in examples()), strict=True), 1):
        if step == skipped:
            continue
        net.gate.seed(derived_seed(seed, step, 0, 0))
        losses = losses_of(net, batch)
        optimizer.zero_grad()
        losses.mean().backward()
        drawn, asked = net.gate.drawn, net.gate.asked
        objective = []
        for row, loss in zip(drawn, losses.detach(), strict=True):
            # A module counts if it was drawn and its sum is read: modules 1-3 by 5 or 6.
            first = sum(row[:3].tolist()) if row[4:].any() else 0
            later = sum(row[3:].tolist())
            price = FIXED + MODULE * (first + later) if later else 0
            objective.append(float(loss) + penalty * max(0.0, price - BUDGET))
        total = sum(objective)
        advantage = torch.tensor([own - (total - own) / (BATCH - 1) for own in objective])
        surrogate = (advantage * log_probability(net.gate.logits, drawn, asked)).mean()
        (gradient,) = torch.autograd.grad(surrogate, net.gate.logits)
        optimizer.step()
        with torch.no_grad():
            net.gate.logits -= lr * gradient
    return net


def test_an_epoch_is_that_of_a_plain_loop() -> None:
    module = new_module()
    fit(module, new_search(penalty=0.01, lr=0.8, seed=3))
    expected = plain_loop(lr=0.8, penalty=0.01, seed=3)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(module.net.state_dict()[name], value, atol=1e-4, rtol=1e-4)
    assert (module.net.gate.logits.detach() - 3).abs().max() > 0.1


def test_a_budget_that_binds_is_kept_by_a_decided_architecture() -> None:
    module = new_module()
    trainer = fit(module, new_search(lr=4.0, relative_penalty=1.0, warmup_epochs=5), max_epochs=25)
    numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
    wiring = module.net.wiring()
    assert FIXED < int(costs.parameters(wiring)) == numbers["search/cost_best"] <= BUDGET
    assert numbers["search/entropy"] < 0.15
    assert numbers["search/within_budget"] > 0.8
    assert numbers["search/near_0"] + numbers["search/near_1"] > 0.6


def test_a_budget_that_does_not_bind_keeps_the_modules_that_help() -> None:
    module = new_module()
    fit(module, new_search(budget=1e6, lr=1.0), max_epochs=5)
    assert int(costs.parameters(module.net.wiring())) > BUDGET


@pytest.mark.parametrize(
    ("budget", "relative", "expected"),
    [(40_900_000, 1.0, 1e-7), (40_900_000, 0.1, 1e-8), (10.0, 10.0, 1.0), (0.02, 1.0, 100.0)],
)
def test_a_relative_penalty_follows_the_magnitude_of_the_budget(
    budget: float, relative: float, expected: float
) -> None:
    search = BudgetedSearch(budget=budget, relative_penalty=relative)
    assert search.absolute_penalty == pytest.approx(expected)
    assert BudgetedSearch(budget=budget, penalty=0.3).absolute_penalty == 0.3


# When it acts


def test_warm_up_trains_the_whole_network_and_leaves_the_logits_alone() -> None:
    module, watches = new_module(), Watches()
    trainer = fit(module, new_search(warmup_epochs=2), watches, max_epochs=3)
    warm = watches.logits[: 2 * STEPS]
    assert all(bool((logits == 3).all()) for logits in warm)
    assert all(bool(drawn.all()) for drawn in watches.drawn[: 2 * STEPS])
    searching = watches.drawn[2 * STEPS :]
    assert not any(bool(drawn.all()) for drawn in searching)
    assert not torch.equal(watches.logits[2 * STEPS], watches.logits[-1])
    assert "search/cost_sampled" in trainer.callback_metrics


def test_nothing_was_sampled_in_an_epoch_of_warm_up() -> None:
    trainer = fit(new_module(), new_search(warmup_epochs=1))
    assert "search/cost_best" in trainer.callback_metrics
    assert "search/cost_sampled" not in trainer.callback_metrics


def test_every_batch_has_draws_of_its_own() -> None:
    watches = Watches()
    fit(new_module(), new_search(lr=0.0), watches)
    draws = {tuple(drawn.flatten().tolist()) for drawn in watches.drawn}
    assert len(draws) == STEPS


class LooksTwice(Searching):
    """Runs the network a second time in a step, to count what is right."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        result = super().training_step(batch, batch_idx)
        with torch.no_grad():
            self.log("right", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())
        return result


class Recomputes(Searching):
    """Does not keep what the backward pass needs."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        logits = checkpoint(self.net, batch[0], use_reentrant=False)
        losses = torch.nn.functional.cross_entropy(logits, batch[1], reduction="none")
        return {"loss": losses.mean(), "losses": losses.detach()}


@pytest.mark.parametrize("kind", [LooksTwice, Recomputes])
def test_all_forward_passes_of_a_step_draw_the_same(kind: type[Searching]) -> None:
    plain, module = new_module(), kind()
    module.load_state_dict(new_module().state_dict())
    for each in (plain, module):
        fit(each, new_search(penalty=0.01, lr=0.8, seed=3))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value)
    net = module.net.train()  # after the fit, every draw is a new one
    assert not torch.equal(net.gate.draw(BATCH), net.gate.draw(BATCH))


def test_a_loss_of_a_network_that_drew_nothing_is_an_error() -> None:
    class InEvaluation(Searching):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
            self.net.train(batch_idx == 0)
            return super().training_step(batch, batch_idx)

    with pytest.raises(MisconfigurationException, match="were drawn for 0 examples"):
        fit(InEvaluation(), new_search())


def test_accumulated_batches_are_one_step() -> None:
    whole, halves, module = Watches(), Watches(), new_module()
    search = new_search(lr=0.5)
    fit(module, search, halves, batch_size=BATCH // 2, accumulate_grad_batches=2)
    fit(new_module(), new_search(lr=0.5), whole)
    logits = halves.logits
    assert len(logits) == 2 * len(whole.logits) == 2 * STEPS
    start = torch.full((6,), 3.0)
    for step in range(STEPS):
        before = logits[2 * step - 1] if step else start
        assert torch.equal(logits[2 * step], before)
        assert not torch.equal(logits[2 * step + 1], before)
    # The first step is the mean of two gradients, each at the first logits.
    alone = []
    for half in range(2):
        watches, single = Watches(), new_module(lr=0.0)
        fit(single, Skips(half), new_search(lr=0.5), watches, batch_size=BATCH // 2,
            limit_train_batches=half + 1)  # fmt: skip
        alone.append(watches.logits[-1])
    torch.testing.assert_close(logits[1], (alone[0] + alone[1]) / 2)


class EndsWithNothing(Searching):
    """The second batch of every step gives no loss."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) if batch_idx % 2 == 0 else None


class LogitsAfter(Callback):
    """The logits after every batch."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.logits.append(pl_module.net.gate.logits.detach().clone())


def test_a_step_learns_from_its_batches_if_the_last_one_gives_none() -> None:
    watches, one_batch = LogitsAfter(), LogitsAfter()
    torch.manual_seed(0)
    fit(EndsWithNothing(), new_search(), watches, accumulate_grad_batches=2)
    fit(new_module(), new_search(), one_batch, limit_train_batches=1)
    logits = torch.stack(watches.logits)
    assert torch.equal(logits[1], one_batch.logits[0])
    moved = [not torch.equal(*pair) for pair in zip(logits[::2], logits[1::2], strict=True)]
    assert sum(moved) > len(moved) / 2
    assert torch.equal(logits[1:-1:2], logits[2::2])


class Skips(Callback):
    """Undoes what the first batches did to the logits."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx <= self.batches:
            pl_module.net.gate.logits.data.fill_(3.0)


class OverflowAt(Searching):
    """Gives an infinite loss in the second batch, as fp16 does when the scale is too high."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        out = super().training_step(batch, batch_idx)
        return {**out, "loss": out["loss"] * torch.inf} if batch_idx == 1 else out


@pytest.mark.parametrize("fused", [False, True])  # then hooks run although the step is skipped
def test_a_step_that_the_gradient_scaler_skips_changes_nothing(fused: bool) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    plugin.forward_context = lambda: torch.autocast("cpu", enabled=False)
    torch.manual_seed(0)
    watches, module = Watches(), OverflowAt(fused=fused)
    fit(module, new_search(penalty=0.01, lr=0.8, seed=3), watches, plugins=[plugin])
    first, second, third = watches.logits[:3]
    assert torch.equal(first, second)
    assert not torch.equal(second, third)
    expected = plain_loop(lr=0.8, penalty=0.01, seed=3, skipped=2)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(module.net.state_dict()[name], value, atol=1e-4, rtol=1e-4)


class ByHand(Searching):
    """Manual optimization, a step after every second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        losses = losses_of(self.net, batch)
        self.manual_backward(losses.mean() / 2)
        if batch_idx % 2:
            self.optimizers().step()
            self.optimizers().zero_grad()
        return {"losses": losses.detach()}


def test_manual_optimization_does_what_automatic_accumulation_does() -> None:
    torch.manual_seed(0)
    by_hand, automatic = ByHand(), new_module()
    fit(by_hand, new_search())
    fit(automatic, new_search(), accumulate_grad_batches=2)
    for name, value in automatic.state_dict().items():
        torch.testing.assert_close(by_hand.state_dict()[name], value)


def test_the_users_optimizer_and_its_clipping_never_touch_the_logits() -> None:
    module = new_module(weight_decay=0.5)
    trainer = fit(module, new_search(lr=0.0), gradient_clip_val=1e-6)
    assert (module.net.gate.logits == 3).all()
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert id(module.net.gate.logits) not in held
    free, clipped = Watches(), Watches()
    fit(new_module(), new_search(), free, limit_train_batches=1)
    fit(new_module(), new_search(), clipped, limit_train_batches=1, gradient_clip_val=1e-6)
    assert torch.equal(free.logits[0], clipped.logits[0])


def test_a_frozen_search_trains_the_most_probable_architecture() -> None:
    module, watches = new_module(), Watches()
    phases = [Phase(3, lr=0.05, gate_lr=2.0), Phase(1, lr=0.01, freeze=True)]
    fit(module, new_search(lr=0.1), PhaseSchedule(phases), watches)
    frozen = 3 * STEPS
    assert not torch.equal(watches.logits[0], watches.logits[frozen - 1])
    assert torch.equal(watches.logits[frozen - 1], watches.logits[-1])
    gate = module.net.gate
    assert bool(gate.frozen)
    assert all(torch.equal(d, gate.best.expand_as(d)) for d in watches.drawn[frozen:])


def test_freeze_epoch_freezes() -> None:
    module, watches = new_module(), Watches()
    fit(module, new_search(freeze_epoch=1), watches, max_epochs=2)
    assert torch.equal(watches.logits[STEPS - 1], watches.logits[-1])
    assert bool(module.net.gate.frozen)


def test_a_network_that_setup_builds_is_searched_as_any_other() -> None:
    class Late(Searching):
        def __init__(self) -> None:
            super().__init__()
            del self.net

        def setup(self, stage: str) -> None:
            torch.manual_seed(0)
            self.net = TinySuperNetwork()

    torch.manual_seed(0)
    early, late = Searching(TinySuperNetwork()), Late()
    for module in (early, late):
        fit(module, new_search(), max_epochs=2)
    assert same_state(early.state_dict(), late.state_dict())


@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_pure_chance_has_entropy_one(length: int) -> None:
    """An edge of a chain is drawn only if the one before was."""
    chain = BernoulliGate(length + 1, range(length), range(1, length + 1), initial=0.0)
    numbers = gate_numbers(chain)
    assert numbers["entropy"] == pytest.approx(1.0)
    assert numbers["entropy_bits"] == pytest.approx(2 - 0.5 ** (length - 1), rel=0.05)
    chain.logits.data.fill_(-800.0)
    assert gate_numbers(chain)["entropy"] == 0


def test_a_gate_that_draws_no_edge_has_no_numbers() -> None:
    assert gate_numbers(BernoulliGate(2, [0], [1], learnable=[False])) == {}
    assert set(gate_numbers(BernoulliGate(2, [0], [1]))) >= {"entropy", "near_0"}
