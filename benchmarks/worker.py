"""A process beside this one that runs one function after another, each within a time limit.

What crashes, hangs or breaks the state of a GPU there ends in a sentence here, and the next
function gets a new process.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
_LONGEST = 160  # characters of an error


class CallFailedError(Exception):
    """What went wrong in the other process: class and first line of the exception."""


class Worker:
    """Calls functions in a process of its own.

    Example:
        >>> import math
        >>> with Worker() as worker:
        ...     worker.call(60.0, math.sqrt, 9.0)
        3.0
    """

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def call(self, limit: float, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of a function, which must be importable, as must its arguments.

        Args:
            limit: seconds after which the process is killed.
            function: what to call.
            args: its arguments.
            kwargs: its named arguments.

        Raises:
            CallFailedError: if the function raises an exception, the process dies, or the time is
                up.
        """
        try:
            connection = self._start()
            connection.send((function, args, kwargs))
            if not connection.poll(max(0.0, limit)):
                self.close()
                raise CallFailedError(f"not done after {limit:.0f} s")
            succeeded, healthy, result = connection.recv()
        except (EOFError, ConnectionError) as error:
            code = self.close()
            raise CallFailedError(f"the process died with exit code {code}") from error
        except BaseException:
            self.close()
            raise
        if not healthy:
            self.close()
        if not succeeded:
            raise CallFailedError(result)
        return result  # type: ignore[no-any-return]

    def close(self) -> int | None:
        """Kill the process, and return its exit code."""
        process, self._process = self._process, None
        if process is None or process.pid is None:
            return None
        if self._connection is not None:
            self._connection.close()  # it ends by itself if it waits for a call
        process.join(2)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if sys.platform != "win32":
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that compile
        process.kill()
        process.join()
        return process.exitcode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> Connection:
        if self._process is None or self._connection is None:
            context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs,))
            self._process.start()
            theirs.close()
        return self._connection


def first_line(error: BaseException) -> str:
    """Class and first line of an exception."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:_LONGEST].rstrip(": ")


def _serve(connection: Connection) -> None:
    """The life of the other process."""
    if sys.platform != "win32":
        os.setsid()  # Ctrl-C is for the first process, which then ends this one
    warnings.simplefilter("ignore")
    while True:
        try:
            function, args, kwargs = connection.recv()
        except EOFError:  # the first process has ended
            return
        succeeded, result = False, ""
        try:
            result = function(*args, **kwargs)
            succeeded = True
        except BaseException as error:
            result = first_line(error)
        connection.send((succeeded, succeeded or _recovers(), result))


def _recovers() -> bool:
    """Whether the GPU still answers after an error, with all memory free again."""
    gc.collect()
    if not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True
