"""Old names that still work, and warn.

When a module moves, add a row to `MOVED`. When an argument or an attribute gets another name, use
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

# By the version that drops them: the old paths of modules, with their new paths.
MOVED: Mapping[str, Mapping[str, str]] = {
    "0.2.0": {
        "wiring_lightning.figures": "wiring_lightning.cli.figure",
        "wiring_lightning.found": "wiring_lightning.cli.found",
        "wiring_lightning.functional.architecture": "wiring_lightning.functional.budgeted_search",
        "wiring_lightning.functional.largest": "wiring_lightning.functional.dnw",
        "wiring_lightning.functional.rectified": "wiring_lightning.functional.aggregation",
        "wiring_lightning.functional.selection": "wiring_lightning.functional.mask_connect",
        "wiring_lightning.optim.gate_sgd": "wiring_lightning.optim.mask_connect",
        "wiring_lightning.optim.reinforce": "wiring_lightning.optim.budgeted_search",
        "wiring_lightning.optim.straight_through": "wiring_lightning.optim.dnw",
        "wiring_lightning.optim.weight_dropout": "wiring_lightning.optim.targeted_dropout",
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
        sys.meta_path.insert(0, _MovedModules())  # first, because an old file may still exist


class _MovedModules(MetaPathFinder, Loader):
    """Makes an old path an alias of the moved module, not a second copy of it."""

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
        sys.modules[old] = import_module(new)  # the import statement returns this module


def renamed_argument(
    old: str, new: str, gone_in: str
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Decorate a function that still takes a keyword argument under its old name.

    Only Python code can use the old name: configs and help follow the signature.

    Args:
        old: the old name.
        new: the name in the function's signature.
        gone_in: the version that drops the old name.

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
    """Make a property that reads and writes another attribute, and warns.

    Arguments are those of `renamed_argument`.

    Example:
        >>> class Gate:
        ...     fan_in = 4
        ...     branches = renamed_attribute("branches", "fan_in", gone_in="0.2.0")
        >>> with warnings.catch_warnings(record=True, action="always") as said:
        ...     Gate().branches
        4
        >>> print(said[0].message)
        The attribute branches is called fan_in now; the old name will go in version 0.2.0.
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
