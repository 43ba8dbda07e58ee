"""Short class names in configs: classes of this package are preferred."""

from typing import Any

from jsonargparse import _typehints

_resolve = _typehints.resolve_class_path_by_name


def prefer_own_classes() -> None:
    """Make `class_path: ResNet` this package's class, although torchvision has one too.

    jsonargparse raises an error if two imported libraries define a short name, and it has no public
    setting for a preference. Full paths are not affected.
    """
    _typehints.resolve_class_path_by_name = _resolve_own


def _resolve_own(cls: Any, name: str) -> str:
    try:
        path: str = _resolve(cls, name)
    except ValueError:
        candidates = _typehints.get_all_subclass_paths(cls)
        own = [path for path in candidates if path.startswith("wiring_lightning.")]
        matching = [path for path in own if path.rpartition(".")[2] == name]
        if len(matching) != 1:
            raise
        return matching[0]
    return path
