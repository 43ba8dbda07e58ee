"""What a checkpoint says about its task and backbone, in plain values, to build them again."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from wiring_lightning import backbones
from wiring_lightning._checks import is_plain
from wiring_lightning.checkpoints import CheckpointError

KEY = "network"  # in a checkpoint
# The key of the task's arguments, an older one of Lightning's: its own `load_from_checkpoint` with
# a given `backbone` takes them from there. Not `hyper_parameters`, which its command line would
# prefer to what the user gives.
ARGUMENTS = "module_arguments"
# Arguments of a task that are given anew: the network says itself what it was built with, and the
# others say how training goes.
GIVEN_ANEW = (
    "backbone", "optimizer", "lr_scheduler", "lr_interval", "lr_warmup", "lr_monitor", "compile",
)  # fmt: skip

_PACKAGE = __name__.partition(".")[0]
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def kept_arguments(task: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a task that it is built with again, as plain values.

    Those in a checkpoint and those in the config of a run are chosen here, so both give one task.

    Args:
        task: class of the task.
        given: arguments by name, such as those of its constructor; what it does not take is left
            out, and so are the network, the optimizer with its schedule, and `compile`.

    Example:
        >>> from wiring_lightning.tasks import ClassificationTask
        >>> kept_arguments(ClassificationTask, {"loss": "focal", "lr_warmup": 5, "size": 3})
        {'loss': 'focal'}
    """
    plain = {
        name: _as_plain(value)
        for name, value in given.items()
        if name not in GIVEN_ANEW and takes(task, name)
    }
    return {name: value for name, value in plain.items() if is_plain(value)}


def takes(task: type, name: str) -> bool:
    """Whether the constructor of a task may be given an argument of a name."""
    names = _parameters(task)
    return name in names or any(one.kind is one.VAR_KEYWORD for one in names.values())


def by_name(task: type, arguments: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """What the constructor of a task is given, with its defaults.

    Example:
        >>> class Smoothed(nn.Module):
        ...     def __init__(self, smoothing, *, scale=2.0, **options): ...
        >>> by_name(Smoothed, [0.1], {"loss": "focal"})
        {'scale': 2.0, 'smoothing': 0.1, 'loss': 'focal'}
    """
    names = _parameters(task)
    defaults = {name: one.default for name, one in names.items() if one.default is not one.empty}
    return {**defaults, **dict(zip(_in_order(task), arguments, strict=False)), **options}


def _in_order(task: type) -> list[str]:
    """Names of a constructor's positional arguments, in order.

    Those that it takes as `*arguments` have the names that the next base class gives them.
    """
    found: list[str] = []
    for kind in [kind for kind in task.__mro__ if "__init__" in vars(kind)]:
        names = _parameters(kind)
        found += [name for name, one in names.items() if one.kind in _POSITIONAL]
        if all(one.kind is not one.VAR_POSITIONAL for one in names.values()):
            break
    return found


def _parameters(task: type) -> dict[str, inspect.Parameter]:
    """The parameters of a constructor, without `self`; a task's `__new__` names none."""
    (_, *parameters) = inspect.signature(task.__init__).parameters.items()  # type: ignore[misc]
    return dict(parameters)


def _as_plain(value: Any) -> Any:
    """A value with Python's own numbers and lists in the place of numpy's and of tuples."""
    if isinstance(value, list | tuple):
        return [_as_plain(part) for part in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def describe_task(task: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """The task's class and arguments, and those of its backbone; `None` if it cannot be told.

    Only backbones of this package can: of others it is not known what they were built with.
    """
    backbone = task.get_submodule("backbone")
    name, built_with = type(backbone).__name__, getattr(backbone, "built_with", {})
    if not built_with or getattr(backbones, name, None) is not type(backbone):
        return None
    network = {"class": name, "arguments": dict(built_with)}
    return {
        "task": type(task).__name__,
        "module": type(task).__module__,
        "arguments": dict(arguments),
        "backbone": network,
    }


def task_named(description: Mapping[str, Any]) -> str:
    """The task of a description; with its module if it is not of this package.

    Those of older files have no module; then the name says all that is known.

    Example:
        >>> name = "ClassificationTask"
        >>> modules = ("wiring_lightning.tasks.classification", "my.tasks")
        >>> [task_named({"task": name, "module": module}) for module in modules]
        ['ClassificationTask', 'my.tasks.ClassificationTask']
    """
    name, module = description["task"], str(description.get("module", _PACKAGE))
    return name if _is_of_package(module) else f"{module}.{name}"


def _is_of_package(module: str) -> bool:
    return module.partition(".")[0] == _PACKAGE


def saved_description(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a checkpoint says about its task; `None` if it says nothing that can be used."""
    found = content.get(KEY)
    backbone = found.get("backbone") if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(backbone, Mapping):
        return None
    arguments = (found.get("arguments"), backbone.get("arguments"))
    names = (found.get("task"), backbone.get("class"))
    whole = all(isinstance(part, Mapping) for part in arguments)
    return found if whole and all(isinstance(name, str) for name in names) else None


def described_for(cls: type, content: Mapping[str, Any], path: str | Path) -> Mapping[str, Any]:
    """What a checkpoint says about a task of a class.

    Raises:
        CheckpointError: if it says nothing, or is of another task.
    """
    described = saved_description(content)
    if described is None:
        raise CheckpointError(
            f"The checkpoint {path} does not say which network it is of: load it with "
            "wl.load(path) if config.yaml is in its folder, or give backbone=..."
        )
    known = [kind for kind in cls.__mro__ if kind.__name__ == described["task"]]
    if "module" in described:  # a class of one's own may move from a script to a module
        own = not _is_of_package(str(described["module"]))
        known = [kind for kind in known if own != _is_of_package(kind.__module__)]
    if not known:
        raise CheckpointError(
            f"The checkpoint {path} is of a {task_named(described)}, not of a {cls.__name__}: load "
            "it with that class, or give backbone=..."
        )
    return described


def build_backbone(description: Mapping[str, Any], path: str | Path) -> nn.Module:
    """The backbone of a description, with new weights; only a class of this package is built.

    Raises:
        CheckpointError: if it names another class, or arguments that the class does not take.

    Example:
        >>> network = {"class": "ResNeXt", "arguments": {"depth": 11, "fan_in": 1}}
        >>> type(build_backbone({"backbone": network}, "last.ckpt")).__name__
        'ResNeXt'
    """
    name, arguments = (description["backbone"][key] for key in ("class", "arguments"))
    if name not in backbones.__all__:
        raise CheckpointError(
            f"The checkpoint {path} names the network {name}, which is no backbone of this "
            "package: build it yourself and give it as backbone=..."
        )
    try:
        if not all(map(is_plain, arguments.values())):
            raise TypeError("its arguments are no plain values")
        network: nn.Module = getattr(backbones, name)(**arguments)
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"The checkpoint {path} describes a {name} that cannot be built ({error}): give the "
            "network as backbone=..."
        ) from error
    return network
