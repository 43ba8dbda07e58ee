"""Arguments of a learner that a run that resumes cannot change."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def plain_values(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as a checkpoint can hold them: numbers of other libraries are numbers of Python."""
    return {
        name: value.item() if hasattr(value, "item") else value for name, value in arguments.items()
    }


def changed(saved: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """The names of arguments that have another value now; older checkpoints lack some, or all.

    Example:
        >>> changed({"n": 2, "m": 8}, {"n": 2, "m": 4, "seed": 0})
        ['m']
    """
    return [name for name in given if name in saved and saved[name] != given[name]]


def as_words(arguments: Mapping[str, Any], names: Sequence[str]) -> str:
    """Some arguments as they are written in Python."""
    return ", ".join(f"{name}={arguments[name]!r}" for name in names)


def refuse_changed(
    saved: Mapping[str, Any], given: Mapping[str, Any], fail: Callable[[str], Exception]
) -> None:
    """Raise an error if an argument has another value than in the run that is resumed.

    Args:
        saved: arguments in the checkpoint.
        given: arguments now.
        fail: makes an exception from a message.

    Raises:
        Exception: of `fail`.
    """
    if names := changed(saved, given):
        was, now = as_words(saved, names), as_words(given, names)
        raise fail(
            f"the checkpoint was saved with {was}, and {now} comes too late: resume with {was}."
        )
