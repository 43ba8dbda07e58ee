"""Short class names in configs: ours win where another library has a class of the same name."""

from typing import Any

from jsonargparse import _typehints

_resolve = _typehints.resolve_class_path_by_name


def prefer_own_classes() -> None:
    """Let `class_path: ResNet` mean this package's class although torchvision has one too.

    jsonargparse calls a short name ambiguous when two libraries define it, whoever imported the
    other one, and has no public setting for a preference; a full path always means what it says.
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
