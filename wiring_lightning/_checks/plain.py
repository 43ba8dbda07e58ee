"""Values that a file can hold without code."""

from typing import Any


def is_plain(value: Any) -> bool:
    """Whether it is a number, a text, a truth value, None, or a list of such.

    Example:
        >>> is_plain([1, "a", None]), is_plain([{"class_path": "os.system"}])
        (True, False)
    """
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def plain_number(value: Any) -> Any:
    """A number of numpy as one of Python, which a checkpoint can hold; other values as they are.

    Example:
        >>> import numpy
        >>> plain_number(numpy.float64(0.5)), plain_number("cosine"), plain_number(None)
        (0.5, 'cosine', None)
    """
    is_scalar = type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0
    return value.item() if is_scalar else value
