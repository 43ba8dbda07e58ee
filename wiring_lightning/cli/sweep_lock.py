"""One sweep at a time in a folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wiring_lightning.cli.sweep_state import STATE, SweepError


@contextmanager
def only_sweep_in(root: Path) -> Iterator[None]:
    """Hold a folder as long as the sweep runs; a sweep that was killed holds nothing.

    Raises:
        SweepError: if another sweep holds it.
    """
    path = root / STATE / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SweepError(
                f"Another sweep is running in {root}: wait for it, or give this one another --out."
            ) from error
        yield
