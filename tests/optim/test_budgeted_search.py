"""The policy gradient against the exact gradient, by enumeration of all architectures."""

from functools import cache
from itertools import product

import pytest
import torch
from torch import Tensor

from wiring_lightning import costs
from wiring_lightning.functional import (
    budgeted_objective,
    leave_one_out,
    log_probability,
    policy_gradient,
)
from wiring_lightning.nn import BernoulliGate
from wiring_lightning.optim import Reinforce
from wiring_lightning.wiring import Wiring, make_wiring

# Two ways that branch and meet again, and a shortcut past everything. One edge is given.
SOURCE, TARGET = [0, 0, 1, 1, 2, 3, 0], [1, 2, 3, 2, 3, 4, 4]
LEARNABLE = [True, True, True, True, True, False, True]
LOGITS = [0.4, -0.7, 0.9, -0.2, 0.3, 0.0, -1.1]
BATCH, BUDGET, PENALTY = 4, 60.0, 0.05


def new_gate(**kwargs: object) -> BernoulliGate:
    gate = BernoulliGate(5, SOURCE, TARGET, LEARNABLE, **kwargs)
    gate.logits.data.copy_(torch.tensor(LOGITS))
    return gate


@cache
def graph() -> Wiring:
    prices = [13, 40, 7, 22, 31, 5, 3]
    return make_wiring(
        list("abcde"), SOURCE, TARGET, [True] * 7, edge_multiply_adds=prices, parameters=[1] * 5
    )


def loss_of(drawn: Tensor) -> Tensor:
    """Any function of an architecture will do; this one has interactions between edges."""
    x = drawn.double()
    return 1.5 - 0.8 * x[:, 6] + 0.6 * x[:, 0] * x[:, 2] - 1.1 * x[:, 4] * x[:, 5] + 0.3 * x[:, 3]


def objective_of(drawn: Tensor) -> Tensor:
    prices = costs.multiply_adds(graph().with_active(drawn))
    return budgeted_objective(loss_of(drawn), prices, BUDGET, PENALTY)


def exact_gradient() -> Tensor:
    """Equation 6: enumerate all coins, also those that nobody asks, in float64."""
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    chance = logits.sigmoid()
    expectation = torch.zeros((), dtype=torch.float64)
    for coins in product([False, True], repeat=7):
        connected, drawn, probability = {0}, [], torch.ones((), dtype=torch.float64)
        for edge, coin in sorted(enumerate(coins), key=lambda pair: SOURCE[pair[0]]):
            if LEARNABLE[edge]:
                probability = probability * (chance[edge] if coin else 1 - chance[edge])
            there = SOURCE[edge] in connected and (coin or not LEARNABLE[edge])
            connected |= {TARGET[edge]} if there else set()
            drawn.append((edge, there))
        if not LEARNABLE[5] and coins[5]:
            continue  # the given edge has no coin: count each architecture once
        row = torch.tensor([[there for _, there in sorted(drawn)]])
        expectation = expectation + probability * objective_of(row)[0]
    expectation.backward()
    assert logits.grad is not None
    return logits.grad


@cache
def sampled_gradients(baseline: bool) -> Tensor:
    """Of many batches; those with a baseline are to be told from estimates that are smaller."""
    gate = new_gate()
    gate.seed(7)
    optimizer = Reinforce([gate], baseline=baseline)
    gradients = []
    for _ in range(2000 if baseline else 800):
        optimizer.zero_grad()
        optimizer.observe(objective_of(gate.draw(BATCH)))
        assert gate.logits.grad is not None
        gradients.append(gate.logits.grad.double())
    return torch.stack(gradients)


@pytest.mark.parametrize("baseline", [True, False])
def test_the_mean_of_many_estimates_is_the_exact_gradient(baseline: bool) -> None:
    exact = exact_gradient()
    gradients = sampled_gradients(baseline)
    error = gradients.std(0) / len(gradients) ** 0.5
    distance = (gradients.mean(0) - exact).abs()
    assert exact[5] == 0 == distance[5]
    assert (distance <= 4 * error).all(), (distance / error).tolist()
    if baseline:  # the plain mean of the batch, as Equation 7 has it, would not have passed
        shrunk = (1 - 1 / BATCH) * gradients.mean(0) - exact
        assert (shrunk.abs() > 6 * error).any()


def test_the_baseline_makes_the_estimate_less_noisy() -> None:
    with_baseline, without = (sampled_gradients(way)[:400].var(0) for way in (True, False))
    assert (with_baseline < 0.7 * without)[[edge for edge in range(7) if LEARNABLE[edge]]].all()


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_closed_form_is_what_autograd_finds(batch: int) -> None:
    gate = new_gate()
    gate.seed(3)
    drawn = gate.draw(batch)
    objective = torch.randn(batch, generator=torch.Generator().manual_seed(1)).double() + 3
    others = [
        [objective[other] for other in range(batch) if other != one] or [torch.zeros(())]
        for one in range(batch)
    ]
    advantage = torch.stack(
        [own - torch.stack(rest).mean() for own, rest in zip(objective, others, strict=True)]
    )
    torch.testing.assert_close(leave_one_out(objective), advantage)
    logits = gate.logits.detach().double().requires_grad_()
    assert gate.asked is not None
    (advantage * log_probability(logits, drawn, gate.asked)).mean().backward()
    ours = policy_gradient(logits, drawn, gate.asked, advantage)
    torch.testing.assert_close(ours, logits.grad)
    assert not ours.requires_grad


def test_batches_before_a_step_are_one_large_batch() -> None:
    gate = new_gate()
    gate.seed(0)
    optimizer = Reinforce([gate], lr=0.3)
    weighted = torch.zeros(7)
    for batch in (6, 6, 3):
        objective = objective_of(gate.draw(batch))
        assert gate.drawn is not None
        assert gate.asked is not None
        advantage = leave_one_out(objective)
        own = policy_gradient(gate.logits.detach(), gate.drawn, gate.asked, advantage)
        weighted += own * batch / 15
        optimizer.observe(objective)
    place = gate.logits.data_ptr()
    optimizer.step()
    torch.testing.assert_close(gate.logits.detach(), torch.tensor(LOGITS) - 0.3 * weighted)
    assert gate.logits.data_ptr() == place
    before = gate.logits.detach().clone()
    optimizer.zero_grad()
    optimizer.step()
    assert torch.equal(gate.logits, before)


def test_gradients_that_somebody_else_zeroes_are_forgotten() -> None:
    fresh, old = new_gate(), new_gate()
    optimizers = [Reinforce([gate]) for gate in (fresh, old)]
    old.draw(50)
    optimizers[1].observe(torch.arange(50.0))
    old.zero_grad()
    for gate, optimizer in zip((fresh, old), optimizers, strict=True):
        gate.seed(1)
        for _ in range(2):
            optimizer.observe(objective_of(gate.draw(4)))
    assert torch.equal(fresh.logits.grad, old.logits.grad)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_what_was_observed_before_the_gradients_were_zeroed_is_forgotten(set_to_none: bool) -> None:
    gate = new_gate()
    optimizer = Reinforce([gate])
    gate.draw(50)
    optimizer.observe(torch.arange(50.0))
    optimizer.zero_grad(set_to_none)
    gate.seed(1)
    objective = objective_of(gate.draw(4))
    optimizer.observe(objective)
    assert gate.drawn is not None
    assert gate.asked is not None
    advantage = leave_one_out(objective)
    alone = policy_gradient(gate.logits.detach(), gate.drawn, gate.asked, advantage)
    torch.testing.assert_close(gate.logits.grad, alone)


def test_a_search_by_hand_finds_the_best_architecture_within_the_budget() -> None:
    gate = new_gate()
    gate.seed(0)
    optimizer = Reinforce([gate], lr=1.0)
    for _ in range(400):
        optimizer.observe(objective_of(gate.draw(16)))
        optimizer.step()
        optimizer.zero_grad()
    rows = torch.tensor(list(product([False, True], repeat=7)))
    rows[:, 5] = True
    ways = gate.topology.asked(rows)
    fewest = objective_of(rows & ways).min()
    assert torch.equal(objective_of(gate.best.unsqueeze(0))[0], fewest)
    chance = gate.logits.detach().sigmoid()[gate.learnable_edges]
    assert torch.minimum(chance, 1 - chance).median() < 0.05


def test_frozen_gates_are_passed_over() -> None:
    gates = [new_gate(), new_gate()]
    optimizer = Reinforce(gates, lr=0.5)
    gates[0].freeze()
    for gate in gates:
        gate.draw(8)
    optimizer.observe(torch.arange(8.0))
    optimizer.step()
    assert torch.equal(gates[0].logits, torch.tensor(LOGITS))
    assert not torch.equal(gates[1].logits, torch.tensor(LOGITS))
    assert not optimizer.frozen
    optimizer.freeze()
    assert optimizer.frozen


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_takes_no_step(value: float) -> None:
    gate = new_gate()
    gate.draw(3)
    optimizer = Reinforce([gate])
    optimizer.observe(torch.tensor([1.0, value, 2.0]))
    optimizer.step()
    assert torch.equal(gate.logits, torch.tensor(LOGITS))


def test_the_state_holds_the_learning_rate() -> None:
    first, second = Reinforce([new_gate()], lr=0.7, baseline=False), Reinforce([new_gate()])
    second.load_state_dict(first.state_dict())
    assert (second.group["lr"], second.group["baseline"]) == (0.7, False)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="got no gate"):
        Reinforce([])
    with pytest.raises(ValueError, match="lr must not be negative, got -1"):
        Reinforce([new_gate()], lr=-1)
    gate = new_gate()
    with pytest.raises(ValueError, match="nothing was drawn yet"):
        Reinforce([gate]).observe(torch.ones(2))
    gate.draw(3)
    for wrong in (torch.ones(2), torch.ones(3, 1), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="one number for each of the 3 examples"):
            Reinforce([gate]).observe(wrong)


def test_large_costs_lose_no_digits() -> None:
    """2,218,600,001 multiply-adds are no float32 number; one above the budget has to count."""
    prices = torch.tensor([2_218_600_001, 2_218_600_000])
    objective = budgeted_objective(torch.zeros(2), prices, 2_218_600_000.0, penalty=1.0)
    assert objective.tolist() == [1.0, 0.0]
