"""`python -m wiring_lightning.cli.sweep_child ARGUMENTS`: `wiring`, as long as its parent lives.

If a sweep is killed, its runs must end, too: the next call goes on with them, and two processes
must not write into one folder.
"""

import os
import signal
import sys
import threading
import time

from wiring_lightning.cli.commands import main


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    signal.raise_signal(signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    main(sys.argv[1:])
