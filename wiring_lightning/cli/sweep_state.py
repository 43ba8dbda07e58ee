"""What a sweep remembers: a run folder for every run, and beside them its config, log and mark."""

from dataclasses import dataclass
from pathlib import Path

from wiring_lightning.cli.run_checkpoints import checkpoints_of
from wiring_lightning.files import free_path, write_file

STATE = ".sweep"


class SweepError(RuntimeError):
    """A sweep cannot be planned or started."""


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Args:
        name: of its folder, such as `fan_in_4-seed_0`.
        root: the folder of the sweep.
    """

    name: str
    root: Path

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.root / self.name

    @property
    def config(self) -> Path:
        """The config that it trains."""
        return self.root / STATE / f"{self.name}.yaml"

    @property
    def log(self) -> Path:
        """What its process wrote."""
        return self.root / STATE / f"{self.name}.log"

    @property
    def ended(self) -> str | None:
        """`done`, or `stopped` if the median stopped it early; `None` if there is more to do."""
        marks = (mark for mark in ("done", "stopped") if self._mark(mark).exists())
        return next(marks, None) if self.folder.is_dir() else None

    def mark(self, how: str) -> None:
        """Remember that nothing is to do: `done` or `stopped`."""
        write_file(self._mark(how), b"")

    def checkpoint(self) -> Path | None:
        """The last checkpoint of a run that was interrupted."""
        return next(iter(checkpoints_of(self.folder)), None)

    def command(self) -> list[str]:
        """The arguments of `wiring` that begin the run, or go on with it.

        What an interrupted run left before its first checkpoint is moved aside.
        """
        last = self.checkpoint()
        if last is not None:
            return ["fit", "--config", str(self.config), "--ckpt_path", str(last)]
        if self.folder.exists():
            self.folder.rename(free_path(self.root / STATE / f"{self.name}.interrupted"))
        return ["fit", "--config", str(self.config)]

    def _mark(self, how: str) -> Path:
        return self.root / STATE / f"{self.name}.{how}"
