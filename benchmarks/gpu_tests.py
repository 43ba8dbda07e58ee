"""Runs the tests that need a GPU in a process of their own, and reads what became of each."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

_FILE = "tests/suites/test_on_a_gpu.py"
_OUTCOME = re.compile(r"\b(PASSED|FAILED|SKIPPED|ERROR)\b")
_TEST = re.compile(r"::(?P<test>\w+)\[(?P<row>[^\s\]]+)\]")
_PROCESSES = 4  # each trains networks that leave a GPU mostly idle


@dataclass
class Outcomes:
    """What became of the tests.

    Attributes:
        counts: of each test, how many of its rows passed, failed and were skipped.
        failures: `"test[row]: message"`.
        problem: why there may be fewer than there should be.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


def run_tests(limit: float, only: str) -> Outcomes:
    """Run some of the tests; those that did not end within the limit are missing.

    Args:
        limit: seconds.
        only: an expression for `pytest -k`: `"cuda-"` is in the name of all rows on a GPU.
    """
    if importlib.util.find_spec("pytest") is None:
        return Outcomes(problem="pytest is not installed")
    # `-o addopts=`: without pytest-xdist, the options of pyproject.toml are an error.
    command = [sys.executable, "-m", "pytest", _FILE, "-v", "-rfE", "--tb=no", "-o", "addopts=",
               "-p", "no:cacheprovider", "-k", only]  # fmt: skip
    if importlib.util.find_spec("xdist") and (os.cpu_count() or 1) >= 2 * _PROCESSES:
        command += ["-n", str(_PROCESSES)]
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "240", "NO_COLOR": "1"}
    problem = None
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(limit)
            # 1 is a test that failed, which the table says.
            problem = None if code in (0, 1) else f"pytest ended with code {code}"
        except subprocess.TimeoutExpired:
            problem = f"pytest was not done after {limit:.0f} s"
        finally:
            _end(process)
        output.seek(0)
        text = output.read()
    found = read_outcomes(text)
    found.problem = problem
    if problem and not found.counts:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "no output")
        found.problem = f"{problem}: {last[:160]}"
    return found


def read_outcomes(text: str) -> Outcomes:
    """Read what `pytest -v -rfE` printed, however early it ended.

    Example:
        >>> found = read_outcomes("tests/t.py::test_a[cuda-x] PASSED [ 50%]")
        >>> found.counts
        {'test_a': {'passed': 1, 'failed': 0, 'skipped': 0}}
    """
    found = Outcomes()
    for line in text.splitlines():
        test, outcome = _TEST.search(line), _OUTCOME.search(line)
        if test is None or outcome is None:
            continue
        name = f"{test['test']}[{test['row']}]"
        if line.startswith(("FAILED", "ERROR")):  # the list at the end
            found.failures[name] = line.partition(" - ")[2]
            continue
        kind = {"PASSED": "passed", "SKIPPED": "skipped"}.get(outcome[1], "failed")
        row = found.counts.setdefault(test["test"], {"passed": 0, "failed": 0, "skipped": 0})
        row[kind] += 1
        if kind == "failed":
            found.failures.setdefault(name, "")
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that still runs, and those that it started."""
    if process.poll() is None:
        if sys.platform != "win32":
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
