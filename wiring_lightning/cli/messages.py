"""How the command line says that something is wrong: in one sentence, with exit code 2."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from wiring_lightning._checks import has_foreign_code
from wiring_lightning.cli.parse_errors import one_line
from wiring_lightning.cli.text import shorten

# A sentence that is longer is cut: it holds a value that is.
_LONGEST = 360
# What libraries say when memory is asked for that is not there.
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Storage size calculation overflowed",
    "numel: integer multiplication overflow",
    "too large to convert",
    "invalid size, tensor numel",
)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn a problem that the user can solve into one sentence.

    An error that comes out of the user's own code keeps its traceback. One that comes from here or
    from a library for no reason that is known ends in a sentence that says so.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("wiring: interrupted\n")
        raise SystemExit(1) from None
    except Exception as error:
        if os.environ.get("WIRING_DEBUG"):
            raise
        message = _for_users(error)
        if message is None:
            raise
        fail(message)


def fail(message: str) -> NoReturn:
    """Say what is wrong, and end the process."""
    sys.stderr.write(f"wiring: error: {shorten(message, _LONGEST)}\n")
    raise SystemExit(2) from None


def note(message: str) -> None:
    """Say what is worth knowing, and go on. Not on stdout, which a program may read."""
    sys.stderr.write(f"wiring: {shorten(message, _LONGEST)}\n")


def _for_users(error: Exception) -> str | None:
    """What an error means to the user; `None` if it comes out of the user's own code."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    text = one_line(str(error))
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        return (
            "there is not enough memory: make the network, the images or the batches smaller "
            f"({shorten(text, 120) or 'no number given'})"
        )
    worded = (FloatingPointError, MisconfigurationException, OSError, ValueError)
    if isinstance(error, worded) and text:
        return text
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [str(frame.f_globals.get("__name__")) for frame in frames]
    if isinstance(error, RuntimeError) and names[-1].startswith("wiring_lightning."):
        return text  # raised by this package, and worded for users
    if has_foreign_code(error):
        return None
    if isinstance(error, ModuleNotFoundError):
        return text  # a library names the one that it needs for what was asked for
    # In the end whatever a library says about what it was given.
    where = next(name for name in reversed(names) if name.startswith("wiring_lightning"))
    return (
        f"unexpected {type(error).__name__}: {shorten(text, 200)} (in {where}); WIRING_DEBUG=1 "
        "shows the traceback"
    )
