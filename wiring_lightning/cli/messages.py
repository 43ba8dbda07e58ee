"""Errors of the command line: one sentence and exit code 2."""

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import NoReturn

# Starts of lines in which jsonargparse describes the other types that it has tried.
_ASIDES = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a <class 'NoneType'>",
    "Not a valid subclass of",
    "Subclass types expect",
    "a class path (str)",
    "a dict with",
)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Print one sentence for an error that the user can solve; others keep their traceback."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("wiring: interrupted\n")
        raise SystemExit(1) from None
    except Exception as error:
        if os.environ.get("WIRING_DEBUG") or not _is_for_users(error):
            raise
        fail(one_line(str(error)))


def fail(message: str) -> NoReturn:
    """Print an error, and end the process."""
    sys.stderr.write(f"wiring: error: {message}\n")
    raise SystemExit(2) from None


def _is_for_users(error: Exception) -> bool:
    """Whether an error is worded for users; a `RuntimeError` only if this package raised it."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    if isinstance(error, (FloatingPointError, MisconfigurationException, OSError, ValueError)):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = str(frames[-1].f_globals.get("__name__")).startswith("wiring_lightning.")
    return ours and isinstance(error, RuntimeError)


def one_line(message: str) -> str:
    """The key and the first reason in an error message of jsonargparse.

    Example:
        >>> one_line('''Parser key "model":
        ...   Problem with given class_path 'package.Net':
        ...     Option 'dept' is not accepted''')
        "model: Net has no option 'dept'"
    """
    keys: list[str] = []
    reasons: list[str] = []
    owner = "the class"
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        if key := re.match(r'Parser key "(.+?)": *', text):
            keys.append(key[1])
            text = text[key.end() :]
        if given := re.match(r"Problem with given class_path '(.+?)': *", text):
            owner = given[1].rpartition(".")[2]
            text = text[given.end() :]
        if option := re.match(r"Option '(.+)' is not accepted", text):
            text = f"{owner} has no option '{option[1]}'"
        if name := re.search(r"Expected a dot import path string: (.+)", text):
            text = text[: name.start()] + _unknown_class(name[1])
            reasons.clear()  # of trying the name as a file
        if text and not text.startswith(_ASIDES):
            reasons.append(text)
    if not (keys or message.startswith(_ASIDES)):
        return " ".join(reasons)
    return ": ".join(filter(None, [".".join(keys), *reasons[:1]]))


def _unknown_class(name: str) -> str:
    from wiring_lightning import backbones, callbacks, data, tasks

    packages = (backbones, callbacks, data, tasks)
    known = {known.lower(): known for package in packages for known in package.__all__}
    close = [known[match] for match in get_close_matches(name.lower(), known)]
    hint = "give its import path, package.module.Class"
    if close and close[0] != name:
        hint = f"did you mean {close[0]}?"
    return f"there is no class '{name}'; {hint}"
