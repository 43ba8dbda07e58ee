"""The config of a short run, and changes to it."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from tests.cli.commands import BASE

Config = dict[str, Any]
Change = Callable[[Config], None]


def config_with(*changes: Change) -> Config:
    config = deepcopy(BASE)
    config["data"]["init_args"]["batch_size"] = 8
    config["trainer"] |= {"limit_train_batches": 4, "limit_test_batches": 1, "logger": False}
    config["trainer"]["enable_progress_bar"] = False
    for change in changes:
        change(config)
    return config


def backbone(**arguments: Any) -> Change:
    return lambda config: config["model"]["init_args"]["backbone"]["init_args"].update(arguments)


def trainer(**arguments: Any) -> Change:
    return lambda config: config["trainer"].update(arguments)


def model(**arguments: Any) -> Change:
    return lambda config: config["model"]["init_args"].update(arguments)


def callbacks(*callbacks: tuple[str, dict[str, Any]]) -> Change:
    given = [{"class_path": name, "init_args": arguments} for name, arguments in callbacks]
    return trainer(callbacks=given)


def phases(*phases: dict[str, Any]) -> Change:
    return callbacks(("MaskConnect", {}), ("PhaseSchedule", {"phases": list(phases)}))


def unknown_class(key: str, name: str) -> Change:
    def change(config: Config) -> None:
        *path, last = key.split(".")
        for part in path:
            config = config[part]
        config[last] = {"class_path": name}

    return change
