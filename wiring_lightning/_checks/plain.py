"""Whether a value from a file is one that can hold no code."""

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
