"""Running a sweep on Ray Tune: progress, failures, and early stopping by median."""

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, MedianStoppingRule
from typing_extensions import override

from wiring_lightning.cli.direction import less_is_better
from wiring_lightning.cli.parse_errors import one_line
from wiring_lightning.cli.sweep_state import STATE, Planned
from wiring_lightning.cli.sweep_trial import FitTrial

_RESTARTS = 3  # of a run whose machine was lost


class Progress(tune.Callback):  # type: ignore[misc]  # ray is not typed where it is not there
    """Says what happens to every run, in a line each, and keeps what failed.

    Args:
        runs: all runs of the sweep that are to do.
        finished: how many were done before.
        metric: the number that is shown.
    """

    def __init__(self, runs: Sequence[Planned], finished: int, metric: str) -> None:
        self.runs = {run.name: run for run in runs}
        self.all = len(runs) + finished
        self.ended = finished
        self.metric = metric
        self.failed: dict[str, str] = {}

    @override
    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Say that a run begins or goes on."""
        run = self.runs[trial.config["name"]]
        self._say(run, "goes on" if run.checkpoint() else "begins")

    @override
    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Say what was measured."""
        if "code" not in result and self.metric in result:
            run = self.runs[trial.config["name"]]
            self._say(run, f"validation {result['epoch']}: {self.metric} {result[self.metric]:.4f}")

    @override
    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Count a run that is done, stopped or failed."""
        run = self.runs[trial.config["name"]]
        code = trial.last_result.get("code")
        self.ended += 1
        if code is None:
            run.mark("stopped")
            self._say(run, "stopped early, below the median")
        elif code:
            self._fail(run, f"exit code {code}: {_last_line(run.log)}")
        else:
            self._say(run, "done")

    @override
    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Count a run that could not be started, or whose machines were lost again and again."""
        self.ended += 1
        said = str(trial.get_error() or "its process was lost").strip().splitlines()[-1]
        self._fail(self.runs[trial.config["name"]], said)

    def _fail(self, run: Planned, why: str) -> None:
        self.failed[run.name] = one_line(why)
        self._say(run, f"FAILED ({self.failed[run.name]}), log: {run.log}")

    def _say(self, run: Planned, what: str) -> None:
        print(f"[{self.ended}/{self.all}] {run.name}: {what}", flush=True)


def run_all(
    runs: Sequence[Planned],
    finished: int,
    address: str | None,
    cpus: float,
    gpus: float,
    metric: str,
    grace: int | None,
) -> dict[str, str]:
    """Run what is to do, and return why runs have failed, by their names.

    Args:
        runs: at least one.
        finished: how many were done before.
        address: of a Ray cluster; `None` uses this machine.
        cpus: cores of each run.
        gpus: GPUs of each run.
        metric: what is shown, and what the median is of.
        grace: validations after which a run below the median is stopped; `None` stops none.

    Raises:
        ConnectionError: if there is no cluster at the address.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # runs log themselves
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # no value at a failure
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the other one prints tables of its own
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # failures are said here, in a line
    progress = Progress(runs, finished, metric)
    root = runs[0].root
    settings: dict[str, Any] = {} if address else {"include_dashboard": False}
    # Without an address Ray would join the last cluster of this machine, which may be long gone.
    ray.init(address or "local", logging_level=logging.CRITICAL, log_to_driver=False, **settings)
    try:
        _check_resources(cpus, gpus)
        tuner = tune.Tuner(
            tune.with_resources(FitTrial, {"cpu": cpus, "gpu": gpus}),
            param_space={
                "name": tune.grid_search([run.name for run in runs]),
                "root": str(root),
                "folder": str(Path.cwd()),
                "metric": metric,
            },
            tune_config=tune.TuneConfig(scheduler=_scheduler(metric, grace)),
            run_config=tune.RunConfig(
                storage_path=str(root / STATE / "ray"),
                failure_config=tune.FailureConfig(max_failures=_RESTARTS),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # runs save
                callbacks=[progress],
                verbose=0,
            ),
        )
        tuner.fit()
    finally:
        ray.shutdown()
    return progress.failed


def _scheduler(metric: str, grace: int | None) -> Any:
    """What decides which runs go on: all, or those that are not below the median."""
    if grace is None:
        return FIFOScheduler()
    mode = "min" if less_is_better(metric) else "max"
    # As long as there are too few others, Tune pauses a run to let others come as far. A pause is
    # the end of the process, so a run would start again for every epoch.
    return MedianStoppingRule(
        "epoch", metric=metric, mode=mode, grace_period=grace, min_time_slice=math.inf
    )


def _check_resources(cpus: float, gpus: float) -> None:
    """Refuse what would wait for ever: no machine has as much."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        most = max(node.get("CPU", 0) for node in nodes), max(node.get("GPU", 0) for node in nodes)
        raise RuntimeError(
            f"No machine has {cpus:g} cores and {gpus:g} GPUs for a run (at most {most[0]:g} and "
            f"{most[1]:g}): give smaller --cpus and --gpus."
        )


def _last_line(log: Path) -> str:
    """The last line of a log, which says why a run has failed."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return (
        lines[-1].removeprefix("wiring: ").removeprefix("error: ") if lines else "it said nothing"
    )
