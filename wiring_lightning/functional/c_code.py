"""Functions in C that are compiled when they are first used, if this machine has a compiler."""

import ctypes
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import warnings
from functools import lru_cache
from pathlib import Path


@lru_cache
def c_library(source: Path) -> ctypes.CDLL | None:
    """Compile a C file for this processor and load it, once for each process.

    The compiler is the one that the environment variable `CC` names, or else that of this Python,
    or `cc`. Compiling takes about a second. Nothing is kept on disk.

    Args:
        source: the file; it includes C's own headers and files beside it.

    Returns:
        The library, or `None` where there is no compiler, or where it fails, which a warning says.

    Example:
        >>> from tempfile import mkdtemp
        >>> source = Path(mkdtemp()) / "three.c"
        >>> _ = source.write_text("int three(void) { return 3; }")
        >>> library = c_library(source)
        >>> library is None or library.three() == 3
        True
    """
    command = _compiler()
    if command is None:
        return None
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            library = Path(folder) / f"{source.stem}.so"
            options = ["-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), str(source)]
            done = subprocess.run(
                [*command, *options], capture_output=True, text=True, check=False, errors="replace"
            )
            if done.returncode == 0:
                return ctypes.CDLL(str(library))
            reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
    except OSError as error:
        reason = str(error)
    warnings.warn(
        f"{source.name} could not be compiled with {' '.join(command)!r}, so the same is computed "
        f"with torch's operators, which takes longer: {reason}",
        stacklevel=2,
    )
    return None


def _compiler() -> list[str] | None:
    """The command of a C compiler that is there, such as `["ccache", "gcc"]`."""
    for name in (os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc"):
        try:
            command = shlex.split(name or "")
        except ValueError:  # a quotation mark is missing: no such command is there
            continue
        if command and shutil.which(command[0]):
            return command
    return None
