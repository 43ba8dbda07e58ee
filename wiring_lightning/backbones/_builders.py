"""Functions that build the networks of another library, with a signature that a config can read.

Other libraries hide the arguments of a network behind `**kwargs`. Here they are written out, so
that a config or a command line can name them and is told when one does not exist.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import nn

Build = Callable[..., nn.Module]
_PLAIN = (int, float, bool, str, NoneType)
_CONTAINERS = (Union, UnionType, tuple, list, Sequence, Literal)


def return_class(function: Callable[..., Any]) -> type[nn.Module] | None:
    """The class that a function says it gives; `None` if it does not say."""
    try:
        given = get_type_hints(function).get("return")
    except (NameError, TypeError):
        return None
    return given if inspect.isclass(given) and issubclass(given, nn.Module) else None


def arguments_of(cls: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """The named arguments of a class, and of its base classes where it passes the rest on.

    Example:
        >>> list(arguments_of(nn.Flatten))
        ['start_dim', 'end_dim']
    """
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        constructor = vars(base)["__init__"]
        _, *parameters = named_parameters(constructor)
        found = {parameter.name: parameter for parameter in parameters} | found
        kinds = [one.kind for one in inspect.signature(constructor).parameters.values()]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return found


def named_parameters(function: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    """The parameters of a function that have a name, with types instead of their names."""
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError):
        hints = {}
    for one in inspect.signature(function).parameters.values():
        if one.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
            yield one.replace(annotation=hints.get(one.name, Any))


def with_signature(path: tuple[str, str], build: Build, types: Mapping[str, Any]) -> Build:
    """A function that a config can name, which builds a network with the arguments given.

    An argument that is `None` is not passed on: the library's own default holds.

    Args:
        path: the module in which the function is found, and its name there.
        build: builds the network; its errors about arguments are worded anew.
        types: the type of each argument. Types that are not plain count as any.

    Returns:
        A function of these arguments. It raises a `TypeError` for another argument, and a
        `ValueError` if the library cannot build the network.

    Example:
        >>> make = with_signature(("here", "flat"), nn.Flatten, {"start_dim": int})
        >>> make(start_dim=2)
        Flatten(start_dim=2, end_dim=-1)
        >>> make(start=2)
        Traceback (most recent call last):
        TypeError: flat takes no argument 'start'; it takes start_dim
    """
    module, name = path

    def network(**arguments: Any) -> nn.Module:
        for argument in arguments:
            if argument not in types:
                close = get_close_matches(argument, types) or sorted(types)
                raise TypeError(
                    f"{name} takes no argument {argument!r}; it takes {', '.join(close)}"
                )
        given = {key: value for key, value in arguments.items() if value is not None}
        try:
            return build(**given)
        except (TypeError, ValueError, AssertionError, LookupError) as error:
            named = ", ".join(f"{key}={value!r}" for key, value in given.items())
            reason = f"{error} is unknown" if isinstance(error, LookupError) else error
            raise ValueError(f"{name} cannot be built with ({named}): {reason}") from error

    hints = {key: _or_none(kind) for key, kind in types.items()}
    keyword = inspect.Parameter.KEYWORD_ONLY
    network.__module__, network.__name__, network.__qualname__ = module, name, name
    network.__doc__ = None
    network.__annotations__ = {**hints, "return": nn.Module}
    network.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(key, keyword, default=None, annotation=hints[key]) for key in hints],
        return_annotation=nn.Module,
    )
    return network


def unknown_name(library: str, name: str, names: Sequence[str]) -> str:
    """What to say of a name that a library does not have, with near ones.

    Example:
        >>> unknown_name("timm", "resnet81", ["resnet18", "vit_tiny"])
        "timm has no network 'resnet81'; near ones are resnet18"
    """
    close = get_close_matches(name, names, n=5)
    hint = f"near ones are {', '.join(close)}" if close else f"it has {len(names)} others"
    return f"{library} has no network {name!r}; {hint}"


def _or_none(kind: Any) -> Any:
    return kind | None if _is_plain(kind) else Any


def _is_plain(kind: Any) -> bool:
    """Whether a type holds numbers, texts, truth values, or lists of them."""
    if get_origin(kind) is Literal:
        return True
    parts = [part for part in get_args(kind) if part is not Ellipsis]
    if parts:
        return get_origin(kind) in _CONTAINERS and all(_is_plain(part) for part in parts)
    return kind in _PLAIN
