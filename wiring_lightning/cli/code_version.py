"""Which code made a run: written into its config.yaml as a comment, and read again."""

import re
import subprocess
from functools import lru_cache
from pathlib import Path

from wiring_lightning import __version__

_PACKAGE = Path(__file__).parents[1]
_SECONDS = 20  # git never takes that long; without a limit, a network drive could hold up a run


@lru_cache(maxsize=1)
def code_version() -> str:
    """The version of this package, and in a checkout the commit, and whether files were changed.

    Example:
        >>> code_version().startswith(__version__)
        True
    """
    commit = _commit(_PACKAGE)
    return __version__ + (f"+{commit}" if commit else "")


def header() -> str:
    """The line that a saved config begins with."""
    return f"# wiring_lightning=={code_version()}\n"


def version_in(config: str) -> str | None:
    """The version in the text of a saved config; `None` if it holds none.

    Example:
        >>> version_in("# wiring_lightning==0.1.0+1a2b3c4d5e6f")
        '0.1.0+1a2b3c4d5e6f'
    """
    found = re.search(r"^# wiring_lightning==(\S+)$", config, re.MULTILINE)
    return found[1] if found else None


def _commit(folder: Path) -> str | None:
    """The commit of a folder that git follows; `None` if it does not, or git is not there."""
    # A package that is installed inside another project's checkout is not followed there.
    if _git(folder, "ls-files", "__init__.py") != "__init__.py":
        return None
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{commit}.changed" if commit and changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, check=True, timeout=_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
