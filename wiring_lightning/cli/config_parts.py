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
    return _list_of(config, "callbacks")


def loggers_in(config: Mapping[str, Any]) -> list[Any]:
    """The parts of a config that name its trainer's loggers; one alone needs no list.

    Example:
        >>> loggers_in({"trainer": {"logger": {"class_path": "CSVLogger"}}})
        [{'class_path': 'CSVLogger'}]
        >>> loggers_in({"trainer": {"logger": True}}), loggers_in({})
        ([True], [])
    """
    return _list_of(config, "logger")


def _list_of(config: Mapping[str, Any], key: str) -> list[Any]:
    trainer = config.get("trainer")
    given = (trainer.get(key) if isinstance(trainer, Mapping) else None) or []
    return given if isinstance(given, list) else [given]


def merged(first: Any, second: Any) -> Any:
    """Two configs one after the other: what the second one says counts.

    Of a class that it replaces by another, nothing stays.

    Example:
        >>> first = {"data": {"class_path": "Digits", "init_args": {"seed": 1, "augment": False}}}
        >>> merged(first, {"data": {"init_args": {"seed": 2}}})
        {'data': {'class_path': 'Digits', 'init_args': {'seed': 2, 'augment': False}}}
        >>> merged(first, {"data": "CIFAR10"}), merged({"data": "Digits"}, first) == first
        ({'data': {'class_path': 'CIFAR10'}}, True)
    """
    if _names_class(first) or _names_class(second):
        first, second = _as_mapping(first), _as_mapping(second)
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return second
    if "class_path" in second and class_name(first) not in ("", class_name(second)):
        return second
    return {**first, **{key: merged(first.get(key), value) for key, value in second.items()}}


def with_classes(part: Any, before: Any) -> Any:
    """A part of a config with the classes of an earlier one, where it names none itself.

    Args:
        part: what a config says about a model.
        before: what those before it say.

    Example:
        >>> before = {"class_path": "ClassificationTask", "init_args": {"backbone": "ResNeXt"}}
        >>> with_classes({"init_args": {"backbone": {"init_args": {"fan_in": 3}}}}, before)
        {'class_path': 'ClassificationTask', \
'init_args': {'backbone': {'class_path': 'ResNeXt', 'init_args': {'fan_in': 3}}}}
        >>> with_classes("SegmentationTask", before)
        {'class_path': 'SegmentationTask', 'init_args': {'backbone': {'class_path': 'ResNeXt'}}}
    """
    part, before = _with_class(part, before), _as_mapping(before)
    arguments, earlier = (
        one.get("init_args") or {} if isinstance(one, Mapping) else {} for one in (part, before)
    )
    if not isinstance(arguments, Mapping) or not isinstance(earlier, Mapping):
        return part
    backbone = _with_class(arguments.get("backbone", {}), earlier.get("backbone"))
    if not backbone:
        return part
    return {**part, "init_args": {**arguments, "backbone": backbone}}


def _with_class(part: Any, before: Any) -> Any:
    """A part as a mapping with a `class_path`, its own or else that of an earlier one."""
    before = _as_mapping(before)
    if isinstance(part, Mapping) and part.keys() <= {"init_args"} and _names_class(before):
        return {"class_path": before["class_path"], **part}
    return _as_mapping(part)


def _names_class(part: Any) -> bool:
    return isinstance(part, Mapping) and "class_path" in part


def _as_mapping(part: Any) -> Any:
    """A class that is only named, as a mapping with `class_path`; anything else as it is."""
    return {"class_path": part} if isinstance(part, str) else part
