"""A run of a sweep as a trial of Ray Tune: a process of `wiring fit`, and what it has measured."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ray import tune
from typing_extensions import override

from wiring_lightning.cli.run_scalars import read_scalars
from wiring_lightning.cli.sweep_state import Planned

_WAIT = 1.0  # seconds between two looks at a run
_PATIENCE = 30.0  # seconds that a process gets to end by itself


class FitTrial(tune.Trainable):  # type: ignore[misc]  # ray is not typed where it is not there
    """Starts the run, or goes on with it, and reports after every validation.

    A run that fails is no error of its trial, so no other trial stops: its exit code is the `code`
    of the last result. If the machine of a run is lost, Tune starts the trial on another one, which
    goes on from the last checkpoint.
    """

    @override
    def setup(self, config: dict[str, Any]) -> None:
        """Start the process in the folder that the sweep was started from."""
        self.run = Planned(config["name"], Path(config["root"]))
        self.metric = config["metric"]
        self.reported = self._measured().get("epoch", 0)  # what was there is no news
        command = [sys.executable, "-m", "wiring_lightning.cli.sweep_child", *self.run.command()]
        with self.run.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=config["folder"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @override
    def step(self) -> dict[str, Any]:
        """Wait until there is news; the last result has `done`."""
        while True:
            code = self.process.poll()
            measured = self._measured()
            if code is not None:
                if code == 0:
                    self.run.mark("done")
                # The median rule asks every run for its epoch, also one that measured nothing.
                return {"epoch": 0, **measured, "done": True, "code": code}
            if measured.get("epoch", 0) > self.reported:
                self.reported = measured["epoch"]
                return measured
            time.sleep(_WAIT)

    @override
    def cleanup(self) -> None:
        """End the process, if the median or the user has stopped the trial."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _measured(self) -> dict[str, Any]:
        """The number of validations and the last value; empty before the first."""
        if not self.run.folder.is_dir():
            return {}
        values = read_scalars(self.run.folder).get(self.metric, [])
        if not values:
            return {}
        # A run that went on may have measured after one step twice.
        return {
            "epoch": len({value.step for value in values}),
            self.metric: values[-1].value,
        }
