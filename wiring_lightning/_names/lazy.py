"""Public names of a package that are imported when they are first used (PEP 562)."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, public: Sequence[str], homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the `__getattr__` and the `__dir__` of a package.

    Args:
        package: `__name__` of the package.
        public: the public names, its `__all__`.
        homes: the module that defines each name; other names are modules of the package.

    Returns:
        The two functions.

    Example:
        >>> get, names = lazy_names("collections", ["Sized", "abc"], {"Sized": "collections.abc"})
        >>> get("Sized"), get("abc").__name__, names()
        (<class 'collections.abc.Sized'>, 'collections.abc', ['Sized', 'abc'])
    """

    def get(name: str) -> Any:
        if name not in public:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if name in homes:
            return getattr(import_module(homes[name]), name)
        return import_module(f"{package}.{name}")

    return get, lambda: sorted(public)
