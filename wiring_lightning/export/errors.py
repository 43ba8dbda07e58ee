"""The error of this floor."""

from collections.abc import Iterator
from contextlib import contextmanager


class ExportError(RuntimeError):
    """A network cannot be exported, or an exported file cannot be read or is wrong."""


def first_line(error: BaseException) -> str:
    r"""What an error says first, or its name.

    Example:
        >>> first_line(ValueError("no.\nmore")), first_line(ValueError())
        ('no', 'ValueError')
    """
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


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
