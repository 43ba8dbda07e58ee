"""`python -m wiring_lightning.cli.sweep_child ARGUMENTS`: `wiring`, as long as its parent lives.

If a sweep is killed, its runs must end, too: the next call goes on with them, and two processes
must not write into one folder.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

from wiring_lightning.cli.commands import main


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    signal.raise_signal(signal.SIGKILL)


def run(arguments: Sequence[str]) -> None:
    """Run a command; only one that comes to its end ends with code 0, by which the sweep sees it.

    Raises:
        SystemExit: with another code.
    """
    try:
        main(arguments)
    except SystemExit as end:
        raise SystemExit(end.code or "the run ended before its fit did") from None


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    run(sys.argv[1:])
