"""Checks of arguments that several layers and networks share."""

from itertools import chain
from typing import Any, get_args

from torch import nn
from torch.nn.parameter import is_lazy


def check_word(argument: str, word: str, words: Any) -> None:
    """Check that a word is one of a `Literal`.

    Args:
        argument: what the word was given for.
        word: the word.
        words: the `Literal`.

    Raises:
        ValueError: if it is none of them.

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
    """Check that a fan-in K is between 1 and `most`.

    Args:
        fan_in: K.
        most: the largest one allowed.
        meaning: what `most` is, for the message.

    Raises:
        ValueError: if it is not.

    Example:
        >>> check_fan_in(5, most=4, meaning="the number of candidates")
        Traceback (most recent call last):
            ...
        ValueError: fan_in (K) must be between 1 and the number of candidates, got 5.
    """
    if not 1 <= fan_in <= most:
        raise ValueError(f"fan_in (K) must be between 1 and {meaning}, got {fan_in}.")


def check_weights_exist(network: nn.Module) -> None:
    """Refuse a network whose weights have no values yet.

    Raises:
        ValueError: if it has lazy layers that have never run, or is on `meta`.

    Example:
        >>> check_weights_exist(nn.Sequential(nn.LazyLinear(10)))
        Traceback (most recent call last):
            ...
        ValueError: Sequential has no weights yet: the lazy layer of 0.weight gets them when it ...
    """
    kind = type(network).__name__
    for name, value in chain(network.named_parameters(), network.named_buffers()):
        if is_lazy(value):
            raise ValueError(
                f"{kind} has no weights yet: the lazy layer of {name} gets them when it first "
                "runs, so train the network or load its weights."
            )
        if value.is_meta:
            raise ValueError(
                f"{kind} has no weights: {name} is on the device meta, which holds no values; "
                "build the network on the CPU and load its weights."
            )
