"""Tensors inside of the arguments and results of an operation, which are lists and dicts at most.

torch's own functions for nested structures know many more kinds, and take longer than the
operations of a small network.
"""

from collections.abc import Callable, Iterator
from typing import Any


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
    """The same structure with what the function makes of the leaves."""
    if isinstance(value, list | tuple):
        return type(value)([replaced(part, function) for part in value])
    if isinstance(value, dict):
        return {key: replaced(part, function) for key, part in value.items()}
    return function(value)
