"""Several runs: those that lack something are passed over, and none counts twice."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from wiring_lightning.cli.messages import note
from wiring_lightning.cli.run_checkpoints import checkpoints_of
from wiring_lightning.cli.runs import Run, RunError, UnfinishedError, find_run

Given = TypeVar("Given", Path, Run)


def find_runs(folders: Sequence[Path], trust: bool = False) -> list[Run]:
    """Read the runs in several folders; folders without a run are passed over with a note.

    Args:
        folders: as for `find_run`.
        trust: whether networks that are not of this package may be built.

    Raises:
        RunError: as `find_run`, if a run is given twice, or if no folder holds one.
    """
    runs = _without_unfinished(folders, lambda folder: find_run(folder, trust))
    for folder, count in Counter(run.folder.resolve() for run in runs).items():
        if count > 1:
            raise RunError(f"The run {folder} is given {count} times: give it once.")
    return runs


def finished(runs: Sequence[Run], *needed: Callable[[Run], object]) -> list[Run]:
    """The runs that have what is needed, and every checkpoint once; a note says what is left out.

    Args:
        runs: at least one.
        needed: each reads something of a run, and raises `UnfinishedError` if it is not there.

    Raises:
        RunError: if no run has it.
    """

    def complete(run: Run) -> Run:
        for read in needed:
            read(run)
        return run

    return tested_once(_without_unfinished(runs, complete))


def _without_unfinished(given: Sequence[Given], read: Callable[[Given], Run]) -> list[Run]:
    """What `read` gives, without what is not finished; an error if nothing is."""
    runs: list[Run] = []
    unfinished: list[UnfinishedError] = []
    for one in given:
        try:
            runs.append(read(one))
        except UnfinishedError as error:
            unfinished.append(error)
    if unfinished and not runs:
        raise unfinished[0]
    for problem in unfinished:
        note(f"skipped, {problem.why}: {problem}")
    return runs


def tested_once(runs: Sequence[Run]) -> list[Run]:
    """The runs without those that tested a checkpoint of another one, or the same again."""
    kept: list[Run] = []
    for run in sorted(runs, key=lambda run: run.tested is not None):  # those that trained first
        path = run.tested
        same = [
            other
            for other in kept
            if path is not None and (path == other.tested or _holds(other, path))
        ]
        if same:
            note(f"{run.folder} tests a checkpoint of {same[0].folder} again: counted once")
        else:
            kept.append(run)
    return [run for run in runs if run in kept]


def _holds(run: Run, checkpoint: Path) -> bool:
    """Whether a checkpoint, of which all links are followed, is one of a run."""
    below = checkpoint.is_relative_to(run.folder.resolve())
    return below or checkpoint in [path.resolve() for path in checkpoints_of(run.folder)]
