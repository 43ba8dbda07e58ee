"""Tensors inside of the arguments and results of an operation, which are lists and dicts at most.

torch's own functions for nested structures know many more kinds, and take longer than the
operations of a small network.
"""

from collections.abc import Callable, Iterator
from typing import Any

_NUMBERS = {int, float, bool, str, type(None)}  # most leaves, and no function changes them


def leaves(value: Any) -> Iterator[Any]:
    """What is no list, tuple or dict, in order."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
    else:
        yield value


def replaced(value: Any, function: Callable[[Any], Any]) -> Any:
    """The same structure with what the function makes of the leaves that are no plain numbers."""
    if isinstance(value, (list, tuple)):  # faster than a union
        parts = [part if type(part) in _NUMBERS else replaced(part, function) for part in value]
        return type(value)(parts)
    if isinstance(value, dict):
        return {key: replaced(part, function) for key, part in value.items()}
    return function(value)
