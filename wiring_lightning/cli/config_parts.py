"""The parts of a config, as plain values, that name classes."""

from collections.abc import Iterator, Mapping
from typing import Any

CONFIG = "config.yaml"  # as the folder of a run calls it


def classes_in(config: Any) -> Iterator[dict[str, Any]]:
    """The parts of a config that name a class, the outermost first.

    Example:
        >>> task = {"class_path": "a.Task", "init_args": {"net": {"class_path": "b.Net"}}}
        >>> [class_name(part) for part in classes_in({"model": task})]
        ['Task', 'Net']
    """
    if isinstance(config, dict):
        if "class_path" in config:
            yield config
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from classes_in(value)


def class_name(config: Any) -> str:
    """The class that a part of a config names, without its module; empty if it names none.

    Example:
        >>> class_name({"class_path": "wiring_lightning.data.Digits"}), class_name(None)
        ('Digits', '')
    """
    path = config.get("class_path") if isinstance(config, Mapping) else None
    return str(path or "").rpartition(".")[2]


def callbacks_in(config: Mapping[str, Any]) -> list[Any]:
    """The parts of a config that name its trainer's callbacks; one alone needs no list.

    Example:
        >>> callbacks_in({"trainer": {"callbacks": {"class_path": "DNW"}}})
        [{'class_path': 'DNW'}]
        >>> callbacks_in({"trainer": None})
        []
    """
    given = (config.get("trainer") or {}).get("callbacks") or []
    return given if isinstance(given, list) else [given]
