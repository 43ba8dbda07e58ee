"""What a config may build.

A config is code: it names classes, and they are imported and called. Two rules limit this. A config
that trains or tests builds classes of known kinds only (`only_known_kinds`). Of a config that is
only read, by `inspect`, `wl.load` and the subcommands that read run folders, the task with its
backbone is built and nothing else, and only a backbone of this package or a network that timm or
torchvision lists, unless the user says `--trust` (`network_config`). `export --data` also builds
its data module (`data_config`).
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, get_type_hints

from jsonargparse import Namespace, _typehints
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO, ClusterEnvironment, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset, Sampler

from wiring_lightning import backbones, data as data_modules, tasks
from wiring_lightning._checks import check_finite, is_plain
from wiring_lightning.cli.library_networks import network_path
from wiring_lightning.cli.parse_errors import unknown_class
from wiring_lightning.cli.typehints import replaced
from wiring_lightning.costs import ConfiguredCost
from wiring_lightning.tasks._saved import kept_arguments

_KINDS = (
    nn.Module, Optimizer, LRScheduler, LightningDataModule, Callback, Logger, Profiler, Strategy,
    Accelerator, Precision, CheckpointIO, ClusterEnvironment, Dataset, Sampler, ConfiguredCost,
)  # fmt: skip
_ALLOW = "if you trust it, allow its code to run with --trust (in Python trust=True)"

_adapt_typehints = _typehints.adapt_typehints
_adapt_classes_any = _typehints.adapt_classes_any


class UntrustedError(ValueError):
    """A config that is only looked at names a class that is not of this package."""


def only_known_kinds() -> AbstractContextManager[None]:
    """Refuse, before anything is called, what a config names and is no class of a known kind.

    jsonargparse checks a class against the type of its argument. Two places are left open: where a
    callable is asked for, some of its versions take any function and call it; and where an argument
    has no type, they build any class.
    """
    return replaced(adapt_typehints=_adapt_checked, adapt_classes_any=_adapt_known)


def _adapt_checked(value: Any, typehint: Any, *arguments: Any, **settings: Any) -> Any:
    """As jsonargparse's `adapt_typehints`; numbers stay as written, and callables are checked."""
    kinds = getattr(typehint, "__args__", ())
    if int in kinds and float in kinds and (number := _as_written(value)) is not None:
        return number  # Lightning takes 1 for one batch and 1.0 for all
    if _typehints.get_typehint_origin(typehint) in _typehints.callable_origin_types:
        _check_callable(value, kinds)
    return _adapt_typehints(value, typehint, *arguments, **settings)


def _as_written(value: Any) -> int | float | None:
    """A number of the kind that it is written as; `None` if it is no number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return None
    if re.fullmatch(r"[-+]?\d+", value):
        return int(value)
    fraction = re.fullmatch(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?", value)
    return float(value) if fraction else None


def _check_callable(value: Any, kinds: Sequence[Any]) -> None:
    """Check what a config gives for a callable: its path, or a class with arguments.

    Args:
        value: the value in the config.
        kinds: what the callable takes and, at the end, gives.

    Raises:
        ValueError: if it gives something else, or holds numbers that no optimizer can use.
    """
    spec = value if isinstance(value, Namespace | dict) else {}
    path = value if isinstance(value, str) else spec.get("class_path")
    if not isinstance(path, str) or "." not in path:
        return  # a short name is that of a class of the right kind, or of none
    try:
        named = _typehints.import_object(path)
    except (ImportError, AttributeError, ValueError):
        return  # said better by jsonargparse
    given = kinds[-1] if kinds else None
    wanted = tuple(kind for kind in (getattr(given, "__args__", None) or (given,))
                   if inspect.isclass(kind) and kind is not type(None))  # fmt: skip
    gives = named if inspect.isclass(named) else _return_type(named)
    fits = inspect.isclass(gives) and issubclass(gives, wanted)
    if any(kind.__module__ != "builtins" for kind in wanted) and not fits:
        names = " or ".join(kind.__name__ for kind in wanted)
        raise ValueError(f"{path} is no {names}")
    if spec and not inspect.isclass(named):
        raise ValueError(f"{path} is no class, and nothing else is built from a config")
    numbers = spec.get("init_args")
    if fits and isinstance(numbers, Namespace | dict):
        check_finite(named.__name__, dict(numbers.items()), ValueError)


def _return_type(function: Any) -> Any:
    """What a function says that it gives; `None` if it does not say."""
    try:
        return get_type_hints(function).get("return")
    except (NameError, TypeError):
        return None  # none that can be known without calling it


def _adapt_known(value: Any, *arguments: Any) -> Any:
    """As jsonargparse's `adapt_classes_any`, for arguments without a type; known kinds only."""
    if _typehints.is_subclass_spec(value) and isinstance(value["class_path"], str):
        path = value["class_path"]
        try:
            named = _typehints.import_object(path)
        except (ImportError, AttributeError, ValueError):
            return value  # a mapping that only looks like a class: jsonargparse leaves it alone
        if not (inspect.isclass(named) and issubclass(named, _KINDS)):
            raise ValueError(
                f"{path} is no module, optimizer, scheduler, callback, logger, data module, data "
                "set or plugin of a trainer, and nothing else is built from a config"
            )
    return _adapt_classes_any(value, *arguments)


def network_config(model: Any, trust: bool, where: str) -> Any:
    """The part of a model's config that builds its task: no optimizer, and nothing foreign.

    Args:
        model: what the config says under `model`.
        trust: whether its classes may be of other packages.
        where: the config, for the message.

    Returns:
        A task of this package with its backbone and what a checkpoint keeps of its arguments, such
        as its loss. If the task is trusted and not of this package, the model as it is: nothing is
        known about its arguments.

    Raises:
        UntrustedError: if a class is not of this package, and not trusted.

    Example:
        >>> model = {"class_path": "ClassificationTask",
        ...          "init_args": {"backbone": "ResNeXt", "optimizer": {"class_path": "os.system"}}}
        >>> network_config(model, False, "config.yaml")
        {'class_path': 'wiring_lightning.tasks.ClassificationTask', \
'init_args': {'backbone': {'class_path': 'wiring_lightning.backbones.ResNeXt'}}}
    """
    path, arguments = _read(model, f"{where}: model")
    task = _own(path, tasks)
    if task is None:
        _refuse_unless(trust, path, f"{where}: model", "task")
        return model
    kept = kept_arguments(getattr(tasks, task.rpartition(".")[2]), arguments)
    part = f"{where}: model.backbone"
    network = arguments.get("backbone")
    path, arguments = _read(network, part)
    own = _own(path, backbones)
    if own is None and (own := _listed(path, part)) is None:
        _refuse_unless(trust, path, part, "backbone")
    else:
        if not all(map(is_plain, arguments.values())):
            raise UntrustedError(f"{part}: {path} takes plain values only.")
        network = {"class_path": own, **({"init_args": dict(arguments)} if arguments else {})}
    return {"class_path": task, "init_args": {**kept, "backbone": network}}


def data_config(data: Any, trust: bool, where: str) -> Any:
    """The part of a config that builds its data module, which is one of this package.

    Args:
        data: what the config says under `data`.
        trust: whether its class may be of another package.
        where: the config, for the message.

    Raises:
        UntrustedError: if the class is not of this package, and not trusted.

    Example:
        >>> data_config({"class_path": "Digits"}, False, "config.yaml")
        {'class_path': 'wiring_lightning.data.Digits'}
    """
    part = f"{where}: data"
    path, arguments = _read(data, part)
    own = _own(path, data_modules)
    if own is None:
        _refuse_unless(trust, path, part, "data module")
        return data
    if not all(map(is_plain, arguments.values())):
        raise UntrustedError(f"{part}: {path} takes plain values only.")
    return {"class_path": own, **({"init_args": dict(arguments)} if arguments else {})}


def _listed(path: str, where: str) -> str | None:
    """The full path of a network that timm or torchvision lists; `None` if it is none."""
    try:
        return network_path(path)
    except ValueError as error:
        raise UntrustedError(f"{where}: {error}.") from error


def _read(spec: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    """The class that a part of a config names, and its arguments."""
    spec = {"class_path": spec} if isinstance(spec, str) else spec
    path = spec.get("class_path") if isinstance(spec, Mapping) else None
    if not isinstance(path, str) or not path:
        raise UntrustedError(f"{where} names no class, as class_path.")
    arguments = spec.get("init_args") or {}
    if not isinstance(arguments, Mapping):
        raise UntrustedError(f"{where}: init_args of {path} must be a mapping.")
    return path, arguments


def _own(path: str, package: ModuleType) -> str | None:
    """The full path of a class of one of this package's floors; `None` if it is none."""
    module, _, name = path.rpartition(".")
    inside = not module or f"{module}.".startswith(f"{package.__name__}.")
    return f"{package.__name__}.{name}" if inside and name in package.__all__ else None


def _refuse_unless(trust: bool, path: str, where: str, kind: str) -> None:
    """Refuse a class that is no `kind` of this package, if it is not trusted."""
    if "." not in path and not trust:
        raise UntrustedError(f"{where}: {unknown_class(path, where)}")
    if not trust:
        raise UntrustedError(
            f"{where} names {path}, which is no {kind} of this package and is not built: {_ALLOW}."
        )
