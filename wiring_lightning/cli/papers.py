"""What the papers print for the network that a run trained, from the pages of their tables.

A page such as `docs/methods/dnw_tables.md` has a command for every row of a paper's tables. A run
belongs to a row if it did what the row's command does: the same network, data, learners and length.
Pages and configs are in the checkout, and not in an installed package, which then finds no number.
"""

import inspect
import re
import shlex
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
from lightning.pytorch import Trainer

from wiring_lightning import backbones, callbacks, data, tasks
from wiring_lightning.cli.config_parts import callbacks_in, class_name
from wiring_lightning.cli.run_keys import WATCHERS, epochs_of
from wiring_lightning.cli.run_length import share_of
from wiring_lightning.cli.run_rows import learners
from wiring_lightning.cli.yaml_text import read_yaml

_ROOT = Path(__file__).parents[2]
_PAGES = "docs/methods/*_tables.md"
# What does not change what is trained, or is checked in another way.
_FREE = ("seed_everything", "seed", "root", "download", "num_workers", "compile", "checkpointing",
         "log_density")  # fmt: skip
_OF_TRAINER = ("max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val")
# How many batches there are: 1 is one of them, and 1.0 is all.
_SHARES = ("limit_train_batches", "limit_test_batches")
_DEFAULT_PRECISION = (None, "32", "32-true")
_SCHEDULE = "PhaseSchedule"


@dataclass(frozen=True)
class Published:
    """A row of a paper's table.

    Args:
        page: the page of docs/methods that has it.
        section: such as `Table 1`.
        number: what the paper prints, such as `76.1 ± 0.5`.
        config: the content of the config that its command trains.
    """

    page: str
    section: str
    number: str
    config: Mapping[str, Any]


def published(config: Mapping[str, Any], root: Path = _ROOT) -> list[Published]:
    """The rows of the papers' tables that a run repeats.

    Args:
        config: content of the run's `config.yaml`, with all defaults.
        root: a checkout, with the pages in docs/methods.
    """
    return [row for row in _rows(root) if _same(row.config, config)]


@lru_cache(maxsize=4)
def _rows(root: Path) -> list[Published]:
    return [row for page in sorted(root.glob(_PAGES)) for row in _rows_of(page, root)]


def _rows_of(page: Path, root: Path) -> Iterator[Published]:
    """The rows of a page's tables that have a number and a command."""
    section, names, configs = "", list[str](), dict[str, Any]()
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if not line.startswith("|"):
            names = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not names:
            names = cells
            continue
        row = dict(zip(names, cells, strict=False))
        name = next((name for name in names if re.match("accuracy|error", name)), None)
        command = row.get("command", "").strip("`")
        # A loop trains many networks, for a curve.
        if name is None or not command.startswith("wiring fit --config "):
            continue
        number = ("error " if name.startswith("error") else "") + row[name].replace("\\*", "*")
        _, _, _, path, *changes = shlex.split(command)
        if path not in configs:
            configs[path] = read_yaml((root / path).read_text(encoding="utf-8"))
        yield Published(page.name, section, number, _changed(configs[path], changes))


def _changed(config: Any, changes: list[str]) -> Any:
    """A config with options of the command line, such as `--trainer.callbacks.rewind=true`."""
    config = deepcopy(config)
    for change in changes:
        key, _, value = change.removeprefix("--").partition("=")
        *parts, last = key.split(".")
        place = config
        for part in parts:
            place = _arguments(place).setdefault(part, {})
            if isinstance(place, list):
                place = place[-1]
        _arguments(place)[last] = yaml.safe_load(value)
    return config


def _arguments(part: Any) -> Any:
    """Where the keys of a part are: of a class in `init_args`."""
    return part.setdefault("init_args", {}) if "class_path" in part else part


def _same(row: Any, run: Any) -> bool:
    """Whether a run trained what a row's config trains."""
    ours, theirs = run.get("trainer") or {}, row["trainer"]
    names = [*learners(row), *([_SCHEDULE] if _callback(row, _SCHEDULE) else [])]
    # With a schedule, `max_epochs` need not be said.
    checked = [key for key in _OF_TRAINER if key != "max_epochs" or _SCHEDULE not in names]
    return (
        sorted(learners(row)) == sorted(learners(run))
        and bool(_callback(row, _SCHEDULE)) == bool(_callback(run, _SCHEDULE))
        and all(_equal(_callback(row, name), _callback(run, name)) for name in names)
        and _others(row) == _others(run)
        and (_SCHEDULE not in names or epochs_of(row) == epochs_of(run))
        and _equal(row["model"], run.get("model"))
        and _equal({**row["data"], "init_args": _without_batch(row)},
                   {**(run.get("data") or {}), "init_args": _without_batch(run)})
        and _images_per_step(row) == _images_per_step(run)
        and all(_alike(theirs.get(key, _default(Trainer, key)),
                       ours.get(key, _default(Trainer, key))) for key in checked)
        and all(share_of(theirs.get(key)) == share_of(ours.get(key)) for key in _SHARES)
        and _computes(theirs) == _computes(ours)
    )  # fmt: skip


def _others(config: Any) -> list[Any]:
    """The callbacks, with their arguments, that may change a training in other ways."""
    known = (*WATCHERS, *learners(config), _SCHEDULE)
    return [one for one in callbacks_in(config) if class_name(one) not in known]


def _computes(trainer: Mapping[str, Any]) -> tuple[Any, ...]:
    """How steps are computed, and on the same few batches or not, with defaults by one name."""
    precision = trainer.get("precision")
    precision = None if precision is None else str(precision)
    clips = trainer.get("gradient_clip_val") is not None
    return (
        "32-true" if precision in _DEFAULT_PRECISION else precision,
        (trainer.get("gradient_clip_algorithm") or "norm") if clips else None,
        share_of(trainer["overfit_batches"]) if trainer.get("overfit_batches") else None,
    )


def _equal(row: Any, run: Any) -> bool:
    """Whether two parts of configs build the same; what one does not say is the default."""
    if class_name(row) or class_name(run):
        if class_name(row) != class_name(run):
            return False
        here, there = row.get("init_args") or {}, run.get("init_args") or {}
        kind = _class(class_name(row))
        names = [name for name in {**here, **there} if name not in _FREE]
        return all(
            _equal(here.get(name, _default(kind, name)), there.get(name, _default(kind, name)))
            for name in names
            if name in here or _default(kind, name) is not _UNKNOWN
        )
    return _alike(row, run)


def _alike(row: Any, run: Any) -> bool:
    """Whether two values that are no classes mean the same."""
    if isinstance(row, Mapping) and isinstance(run, Mapping):
        # `null` and a key that is not there mean the same in a phase.
        return all(_alike(row.get(key), run.get(key)) for key in {**row, **run})
    if isinstance(row, list | tuple) and isinstance(run, list | tuple):
        return len(row) == len(run) and all(map(_alike, row, run))
    if isinstance(row, bool) or isinstance(run, bool):
        return bool(row) == bool(run)
    try:
        return float(row) == float(run)  # YAML reads 1e-4 as a text
    except (TypeError, ValueError):
        return bool(row == run)


_UNKNOWN = object()


def _default(kind: Any, name: str) -> Any:
    """The default of an argument of a class, or of one of its bases."""
    for base in getattr(kind, "__mro__", ()):
        given = inspect.signature(base.__init__).parameters if base is not object else {}
        if name in given and given[name].default is not inspect.Parameter.empty:
            default = given[name].default
            # A config names a function by its path.
            named = inspect.isfunction(default)
            return f"{default.__module__}.{default.__qualname__}" if named else default
    return _UNKNOWN


def _class(name: str) -> Any:
    """The class of this package of a name; `None` if there is none."""
    packages = (backbones, callbacks, data, tasks)
    return next((getattr(package, name) for package in packages if hasattr(package, name)), None)


def _callback(config: Any, name: str) -> Any:
    """What a config says about its first callback of a class; `None` if it has none."""
    return next((one for one in callbacks_in(config) if class_name(one) == name), None)


def _without_batch(config: Any) -> dict[str, Any]:
    """The arguments of the data without the batch size, which counts in `_images_per_step`."""
    arguments = (config.get("data") or {}).get("init_args") or {}
    return {key: value for key, value in arguments.items() if key != "batch_size"}


def _images_per_step(config: Any) -> Any:
    """Images of all processes together: the papers' batches are divided among GPUs."""
    batch: Any = ((config.get("data") or {}).get("init_args") or {}).get("batch_size")
    trainer = config.get("trainer") or {}
    devices: Any = trainer.get("devices")
    nodes: Any = trainer.get("num_nodes") or 1
    try:
        return batch * int(devices) * int(nodes)
    except (TypeError, ValueError):  # `auto`, or a list
        return batch
