"""Short names of run folders that are told apart."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Short distinct names of folders: their paths without common first and last parts.

    Example:
        >>> distinct_names([Path("seed1/logs/version_0"), Path("seed2/logs/version_0")])
        ['seed1', 'seed2']
        >>> distinct_names([Path("lightning_logs/version_0"), Path("lightning_logs/version_1")])
        ['version_0', 'version_1']
        >>> distinct_names([Path("lightning_logs/version_0")])
        ['version_0']
    """
    paths = [folder.resolve().parts for folder in folders]
    if len(paths) == 1:
        return [paths[0][-1]]
    first = _shared(paths)
    last = last_shared([path[first:] for path in paths])
    # A folder that holds another one would have no name left.
    return ["/".join(path[first : len(path) - last]) or path[-1] for path in paths]


def last_shared(paths: Sequence[Sequence[str]]) -> int:
    """Number of parts that all paths end with."""
    return _shared([path[::-1] for path in paths])


def _shared(paths: Sequence[Sequence[str]]) -> int:
    """Number of parts that all paths begin with."""
    return len(list(takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))))
