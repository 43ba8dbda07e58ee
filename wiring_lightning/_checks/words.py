"""Names and counts as a part of a message."""

from collections.abc import Sequence

_SHOWN = 5


def listed(names: Sequence[str]) -> str:
    """Up to five names, and how many more there are.

    Example:
        >>> listed(["fc1", "fc2"]), listed(list("abcdefg"))
        ('fc1, fc2', 'a, b, c, d, e and 2 more')
    """
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def counted(number: int, noun: str) -> str:
    """A number of things whose plural ends in s.

    Example:
        >>> counted(1, "epoch"), counted(2000, "step")
        ('1 epoch', '2,000 steps')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
