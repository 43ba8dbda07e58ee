"""One command with the files that it reads, and how it may end."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from tests.cli.commands import wiring

# Far more than any case takes, on a busy machine too.
SECONDS = 120
# What a case may ask a config to run; no case may leave it behind.
RAN = "ran_something"


@dataclass(frozen=True)
class Case:
    """A command line, run in an empty folder that holds these files.

    Args:
        name: what is wrong, in words.
        arguments: the command line behind `wiring`.
        files: content by the path in the folder.
    """

    name: str
    arguments: Sequence[str]
    files: Mapping[str, bytes] = field(default_factory=dict)


class Hangs(BaseException):
    """A case took too long. No `Exception`, so that nothing catches it on the way."""


def complaint(case: Case, folder: Path) -> str | None:
    """Run a case in `folder`, and say what is wrong with how it ended; `None` if it ended well.

    It ends well if it succeeds, or with exit code 2 and one sentence as the last line on stderr.
    """
    folder.mkdir(parents=True)
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    try:
        with _undisturbed(folder), _time_limit():
            run = wiring(*case.arguments)
    except Hangs:
        return f"takes more than {SECONDS} seconds"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"raises {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    if (folder / RAN).exists():
        return "runs a command of the config"
    if "Traceback" in run.err:
        return "writes a traceback"
    if run.code == 0:
        return None
    if run.code != 2:
        return f"ends with exit code {run.code}: {run.err[-300:]}"
    *_, last = run.err.splitlines() or [""]
    if not last.startswith("wiring: error: ") or run.err.count("wiring: error: ") != 1:
        return f"does not end in one sentence: {run.err[-300:]}"
    if "WIRING_DEBUG" in last:  # the last net: nobody has worded it
        return f"ends in no sentence of its own: {last}"
    if not 20 < len(last) < 400 or "usage:" in run.err:
        return f"does not end in one short sentence: {run.err[:600]}"
    return None


Make = Callable[[Random, int], Case]
"""What makes one case by chance; the number is for its name."""

# So many cases are one test: each has a line of its own if it fails.
_BATCH = 50


@lru_cache(maxsize=8)
def make_cases(make: Make, count: int, seed: int) -> tuple[Case, ...]:
    """Different cases, the same for a seed every time."""
    random, cases = Random(seed), {}
    while len(cases) < count:
        case = make(random, len(cases))
        cases.setdefault((*case.arguments, *sorted(case.files.items())), case)
    return tuple(cases.values())


@dataclass(frozen=True)
class Batch:
    """Some of the cases of a kind; they are made when they run."""

    make: Make
    count: int
    seed: int
    start: int

    def check(self, folder: Path) -> None:
        """Run the cases, and fail with a line for each that ends badly."""
        cases = make_cases(self.make, self.count, self.seed)[self.start : self.start + _BATCH]
        bad = []
        for number, case in enumerate(cases):
            wrong = complaint(case, folder / str(number))
            if wrong is not None:
                bad.append(f"{case.name}: wiring {' '.join(case.arguments)}: {wrong}")
        assert not bad, f"{len(bad)} of {len(cases)}:\n" + "\n".join(bad)


def batches(make: Make, count: int, seed: int) -> list[Batch]:
    """All cases of a kind, in parts that are a test each."""
    return [Batch(make, count, seed, start) for start in range(0, count, _BATCH)]


@contextmanager
def _undisturbed(folder: Path) -> Iterator[None]:
    """Work in a folder, and take back what a run changes in its process."""
    environment, before = dict(os.environ), signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("WIRING_DEBUG", raising=False)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            torch.use_deterministic_algorithms(False)
            torch.set_default_dtype(torch.float32)
            torch.autograd.set_detect_anomaly(False)
    os.environ.clear()
    os.environ.update(environment)


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
