"""The solver of a graph in continuous time as operators, to be exported or transformed.

torchdiffeq's loop is Python code that looks at the data, so it cannot be recorded. Here the loop is
an operator, `torch.while_loop`. `torch.func` knows neither that one nor the functions of
torchdiffeq, so for it the loop is Python code, with torch's operators. The steps are those of
torchdiffeq's `dopri5`: Dormand and Prince's pair of order 5(4), the same first step, the same sizes
of steps, and Shampine's interpolation.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._higher_order_ops import while_loop

from wiring_lightning.functional.transforms import is_transformed

# Dormand and Prince (1980): rows of the stages 2 to 7; the last row is the solution.
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# The difference of the solutions of order 5 and 4, as torchdiffeq has it.
_ERROR = (
    35 / 384 - 1951 / 21600, 0.0, 500 / 1113 - 22642 / 50085, 125 / 192 - 451 / 720,
    -2187 / 6784 + 12231 / 42400, 11 / 84 - 649 / 6300, -1 / 60,
)  # fmt: skip
# The solution in the middle of a step (Shampine, 1986).
_MIDDLE = (
    6025192743 / 30085553152 / 2, 0.0, 51252292925 / 65400821598 / 2,
    -2691868925 / 45128329728 / 2, 187940372067 / 1594534317056 / 2,
    -1776094331 / 19743644256 / 2, 11237099 / 235043384 / 2,
)  # fmt: skip
_SAFETY, _SHRINK, _GROW, _ORDER = 0.9, 0.2, 10.0, 5
_MOST_STEPS = 10_000  # a network that needs more gives values that are not a number

Function = Callable[[Tensor], Tensor]


def solve(derivative: Function, start: Tensor, tolerance: float, rectify: bool = False) -> Tensor:
    """The states at time 1 of a system whose derivative does not depend on the time.

    Args:
        derivative: of the states.
        start: the states at time 0.
        tolerance: relative and absolute.
        rectify: whether states are rectified wherever a derivative is computed and they are kept.

    Returns:
        The states, or values that are not a number if the steps get too many.

    Example:
        >>> states = solve(lambda states: -states, torch.tensor([1.0, 2.0]), 1e-6)
        >>> [round(float(state), 4) for state in states]  # 1 / e and 2 / e
        [0.3679, 0.7358]
    """
    start = start.relu() if rectify else start
    slope = derivative(start)
    transformed = is_transformed()

    def chosen(number: Tensor) -> Tensor:
        # The lengths of steps are chosen: they take no part in derivatives, as in torchdiffeq.
        return number.detach() if transformed else number

    step = chosen(_first_step(derivative, start, slope, tolerance))
    zero = torch.zeros_like(step)
    count = torch.zeros((), dtype=torch.int64, device=start.device)

    def goes_on(count: Tensor, _before: Tensor, end: Tensor, *_: Tensor) -> Tensor:
        return (end < 1) & (count < _MOST_STEPS)

    def advance(
        count: Tensor, before: Tensor, end: Tensor, step: Tensor,
        old: Tensor, state: Tensor, middle: Tensor, old_slope: Tensor, slope: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        length = step.to(state.dtype)
        slopes = [slope]
        for row in _STAGES:
            new = state + length * _weighted(row, slopes)
            new = new.relu() if rectify else new
            slopes.append(derivative(new))
        error = length * _weighted(_ERROR, slopes)
        allowed = tolerance + tolerance * torch.maximum(state.abs(), new.abs())
        ratio = chosen(_norm(error / allowed))
        accepted = ratio <= 1
        half = state + length * _weighted(_MIDDLE, slopes)
        return (
            count + 1,
            torch.where(accepted, end, before),
            torch.where(accepted, end + step, end),
            step * _factor(ratio.to(step.dtype)),
            torch.where(accepted, state, old),
            torch.where(accepted, new, state),
            torch.where(accepted, half, middle),
            torch.where(accepted, slope, old_slope),
            torch.where(accepted, slopes[-1], slope),
        )

    first = (
        count, zero, zero.clone(), step,
        start, start.clone(), start.clone(), slope, slope.clone(),
    )  # fmt: skip
    found: tuple[Tensor, ...] = first
    if transformed:
        while goes_on(*found):
            found = advance(*found)
    else:
        found = while_loop(goes_on, advance, first)
    _, before, end, _, *last = found
    length, place = (end - before).to(start.dtype), ((1 - before) / (end - before)).to(start.dtype)
    old, new, middle, old_slope, slope = last
    states = _interpolate(old, new, middle, old_slope, slope, length, place)
    return torch.where(end >= 1, states, torch.full_like(states, torch.nan))


def _first_step(derivative: Function, start: Tensor, slope: Tensor, tolerance: float) -> Tensor:
    """The first step (Hairer, Norsett and Wanner, 1993, Section II.4), in float64."""
    scale = tolerance + start.abs() * tolerance
    size, speed = _norm(start / scale), _norm(slope / scale)
    tiny = (size < 1e-5) | (speed < 1e-5)
    guess = torch.where(tiny, torch.full_like(size, 1e-6), 0.01 * size / speed)
    bend = _norm((derivative(start + guess * slope) - slope) / scale) / guess
    largest = torch.maximum(speed, bend)
    smooth = largest <= 1e-15
    power = (0.01 / largest) ** (1 / _ORDER)
    step = torch.where(smooth, torch.clamp(guess * 1e-3, min=1e-6), power)
    return torch.minimum(100 * guess, step).to(torch.float64)


def _factor(ratio: Tensor) -> Tensor:
    """How much longer the next step is, for the ratio of the error to the one that is allowed."""
    shrink = torch.where(ratio < 1, torch.ones_like(ratio), torch.full_like(ratio, _SHRINK))
    factor = torch.minimum(
        torch.full_like(ratio, _GROW), torch.maximum(_SAFETY / ratio ** (1 / _ORDER), shrink)
    )
    return torch.where(ratio == 0, torch.full_like(ratio, _GROW), factor)


def _interpolate(
    old: Tensor, new: Tensor, middle: Tensor, old_slope: Tensor, slope: Tensor,
    length: Tensor, place: Tensor,
) -> Tensor:  # fmt: skip
    """The polynomial of degree 4 through three states and two slopes of a step; `place` is 0..1."""
    first, last = length * old_slope, length * slope
    a = 2 * (last - first) - 8 * (new + old) + 16 * middle
    b = 5 * first - 3 * last + 18 * old + 14 * new - 32 * middle
    c = last - 4 * first - 11 * old - 5 * new + 16 * middle
    return old + place * (first + place * (c + place * (b + place * a)))


def _weighted(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """The weighted sum of slopes, in their order; weights of zero are left out."""
    parts = [weight * slope for weight, slope in zip(weights, slopes, strict=True) if weight]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _norm(states: Tensor) -> Tensor:
    """The root of the mean square."""
    return states.square().mean().sqrt()
