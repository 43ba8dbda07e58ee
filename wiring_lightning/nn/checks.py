"""Checks of arguments that several layers and networks share."""

from typing import Any, get_args


def check_word(argument: str, word: str, words: Any) -> None:
    """Raise `ValueError` if a word is not in a `Literal`.

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


def check_fan_in(fan_in: int, most: int, meaning: str) -> None:
    """Raise `ValueError` if K is not between 1 and `most`; `meaning` describes `most`."""
    if not 1 <= fan_in <= most:
        raise ValueError(f"fan_in (K) must be between 1 and {meaning}, got {fan_in}.")
