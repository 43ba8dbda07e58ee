"""Checks of arguments that several layers and networks have in common."""

from typing import Any, get_args


def check_word(argument: str, word: str, words: Any) -> None:
    """Refuse a word that is none of those of a `Literal`.

    Example:
        >>> from typing import Literal
        >>> check_word("mode", "fast", Literal["slow", "steady"])
        Traceback (most recent call last):
            ...
        ValueError: mode must be "slow" or "steady", got "fast".
    """
    if word not in get_args(words):
        *first, last = (f'"{known}"' for known in get_args(words))
        raise ValueError(f'{argument} must be {", ".join(first)} or {last}, got "{word}".')


def check_positive(**numbers: int) -> None:
    """Refuse numbers below 1, given by the name of their argument."""
    for argument, number in numbers.items():
        if number < 1:
            raise ValueError(f"{argument} must be at least 1, got {number}.")


def check_fan_in(fan_in: int, most: int, meaning: str) -> None:
    """Refuse a K that is not between 1 and `most`, which is called by its meaning."""
    if not 1 <= fan_in <= most:
        raise ValueError(f"fan_in (K) must be between 1 and {meaning}, got {fan_in}.")
