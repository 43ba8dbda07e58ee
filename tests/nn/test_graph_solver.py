"""The solver that can be exported takes the steps of torchdiffeq's."""

import math

import pytest
import torch
from torch import Tensor
from torchdiffeq import odeint

from wiring_lightning.nn import graph_solver
from wiring_lightning.nn.graph_solver import solve


def _turn(states: Tensor) -> Tensor:
    """Rotates the plane once from time 0 to 1."""
    return 2 * math.pi * torch.stack([-states[1], states[0]])


def _logistic(states: Tensor) -> Tensor:
    return 9 * states * (1 - states)


@pytest.mark.parametrize("derivative", [_turn, _logistic, torch.zeros_like])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-5])
def test_states_are_those_of_torchdiffeq(derivative, tolerance: float) -> None:
    start = torch.tensor([0.8, 0.1], dtype=torch.float64)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    expected = odeint(lambda _, states: derivative(states), start, times, rtol=tolerance,
                      atol=tolerance, method="dopri5")[-1]  # fmt: skip
    found = solve(derivative, start, tolerance)
    # Far below the tolerance of the solution: the steps themselves are the same.
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def test_solution_is_that_of_the_equation() -> None:
    start = torch.tensor([0.1], dtype=torch.float64)
    growth = math.exp(9) * 0.1 / (0.9 + math.exp(9) * 0.1)  # of the logistic equation
    assert float(solve(_logistic, start, 1e-9)) == pytest.approx(growth, abs=1e-8)


def test_states_that_need_too_many_steps_are_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_solver, "_MOST_STEPS", 300)

    def explodes(states: Tensor) -> Tensor:
        return states.square() * 1e4  # infinite at time 0.0001

    assert solve(explodes, torch.ones(2), 1e-3).isnan().all()
