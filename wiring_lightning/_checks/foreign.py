"""Whether an error is one of the user's own code."""

import sysconfig
import traceback
from pathlib import Path


def has_foreign_code(error: Exception) -> bool:
    """Whether an error has come through code that is no part of this package or a library."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(
        _is_foreign(str(frame.f_globals.get("__name__")), frame.f_code.co_filename)
        for frame in frames
    )


def _is_foreign(name: str, file: str) -> bool:
    """Whether a line of a traceback is neither this package nor an installed library."""
    if name.startswith("wiring_lightning") or file.startswith("<"):
        return False
    folders = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    return not any(Path(file).is_relative_to(folder) for folder in folders)
