"""The parts of a config, as plain values, that name classes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CONFIG = "config.yaml"  # as the folder of a run calls it
# Options that commands have which measure or predict, and a fit has not.
_OF_NO_FIT = ("verbose", "return_predictions")


def configs_in(folder: Path) -> list[Path]:
    """The configs that commands have saved in the folder of a run, in their order.

    A run that goes on in its folder saves its config with a number behind the name.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("config_10.yaml", "config_9.yaml", "config.yaml", "config_old.yaml"):
        ...         Path(folder, name).touch()
        ...     [path.name for path in configs_in(Path(folder))]
        ['config.yaml', 'config_9.yaml', 'config_10.yaml']
    """
    first = folder / CONFIG
    numbers = (path.stem.removeprefix(f"{first.stem}_") for path in folder.glob("config_*.yaml"))
    later = sorted(int(number) for number in numbers if number.isdecimal())
    paths = [first, *(first.with_stem(f"{first.stem}_{number}") for number in later)]
    return [path for path in paths if path.is_file()]


def is_of_fit(config: Mapping[str, Any]) -> bool:
    """Whether a saved config is that of a fit, and of no command that measures or predicts.

    Example:
        >>> is_of_fit({"model": {}}), is_of_fit({"model": {}, "verbose": True})
        (True, False)
    """
    return not any(key in config for key in _OF_NO_FIT)


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
