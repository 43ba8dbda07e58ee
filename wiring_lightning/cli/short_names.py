"""Short class names in configs: classes of this package are preferred."""

import inspect
from contextlib import AbstractContextManager
from typing import Any

from jsonargparse import _typehints

from wiring_lightning import backbones, callbacks, data, tasks
from wiring_lightning.cli.library_networks import network_path
from wiring_lightning.cli.typehints import replaced

_resolve = _typehints.resolve_class_path_by_name


def own_classes_preferred() -> AbstractContextManager[None]:
    """Make `class_path: ResNet` this package's class, although torchvision has one too.

    `timm:resnet18` and `torchvision:resnet18` are names as well, of networks of these libraries.

    jsonargparse raises an error if two imported libraries define a short name. Full paths are not
    affected.
    """
    return replaced(resolve_class_path_by_name=_resolve_own)


def _resolve_own(cls: Any, name: str) -> str:
    """The import path of a class by its short name, or of a network of timm or torchvision."""
    if (network := network_path(name)) is not None:
        return network
    for home in (backbones, callbacks, data, tasks):  # jsonargparse would look at all classes
        own = getattr(home, name) if name in home.__all__ else None
        if inspect.isclass(own) and inspect.isclass(cls) and issubclass(own, cls):
            return f"{home.__name__}.{name}"
    try:
        path: str = _resolve(cls, name)
    except ValueError:
        candidates = _typehints.get_all_subclass_paths(cls)
        named = [path for path in candidates if path.rpartition(".")[2] == name]
        for package in ("wiring_lightning.", "torch."):  # ReduceLROnPlateau is also Lightning's
            if len(matching := [path for path in named if path.startswith(package)]) == 1:
                return matching[0]
        raise
    return path
