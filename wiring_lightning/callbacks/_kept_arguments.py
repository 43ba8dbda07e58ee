"""Arguments of a learner that a run that resumes cannot change."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Before(NamedTuple):
    """With what a run goes on, in words.

    Args:
        had: before what it had.
        go_on: what the user may do.
        otherwise: and what if not.
    """

    had: str
    go_on: str
    otherwise: str


CHECKPOINT = Before("the checkpoint was saved with", "resume with", "")
LAST_FIT = Before("the last fit of this trainer had", "go on with", ", or use a new Trainer")


def came_from(continues: bool) -> Before:
    """What a run goes on from: the last fit of its trainer, or else a checkpoint."""
    return LAST_FIT if continues else CHECKPOINT


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
    saved: Mapping[str, Any],
    given: Mapping[str, Any],
    fail: Callable[[str], Exception],
    before: Before = CHECKPOINT,
) -> None:
    """Raise an error if an argument has another value than in the run that is resumed.

    Args:
        saved: arguments in the checkpoint.
        given: arguments now.
        fail: makes an exception from a message.
        before: where the saved ones are from.

    Raises:
        Exception: of `fail`.
    """
    if names := changed(saved, given):
        was, now = as_words(saved, names), as_words(given, names)
        raise fail(
            f"{before.had} {was}, and {now} comes too late: {before.go_on} {was}{before.otherwise}."
        )
