"""The one command for a GPU: its dry run, and what becomes of a row that fails."""

import doctest
import os
import time
from operator import truediv
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import gpu_report, gpu_tests, on_a_gpu
from benchmarks.gpu_cells import Setting, Times, step_times, train_on_digits
from benchmarks.gpu_report import Report
from benchmarks.gpu_tests import Outcomes, read_outcomes
from benchmarks.on_a_gpu import DRY, Run, main
from benchmarks.twins import pairs
from benchmarks.worker import CallFailedError, Worker


@pytest.mark.parametrize("module", [gpu_report, gpu_tests])
def test_examples_run(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_a_report_is_whole_after_every_row(tmp_path: Path) -> None:
    report = Report(tmp_path / "gpu_x.md", "X", "facts")
    table = report.table("Steps", "method", "time")
    table.notes.append("A note.")
    for number in (1, 2):
        report.add(table, "a|b", number)
        assert report.path.read_text() == "\n".join(
            ["# On a GPU: X", "", "facts", "", "This run has not ended.", "", "## Steps", "",
             "| method | time |", "| --- | --- |",
             *(f"| a/b | {row} |" for row in range(1, number + 1)), "", "A note.", ""]
        )  # fmt: skip


def test_outcomes_are_read_with_one_process_or_several_and_from_half_an_output() -> None:
    text = """
tests/suites/t.py::test_a[cuda-resnext-real] PASSED                      [  1%]
[gw1] [  2%] FAILED tests/suites/t.py::test_a[cuda-sparsenet]
[gw0] [  2%] SKIPPED tests/suites/t.py::test_b[cuda-sparsenet-16-mixed] (why)
tests/suites/t.py::test_b[cuda-resnext-real-16-mixed] ERROR              [  3%]
tests/suites/t.py::test_b[cuda-resn"""
    found = read_outcomes(text)
    assert found.counts == {
        "test_a": {"passed": 1, "failed": 1, "skipped": 0},
        "test_b": {"passed": 0, "failed": 1, "skipped": 1},
    }
    assert found.failures == {
        "test_a[cuda-sparsenet]": "",
        "test_b[cuda-resnext-real-16-mixed]": "",
    }
    ended = f"{text}\nFAILED tests/suites/t.py::test_a[cuda-sparsenet] - AssertionError: no\n"
    found = read_outcomes(ended)
    assert found.counts["test_a"]["failed"] == 1
    assert found.failures["test_a[cuda-sparsenet]"] == "AssertionError: no"


@pytest.mark.parametrize("name", pairs(tiny=True))
def test_twins_take_steps(name: str) -> None:
    """In bfloat16; the dry run takes steps in float32, too."""
    times = step_times(name, Setting("cpu", tiny=True, batch=2, amp=True, rounds=1))
    assert isinstance(times, Times)
    assert all(len(each) == 1 for each in times.milliseconds)
    assert all(memory > 0 for memory in times.memory)
    assert pairs(tiny=True)[name].callbacks() or pairs(tiny=True)[name].learn is None


@pytest.mark.slow
def test_what_goes_wrong_in_a_worker_ends_in_a_sentence_and_the_next_call_works() -> None:
    with Worker() as worker:
        with pytest.raises(CallFailedError, match=r"^ZeroDivisionError: float division by zero$"):
            worker.call(600, truediv, 1.0, 0.0)
        assert worker.call(600, truediv, 1.0, 2.0) == 0.5
        process = worker.call(600, os.getpid)
        with pytest.raises(CallFailedError, match=r"^the process died with exit code 3$"):
            worker.call(600, os._exit, 3)
        assert worker.call(600, os.getpid) != process
        with pytest.raises(CallFailedError, match=r"^not done after 0 s$"):
            worker.call(0, time.sleep, 600)
        assert worker.call(600, truediv, 1.0, 4.0) == 0.25


class Broken(Worker):
    """Measures nothing, and is stopped with Ctrl-C at the first training."""

    def call(self, limit: float, function: Any, *args: Any, **kwargs: Any) -> Any:
        if function is step_times:
            raise CallFailedError("RuntimeError: no")
        if function is train_on_digits:
            raise KeyboardInterrupt
        return function(*args, **kwargs)


@pytest.mark.parametrize(
    ("minutes", "row"), [(60.0, "failed: RuntimeError: no"), (0.0, "not run: the time was used up")]
)
def test_rows_that_fail_and_ctrl_c_leave_a_report(
    minutes: float, row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Outcomes(problem="pytest is not installed")
    monkeypatch.setattr(on_a_gpu, "run_tests", lambda *_: missing)
    run = Run(DRY, minutes, tmp_path, Broken(), "a command")
    run.go()
    text = run.report.path.read_text()
    assert "failed: pytest is not installed." in text
    assert text.count(f"| {row} |") >= 2 * len(pairs())
    assert ("The run was stopped with Ctrl-C." in text) == (minutes > 0)
    assert ("under torch.compile" in text) == (minutes == 0)


@pytest.mark.slow
def test_the_dry_run_fills_every_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # All pairs take steps in `test_twins_take_steps`.
    few = {name: pairs(tiny=True)[name] for name in ("fabric", "neural-graph")}
    monkeypatch.setattr(on_a_gpu, "pairs", lambda tiny: few)
    # Many minutes: a busy machine must not cut it short.
    path = main(["--dry", "--minutes", "60", "--folder", str(tmp_path)])
    text = path.read_text()
    assert path == tmp_path / "gpu_cpu.md"
    assert "All parts came to their end." in text
    assert "failed:" not in text
    assert "not run:" not in text
    tables = {
        part.splitlines()[0]: [line for line in part.splitlines() if line.startswith("|")][2:]
        for part in text.split("\n## ")[1:]
    }
    assert {title: len(rows) for title, rows in tables.items()} == {
        "Tests": 8,
        "Training steps": 2 * len(few),
        "Short trainings on digits": 2,
        "Training steps under torch.compile": 2,
    }
    assert all(row.endswith("| 1 | 0 | 0 |") for row in tables["Tests"][:5])


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="No GPU with CUDA was found"):
        main([])
