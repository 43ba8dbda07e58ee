"""Old names that still work, and warn.

When a module moves, add a row to `MOVED`. When an argument or an attribute is renamed, use
`renamed_argument` or `renamed_attribute`.
"""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

from typing_extensions import override

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Old and new paths of moved modules, by the version that drops the old ones.
MOVED: Mapping[str, Mapping[str, str]] = {
    "0.2.0": {
        "wiring_lightning.figures": "wiring_lightning.cli.figure",
        "wiring_lightning.found": "wiring_lightning.cli.found",
        "wiring_lightning.messages": "wiring_lightning.cli.messages",
        "wiring_lightning.pareto": "wiring_lightning.cli.pareto",
        "wiring_lightning.report": "wiring_lightning.cli.report",
        "wiring_lightning.runs": "wiring_lightning.cli.runs",
        "wiring_lightning.short_names": "wiring_lightning.cli.short_names",
        "wiring_lightning.sparsity": "wiring_lightning.cli.report",
    },
}


def follow_moves() -> None:
    """Make the modules of `MOVED` importable under their old paths."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(
            0, _MovedModules()
        )  # before files of an older version that an upgrade left


class _MovedModules(MetaPathFinder, Loader):
    """Imports the new module under its old path, as the same module object."""

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        moved = any(fullname in paths for paths in MOVED.values())
        return ModuleSpec(fullname, self) if moved else None

    @override
    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        version, new = next((v, paths[old]) for v, paths in MOVED.items() if old in paths)
        _warn(f"The module {old} has moved to {new}; the old path", version)
        sys.modules[old] = import_module(new)  # Python returns this entry


def renamed_argument(
    old: str, new: str, gone_in: str
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Decorate a function that still accepts a keyword argument under its old name.

    Configs and help show only the new name. `gone_in` is the version that drops the old one.

    Example:
        >>> @renamed_argument("branches", "fan_in", gone_in="0.2.0")
        ... def gate(fan_in: int) -> int:
        ...     return fan_in
        >>> with warnings.catch_warnings(record=True, action="always") as said:
        ...     gate(branches=4)
        4
        >>> print(said[0].message)
        The argument branches of gate is called fan_in now; the old name will go in version 0.2.0.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @wraps(function)
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            if old in kwargs:
                name = function.__qualname__.removesuffix(".__init__")
                if new in kwargs:
                    raise TypeError(f"{name} got {new!r} twice: {old!r} is its old name.")
                _warn(f"The argument {old} of {name} is called {new} now; the old name", gone_in)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def renamed_attribute(old: str, new: str, gone_in: str) -> Any:
    """Make an attribute that reads and writes another one, and warns.

    Example:
        >>> class Gate:
        ...     fan_in = 4
        ...     branches = renamed_attribute("branches", "fan_in", gone_in="0.2.0")
        >>> with warnings.catch_warnings(action="ignore"):
        ...     Gate().branches
        4
    """
    what = f"The attribute {old} is called {new} now; the old name"

    def read(owner: object) -> Any:
        _warn(what, gone_in)
        return getattr(owner, new)

    def write(owner: object, value: Any) -> None:
        _warn(what, gone_in)
        setattr(owner, new, value)

    return property(read, write)


def _warn(what: str, version: str) -> None:
    warnings.warn(f"{what} will go in version {version}.", FutureWarning, stacklevel=3)
