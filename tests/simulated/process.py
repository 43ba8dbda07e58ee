"""Tests in a process of their own.

A simulated device is there for good, changes what torch does, and must be there before the first
backward pass of a process.
"""

import traceback
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch

from tests.simulated_device import unavailable


def in_own_process(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a process that is forked from one that has imported everything.

    It is skipped, with the reason, if the device cannot be simulated.
    """

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        server = get_context("forkserver")
        server.set_forkserver_preload(["tests.simulated.fits"])
        ours, theirs = server.Pipe(duplex=False)
        work = (test.__module__, test.__name__, args, kwargs, theirs)
        process = server.Process(target=_run, args=work)
        process.start()
        theirs.close()
        try:
            outcome, text = ours.recv()
        except EOFError:
            outcome, text = "failed", "the process ended without a word"
        process.join()
        if outcome == "skipped":
            pytest.skip(text)
        if outcome == "failed":
            pytest.fail(text, pytrace=False)

    return run


def _run(
    module: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Connection
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if (reason := unavailable()) is not None:
        answer.send(("skipped", reason))
        return
    try:
        getattr(import_module(module), name).__wrapped__(*args, **kwargs)
    except BaseException:
        answer.send(("failed", traceback.format_exc()))
    else:
        answer.send(("passed", ""))
