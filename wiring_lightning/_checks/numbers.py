"""Checks of numbers that people give. Whoever uses a number calls one of these first."""

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

MOST = 1_000_000
"""The largest count of something that a network can have, such as channels or classes."""
MOST_LAYERS = 10_000
"""The largest count of what is built one by one in Python, such as layers."""


def check_counts(
    least: int = 1,
    most: int = MOST,
    error: Callable[[str], Exception] = ValueError,
    owner: str = "",
    **counts: int,
) -> None:
    """Check whole numbers.

    Args:
        least: the smallest one allowed.
        most: the largest one allowed.
        error: what to raise, or what makes it from a message.
        owner: whose numbers they are, such as the name of a callback.
        counts: the numbers by their names.

    Raises:
        ValueError: or `error`, for the first that is no whole number or out of range.

    Example:
        >>> check_counts(width=8, image_size=32)
        >>> check_counts(width=0)
        Traceback (most recent call last):
        ValueError: width must be at least 1, got 0.
    """
    start = f"{owner}: " if owner else ""
    for name, count in counts.items():
        if not isinstance(count, Integral) or isinstance(count, bool):
            raise error(f"{start}{name} must be a whole number, got {count!r}.")
        if count < least:
            raise error(f"{start}{name} must be at least {least}, got {count}.")
        if count > most:
            raise error(f"{start}{name} must be at most {most:,}, got {count:,}.")


def check_seed(
    seed: int, name: str = "seed", error: Callable[[str], Exception] = ValueError
) -> None:
    """Check the seed of a random generator: a whole number that torch takes, of 64 bits.

    Example:
        >>> check_seed(-1)
        >>> check_seed(1.5)
        Traceback (most recent call last):
        ValueError: seed must be a whole number, got 1.5.
    """
    named: dict[str, Any] = {name: seed}
    check_counts(-(2**63), 2**64 - 1, error, **named)


def check_number(
    name: str,
    number: float,
    least: float = 0.0,
    above: float | None = None,
    below: float = math.inf,
    error: Callable[[str], Exception] = ValueError,
) -> None:
    """Check a number that may have a fraction.

    Args:
        name: what it is called.
        number: the number.
        least: the smallest one allowed.
        above: what it must be above, instead of `least`.
        below: what it must be below; with the default it must only be finite.
        error: what to raise, or what makes it from a message.

    Raises:
        ValueError: or `error`, if it is no number, or out of range, or infinite.

    Example:
        >>> check_number("label_smoothing", 0.1, below=1)
        >>> check_number("label_smoothing", 1.0, below=1)
        Traceback (most recent call last):
        ValueError: label_smoothing must be from 0 up and below 1, got 1.0.
        >>> check_number("tolerance", math.inf, above=0)
        Traceback (most recent call last):
        ValueError: tolerance must be finite and above 0, got inf.
    """
    fits = isinstance(number, Real) and not isinstance(number, bool)
    if fits and (number >= least if above is None else number > above) and number < below:
        return
    kind = "a number "
    if fits:
        kind = "finite and " if math.isinf(number) else ""
    start = f"from {least:g} up" if above is None else f"above {above:g}"
    end = "" if math.isinf(below) else f" and below {below:g}"
    raise error(f"{name} must be {kind}{start}{end}, got {number!r}.")


def check_finite(owner: str, numbers: Mapping[str, Any], error: type[Exception]) -> None:
    """Check that no number, alone or in a list, is infinite or not a number.

    Args:
        owner: whose numbers they are, such as the name of an optimizer.
        numbers: the numbers by their names; values of other kinds are passed over.
        error: what to raise.

    Raises:
        Exception: of the class `error`, for the first that is infinite or not a number.

    Example:
        >>> check_finite("Adam", {"lr": 0.1, "betas": (0.9, math.nan)}, ValueError)
        Traceback (most recent call last):
        ValueError: betas of Adam must be finite, got (0.9, nan).
    """
    for name, value in numbers.items():
        parts = value if isinstance(value, (list, tuple)) else [value]
        if not all(math.isfinite(part) for part in parts if isinstance(part, float)):
            raise error(f"{name} of {owner} must be finite, got {value}.")
