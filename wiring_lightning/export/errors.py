"""The error of this floor."""

import re
from collections.abc import Iterator
from contextlib import contextmanager


class ExportError(RuntimeError):
    """A network cannot be exported, or an exported file cannot be read or is wrong."""


def first_line(error: BaseException) -> str:
    r"""What an error says first, without the colours of a terminal, or its name.

    Example:
        >>> first_line(ValueError("\x1b[96mno\x1b[0m.\nmore")), first_line(ValueError())
        ('no', 'ValueError')
    """
    said = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return said.strip().partition("\n")[0].rstrip(".") or type(error).__name__


def first_cause(error: BaseException) -> BaseException:
    """The error that others were raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def needs_extra(what: str) -> Iterator[None]:
    """Turn a missing package into a sentence that names the pip command.

    Example:
        >>> with needs_extra("Writing .onnx"):
        ...     import no_such_package
        Traceback (most recent call last):
        ...
        wiring_lightning.export.errors.ExportError: Writing .onnx needs no_such_package: pip install
        'wiring_lightning[export]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ExportError(
            f"{what} needs {error.name}: pip install 'wiring_lightning[export]'"
        ) from error
