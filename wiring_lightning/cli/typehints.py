"""Functions of jsonargparse that are others while this package parses a config."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import _typehints


@contextmanager
def replaced(**functions: Callable[..., Any]) -> Iterator[None]:
    """Replace functions for which jsonargparse has no public setting.

    Other parsers of the process are as before once this is over.

    Args:
        functions: the new ones, by the names of the old ones.
    """
    before = {name: getattr(_typehints, name) for name in functions}
    vars(_typehints).update(functions)
    try:
        yield
    finally:
        vars(_typehints).update(before)
