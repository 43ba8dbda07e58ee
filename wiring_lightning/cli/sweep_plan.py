"""What a sweep runs: a config for every setting and seed, and which of them are still to do.

A sweep has a folder with a run folder for every setting and seed, which is all that it remembers.
Beside them `.sweep` has the config, the log and a mark (`done` or `stopped`) of each.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from wiring_lightning.cli import app
from wiring_lightning.cli.config_parts import callbacks_in, class_name
from wiring_lightning.cli.sweep_state import Planned, SweepError
from wiring_lightning.cli.text import shorten
from wiring_lightning.files import write_file

_LOGGER = "lightning.pytorch.loggers.TensorBoardLogger"
_LONGEST = 255  # bytes of a name, on the usual systems of files


def settings(given: Sequence[str]) -> list[dict[str, Any]]:
    """All combinations of the values of several keys.

    Args:
        given: such as `model.backbone.fan_in=[1,4]`, a list of values or one value.

    Raises:
        SweepError: if one is no key and value, a key is given twice, or a list is empty.

    Example:
        >>> settings(["model.init_args.backbone.init_args.fan_in=[1,4]", "data.batch_size=8"])
        [{'model.backbone.fan_in': 1, 'data.batch_size': 8},
         {'model.backbone.fan_in': 4, 'data.batch_size': 8}]
    """
    values: dict[str, list[Any]] = {}
    for one in given:
        key, equals, text = one.partition("=")
        key = key.removeprefix("--").replace(".init_args.", ".")
        if not equals or not re.fullmatch(r"[\w.]+", key):
            raise SweepError(
                f"--set {one} is no KEY=VALUES: write --set model.backbone.fan_in=[1,4]."
            )
        if key in values:
            raise SweepError(f"--set {key} is given twice: give one list with all values.")
        _refuse_seed(f"--set {key}", key)
        try:
            listed = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SweepError(f"--set {one} has no values that YAML can read.") from error
        if listed == []:
            raise SweepError(f"--set {key} has an empty list: give at least one value.")
        values[key] = listed if isinstance(listed, list) else [listed]
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


def name_of(setting: Mapping[str, Any], seed: int) -> str:
    """The name of a run, which can be the name of a folder.

    Example:
        >>> name_of({"model.backbone.fan_in": 4, "model.optimizer.lr": 0.1}, seed=2)
        'fan_in_4-lr_0.1-seed_2'
        >>> name_of({"model.optimizer.lr": 0.1, "trainer.callbacks.lr": 0.2}, seed=0)
        'model.optimizer.lr_0.1-trainer.callbacks.lr_0.2-seed_0'
    """
    short = [key.rpartition(".")[2] for key in setting]
    names = [
        last if short.count(last) == 1 else key for last, key in zip(short, setting, strict=True)
    ]
    parts = [f"{name}_{value}" for name, value in zip(names, setting.values(), strict=True)]
    return "-".join(re.sub(r"[^\w.+-]+", "_", part).strip("_") for part in [*parts, f"seed_{seed}"])


def plan(
    arguments: Sequence[str], chosen: Sequence[Mapping[str, Any]], seeds: int, root: Path
) -> list[Planned]:
    """Write the config of every run, and return the runs; those of an earlier call stay.

    Args:
        arguments: of `wiring fit`, such as `["--config", "configs/quickstart.yaml"]`.
        chosen: the settings.
        seeds: number of seeds of each setting, from 0.
        root: the folder of the sweep.

    Raises:
        SystemExit: if `wiring fit` refuses a setting, with its sentence on stderr.
        SweepError: if two runs have the same name, one is too long, a run of that name has begun
            with another config, or an option is the sweep's own to set.
    """
    for option in arguments:
        key = option.removeprefix("--").partition("=")[0]
        _refuse_seed(option.partition("=")[0], key)
    configs: dict[Planned, str] = {}
    for setting in chosen:
        config = _whole_config(arguments, setting)
        _refuse_folders(config)
        for seed in range(seeds):
            run = Planned(name_of(setting, seed), root)
            if run in configs:
                raise SweepError(
                    f"Two runs would be called {run.name}: sweep over one of the keys."
                )
            own = with_seed(config, seed)
            own["trainer"]["logger"] = _loggers(run, own["trainer"].get("logger"))
            if len(f".{run.name}.interrupted_99.yaml".encode()) > _LONGEST:
                raise SweepError(
                    f"The name of the run {shorten(run.name, 60)} is too long for a folder: sweep "
                    "over shorter values, such as a config for each."
                )
            configs[run] = yaml.safe_dump(own, sort_keys=False)
    for run, text in configs.items():
        begun = run.folder.exists() and run.config.exists()
        if begun and run.config.read_text(encoding="utf-8") != text:
            raise SweepError(
                f"The run {run.folder} began with another config: give the sweep another --out."
            )
        if run.folder.exists() and not begun:
            raise SweepError(f"{run.folder} is no run of this sweep: give it another --out.")
    for run, text in configs.items():
        write_file(run.config, text.encode())
    return list(configs)


def with_seed(config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A copy of a config in which everything that has a seed has this one.

    Example:
        >>> data = {"class_path": "Digits", "init_args": {"seed": 0}}
        >>> with_seed({"seed_everything": 0, "data": data}, 3)
        {'seed_everything': 3, 'data': {'class_path': 'Digits', 'init_args': {'seed': 3}}}
    """
    seeded = deepcopy(dict(config))
    seeded["seed_everything"] = seed
    for part in [seeded.get("data"), *callbacks_in(seeded)]:
        arguments = part.get("init_args") if isinstance(part, dict) else None
        if isinstance(arguments, dict) and "seed" in arguments:
            arguments["seed"] = seed
    return seeded


def _refuse_seed(said: str, key: str) -> None:
    """Refuse what `with_seed` would overwrite."""
    part, _, last = key.rpartition(".")
    if key == "seed_everything" or (last == "seed" and part.startswith(("data", "trainer"))):
        raise SweepError(f"{said} is what --seeds sets: leave it out.")


def _refuse_folders(config: Mapping[str, Any]) -> None:
    """Refuse a folder for the checkpoints of all runs."""
    for part in callbacks_in(config):
        folder = (part.get("init_args") or {}).get("dirpath") if isinstance(part, dict) else None
        if folder is not None:
            raise SweepError(
                f"All runs would save their checkpoints in {folder}: leave out the dirpath of "
                f"{class_name(part)}, then each has them in its folder."
            )


def _loggers(run: Planned, given: Any) -> Any:
    """The logger of a run folder, and after it those that the config names."""
    own = {
        "class_path": _LOGGER,
        "init_args": {"save_dir": str(run.root), "name": "", "version": run.name},
    }
    others = given if isinstance(given, list) else [given] if isinstance(given, dict) else []
    return [own, *others] if others else own


def _whole_config(arguments: Sequence[str], setting: Mapping[str, Any]) -> dict[str, Any]:
    """What `wiring fit` would run, with all defaults; it ends the process if it refuses that."""
    given = [f"--{key}={_as_argument(value)}" for key, value in setting.items()]
    out = StringIO()
    try:
        with redirect_stdout(out):
            app.run(["fit", *arguments, *given, "--print_config"])
    except SystemExit as end:
        if end.code:
            raise
    config: dict[str, Any] = yaml.safe_load(out.getvalue())
    return config


def _as_argument(value: Any) -> str:
    """A value as the command line takes it: YAML in one line."""
    if isinstance(value, str):
        return value
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").strip()  # YAML ends a number with three dots
