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
# What gloo, NCCL and torch's store say when the process at the other end is gone.
_OTHER_ENDED = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Did the remote server shutdown or crash",
    "ncclRemoteError",
    "remote process exit",
)
# Where those that start processes put their numbers: torchrun, Lightning and SLURM.
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn a problem that the user can solve into one sentence.

    An error that comes out of the user's own code keeps its traceback. One that comes from here or
    from a library for no reason that is known ends in a sentence that says so.
    """
    try:
        yield
    except KeyboardInterrupt:
        note("interrupted")
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
    _write(f"error: {shorten(message, _LONGEST)}")
    raise SystemExit(2) from None


def note(message: str) -> None:
    """Say what is worth knowing, and go on. Not on stdout, which a program may read."""
    _write(shorten(message, _LONGEST))


def _write(line: str) -> None:
    """Write a line. Processes of one run may say the same: all but the first one say which."""
    rank = _rank()
    sys.stderr.write(f"{f'[rank: {rank}] ' if rank else ''}wiring: {line}\n")


def _rank() -> int:
    """The number of this process in its run, as far as it is known yet."""
    distributed = sys.modules.get("torch.distributed")  # which is slow to import
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    given = (os.environ.get(name, "") for name in _RANKS)
    return next((int(rank) for rank in given if rank.isdecimal()), 0)


def _lost_another(error: Exception, text: str) -> bool:
    """Whether an error says that another process of this run has ended."""
    from torch import distributed

    return (
        isinstance(error, RuntimeError)
        and any(words in text for words in _OTHER_ENDED)
        and distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def _for_users(error: Exception) -> str | None:
    """What an error means to the user; `None` if it comes out of the user's own code."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    text = one_line(str(error))
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        return (
            "there is not enough memory: make the network, the images or the batches smaller "
            f"({shorten(text, 120) or 'no number given'})"
        )
    if _lost_another(error, text):
        return (
            "another process of this run has ended; its own message says why, and --ckpt_path last "
            "goes on with a fit from its newest checkpoint"
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
