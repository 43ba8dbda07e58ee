"""All that a GPU can say about this package, in one command and one file.

    python -m benchmarks.on_a_gpu          # 8 minutes, writes results/gpu_<name>.md
    python -m benchmarks.on_a_gpu --dry    # tiny networks on the CPU, into a temporary folder

Needs no network. In this order:

1. the tests of `tests/suites/test_on_a_gpu.py`;
2. training steps of every method against its plain twin (`benchmarks.twins`), batch 64 and 256, in
   float32 and under bfloat16 autocast;
3. a short training on real digits of each method in `tests/methods.py`;
4. the steps once more under `torch.compile`, until the time is used up.

Measuring happens in a process of its own. What fails or takes too long is a sentence in its row,
and the next row goes on. Ctrl-C ends the run; the file has all rows until then.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.gpu_cells import (
    Setting,
    Times,
    Training,
    device_name,
    machine_facts,
    step_times,
    train_on_digits,
)
from benchmarks.gpu_report import Report, Table, file_name
from benchmarks.gpu_tests import run_tests
from benchmarks.steps import ratio
from benchmarks.twins import Pair, pairs
from benchmarks.worker import CallFailedError, Worker
from tests.methods import METHODS

R = TypeVar("R")
# Parts of the time up to whose end each part may go on; what it leaves goes to the next. Imports
# before the start take the rest.
_TESTS, _STEPS, _TRAININGS, _ALL = 0.3, 0.6, 0.8, 0.95
_ROW = 0.2  # of the time, for one row at most
# Networks that compile fast come first.
_COMPILED = ("resnext", "neural-graph", "mobilenet", "sparsenet", "dnw", "fabric", "resnet")
_STEP_COLUMNS = ("method", "plain twin", "batch", "precision", "step", "twin", "ratio",
                 "images/s", "twin", "peak MiB", "twin")  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What to measure: on a GPU by default."""

    device: str = "cuda"
    tests: str = "cuda-"
    batches: Sequence[int] = (64, 256)
    rounds: int | None = None
    trained: Sequence[str] = tuple(method.name for method in METHODS)
    epochs: int = 3
    train_batches: int | None = None
    compiled: Sequence[str] = _COMPILED
    backend: str = "inductor"

    @property
    def tiny(self) -> bool:
        """Whether networks are those of a test."""
        return self.device == "cpu"


DRY = Plan(
    device="cpu",
    tests="cpu-neural-graph",
    batches=(2,),
    rounds=1,
    trained=("resnext-learned", "conv-fabric"),
    epochs=1,
    train_batches=2,
    compiled=("neural-graph",),
    backend="eager",  # needs no compiler
)


class Run:
    """One run: what to measure, until when, and where it is written.

    Args:
        plan: what to measure.
        minutes: for all of it.
        folder: of the report.
        worker: where it is measured.
        command: as it was given.
    """

    def __init__(
        self, plan: Plan, minutes: float, folder: Path, worker: Worker, command: str
    ) -> None:
        self.plan = plan
        self.minutes = minutes
        self.worker = worker
        self._start = time.monotonic()
        self._pairs = pairs(plan.tiny)
        name, facts = plan.device, plan.device
        try:
            name = worker.call(self._left(_TESTS), device_name, plan.device)
            facts = worker.call(self._left(_TESTS), machine_facts, plan.device)
        except CallFailedError as error:
            facts = f"failed: {error}"
        facts = f"{facts}. {date.today().isoformat()}, `{command}`."
        self.report = Report(folder / file_name(name), name, facts)

    def go(self) -> None:
        """All parts, one after another."""
        ending = "The run ended with an error."
        try:
            self._tests()
            self._steps()
            self._trainings()
            self._compiled()
            ending = "All parts came to their end."
        except KeyboardInterrupt:
            ending = "The run was stopped with Ctrl-C."
        finally:
            used = (time.monotonic() - self._start) / 60
            self.report.state = f"{ending} It took {used:.1f} of {self.minutes:g} minutes."
            self.report.write()

    def _left(self, part: float) -> float:
        """Seconds until a part of the time is used up."""
        return self._start + part * self.minutes * 60 - time.monotonic()

    def _tests(self) -> None:
        table = self.report.table("Tests", "test", "passed", "failed", "skipped")
        found = run_tests(self._left(_TESTS), self.plan.tests)
        for test, counts in found.counts.items():
            self.report.add(table, test, *counts.values())
        if found.problem:
            table.notes.append(f"failed: {found.problem}.")
        table.notes += [f"failed: `{test}` {text}" for test, text in found.failures.items()]

    def _steps(self) -> None:
        settings = [
            Setting(self.plan.device, self.plan.tiny, batch, amp, rounds=self.plan.rounds)
            for batch in self.plan.batches
            for amp in (False, True)
        ]
        table = self.report.table("Training steps", *_STEP_COLUMNS)
        table.notes.append(_caption())
        for name, pair in self._pairs.items():
            for setting in settings:
                measure = partial(self.worker.call, function=step_times, name=name, setting=setting)
                cells = self._try(_STEPS, measure, partial(_step_cells, batch=setting.batch))
                self.report.add(table, *_step_head(pair, setting), *_padded(cells, 7))

    def _trainings(self) -> None:
        table = self.report.table("Short trainings on digits", "method", "epochs",
                                  "test accuracy", "training loss", "seconds")  # fmt: skip
        table.notes.append(
            "Networks of `tests/methods.py`, batches of 32 from 1,197 images of 8 x 8; chance is "
            "10 %. Seconds include the start."
        )
        for name in self.plan.trained:
            measure = partial(
                self.worker.call, function=train_on_digits, name=name, device=self.plan.device,
                epochs=self.plan.epochs, batches=self.plan.train_batches,
            )  # fmt: skip
            cells = self._try(_TRAININGS, measure, _training_cells)
            self.report.add(table, name, *_padded(cells, 4))

    def _compiled(self) -> None:
        table = self.report.table("Training steps under torch.compile", *_STEP_COLUMNS,
                                  "first step", "twin")  # fmt: skip
        table.notes.append(
            f"{_caption()} The networks are compiled (backend {self.plan.backend}), and the first "
            "step includes that. A method that failed is not tried at other sizes."
        )
        failed: dict[str, str] = {}
        for batch in reversed(self.plan.batches):
            for amp in (True, False):
                setting = Setting(self.plan.device, self.plan.tiny, batch, amp,
                                  self.plan.backend, rounds=self.plan.rounds)  # fmt: skip
                for name in self.plan.compiled:
                    self._compiled_row(table, name, setting, failed)

    def _compiled_row(
        self, table: Table, name: str, setting: Setting, failed: dict[str, str]
    ) -> None:
        measure = partial(self.worker.call, function=step_times, name=name, setting=setting)
        cells = ["not run: see its row above"]
        if name not in failed:
            cells = self._try(_ALL, measure, partial(_compiled_cells, batch=setting.batch))
            if len(cells) == 1:
                failed[name] = cells[0]
        self.report.add(table, *_step_head(self._pairs[name], setting), *_padded(cells, 9))

    def _try(
        self, part: float, measure: Callable[[float], R], cells: Callable[[R], list[str]]
    ) -> list[str]:
        """The cells of a row, or one that says why there are none."""
        left = self._left(part)
        if left < 5:
            return ["not run: the time was used up"]
        try:
            return cells(measure(min(left, _ROW * self.minutes * 60)))
        except CallFailedError as error:
            return [f"failed: {error}"]


def main(arguments: Sequence[str] | None = None) -> Path:
    options = _options(arguments)
    if not options.dry and not torch.cuda.is_available():
        sys.exit("No GPU with CUDA was found: run this on a machine with one, or add --dry.")
    folder = Path(__file__).parents[1] / "results"
    if options.dry:
        folder = Path(tempfile.mkdtemp())
    words = sys.argv[1:] if arguments is None else arguments
    command = " ".join(["python -m benchmarks.on_a_gpu", *words])
    plan = DRY if options.dry else Plan()
    with Worker() as worker:
        run = Run(plan, options.minutes, options.folder or folder, worker, command)
        run.go()
    print(f"{run.report.state} Written: {run.report.path}")
    return run.report.path


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dry", action="store_true", help="tiny networks on the CPU, into a temporary folder"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all of it")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    return parser.parse_args(arguments)


def _caption() -> str:
    return (
        "In a round each network takes one step; ratio is the median of the ratios within a round "
        "(95 % interval of the median). A step is forward, backward, SGD with momentum and what "
        "the method does. Images are 3 x 32 x 32 and lie on the device. float32 is with PyTorch's "
        "defaults: TensorFloat-32 in convolutions, not in matrix products."
    )


def _step_head(pair: Pair, setting: Setting) -> list[str]:
    return [pair.method, pair.twin, f"{setting.batch}", setting.precision]


def _step_cells(times: Times, batch: int) -> list[str]:
    method, twin = times.medians
    return [
        f"{method:.1f} ms", f"{twin:.1f} ms", ratio(*times.milliseconds),
        f"{batch * 1e3 / method:,.0f}", f"{batch * 1e3 / twin:,.0f}",
        *(f"{memory:.0f}" for memory in times.memory),
    ]  # fmt: skip


def _compiled_cells(times: Times, batch: int) -> list[str]:
    return [*_step_cells(times, batch), *(f"{seconds:.0f} s" for seconds in times.first)]


def _training_cells(training: Training) -> list[str]:
    return [f"{training.epochs}", f"{training.accuracy:.1%}", f"{training.loss:.3f}",
            f"{training.seconds:.1f}"]  # fmt: skip


def _padded(cells: list[str], width: int) -> list[str]:
    """A row that failed has one cell, and empty ones behind it."""
    return cells + [""] * (width - len(cells))


if __name__ == "__main__":
    main()
