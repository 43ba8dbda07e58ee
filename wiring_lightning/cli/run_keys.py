"""Keys of a run's config: values by their dotted name, and which of them differ between runs."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from wiring_lightning.callbacks.phase_schedule import NOT_GIVEN
from wiring_lightning.cli.config_parts import callbacks_in, class_name
from wiring_lightning.cli.runs import RunError

MISSING = "-"
# What two runs of one setting may differ in: starts, where things are read and written, and how
# the same is computed.
_STARTS = ("seed_everything", "seed")
_PLACES = ("default_root_dir", "root", "predict_root", "download", "num_workers", "ckpt_path",
           "weights_only", "verbose")  # fmt: skip
_MEANS = ("compile", "checkpointing")
_WRITES = ("trainer.logger", "trainer.enable_", "trainer.log_every_n_steps")
# Data modules of whatever pictures their root holds: another root has other pictures.
_OF_ANY_PICTURES = ("ImageFolder", "ImageMaskFolder", "MiniImageNet")
# What a trainer says about a step. How many there are, where, and what is measured may change.
_STEPS = ("precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")
# Callbacks that only watch, save or stop.
WATCHERS = ("ModelCheckpoint", "OnExceptionCheckpoint", "PredictionWriter", "WiringMonitor",
             "EarlyStopping", "Timer", "LearningRateMonitor", "DeviceStatsMonitor",
             "ThroughputMonitor", "ModelSummary", "RichModelSummary", "TQDMProgressBar",
             "RichProgressBar")  # fmt: skip


def value_of(config: Any, key: str) -> Any:
    """The value of a key, named as in the file or as on the command line, without `init_args`.

    A number, or the name of a class, selects an item of a list.

    Args:
        config: content of a `config.yaml`.
        key: such as `model.backbone.fan_in` or `trainer.callbacks.MaskConnect.lr`.

    Returns:
        The value; `MISSING` if the config does not have the key. Of a class its name.

    Example:
        >>> backbone = {"class_path": "a.b.ResNeXt", "init_args": {"fan_in": 4}}
        >>> config = {"model": {"class_path": "a.Task", "init_args": {"backbone": backbone}}}
        >>> value_of(config, "model.init_args.backbone.init_args.fan_in")
        4
        >>> value_of(config, "model.backbone.fan_in"), value_of(config, "model.backbone")
        (4, 'ResNeXt')
    """
    for part in key.split("."):
        found = [value for name, value in _below(config) if name == part]
        if not found:
            return MISSING
        config = found[0]
    return class_name(config) or config if isinstance(config, Mapping) else config


def check_known(configs: Sequence[Any], key: str) -> None:
    """Refuse a key that no config has.

    Raises:
        RunError: with the closest key that there is.
    """
    if any(value_of(config, key) != MISSING for config in configs):
        return
    known = sorted({name for config in configs for name in flat(config)})
    close = get_close_matches(key.replace(".init_args.", "."), known, 1, 0.6)
    hint = f"did you mean {' or '.join(close)}?" if close else "see config.yaml in their folders."
    raise RunError(f"No run has the key {key}: {hint}")


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """All values of a config by their keys, without `init_args`; a class is a value, too.

    Example:
        >>> flat({"data": {"class_path": "a.Digits", "init_args": {"seed": 1}}})
        {'data': 'Digits', 'data.seed': 1}
    """
    if not isinstance(config, Mapping | list):
        return {prefix: config}
    values: dict[str, Any] = {}
    if name := class_name(config):
        values[prefix] = name
    seen = set()
    for name, value in _below(config):
        # An item of a list has a number and the name of its class: the class is enough.
        if id(value) in seen or name in ("class_path", "init_args"):
            continue
        if isinstance(value, Mapping | list):
            seen.add(id(value))
        values |= flat(value, f"{prefix}.{name}" if prefix else name)
    return values


def setting(config: Mapping[str, Any]) -> dict[str, Any]:
    """All keys that say how a network is trained: no seeds, and nothing about files.

    The root of the data counts if the data are whatever pictures are in it.

    Example:
        >>> setting({"seed_everything": 1, "trainer": {"logger": None, "max_epochs": 2}})
        {'trainer.max_epochs': 2}
        >>> setting({"data": {"class_path": "ImageFolder", "init_args": {"root": "pets/cats/"}}})
        {'data': 'ImageFolder', 'data.root': 'pets/cats'}
    """
    values = flat(config)
    found = {
        key: value
        for key, value in values.items()
        if key.rpartition(".")[2] not in _STARTS + _PLACES + _MEANS and not key.startswith(_WRITES)
    }
    if values.get("data") in _OF_ANY_PICTURES and "data.root" in values:
        found["data.root"] = str(Path(values["data.root"]))
    return found


def training(config: Mapping[str, Any]) -> dict[str, Any]:
    """All keys that a run has in common with itself when it is started again.

    Those of `setting` and the seeds, without how long it trains, on which devices, and what only
    watches it.

    Example:
        >>> callbacks = [{"class_path": "a.DNW", "init_args": {"density": 0.1}}]
        >>> callbacks += [{"class_path": "b.ModelCheckpoint"}]
        >>> trainer = {"max_epochs": 3, "gradient_clip_val": 1.0, "callbacks": callbacks}
        >>> found = training({"seed_everything": 1, "trainer": trainer})
        >>> {key: value for key, value in found.items() if value is not None}
        {'trainer.gradient_clip_val': 1.0, 'trainer.callbacks.DNW': 'DNW',
         'trainer.callbacks.DNW.density': 0.1, 'seed_everything': 1}
    """
    trainer = config.get("trainer") or {}
    learned = [one for one in callbacks_in(config) if class_name(one) not in WATCHERS]
    steps = {key: trainer.get(key) for key in _STEPS} | {"callbacks": learned}
    kept = {key: config.get(key) for key in ("model", "data", "seed_everything")}
    kept["trainer"] = steps
    starts = {k: v for k, v in flat(kept).items() if k.rpartition(".")[2] in _STARTS}
    return setting(kept) | starts


def epochs_of(config: Mapping[str, Any]) -> Any:
    """How many epochs a config trains: `max_epochs`, or the sum of the phases where it is not set.

    Example:
        >>> phases = {"class_path": "PhaseSchedule", "init_args": {"phases": [{"epochs": 3}]}}
        >>> epochs_of({"trainer": {"callbacks": [phases]}})
        3
        >>> epochs_of({"trainer": {"callbacks": [phases], "max_epochs": 6}})
        6
    """
    values = flat(config)
    given = values.get("trainer.max_epochs")
    begin = "trainer.callbacks.PhaseSchedule.phases."
    ours = [v for key, v in values.items() if key.startswith(begin) and key.endswith(".epochs")]
    return sum(ours) if ours and given in (None, *NOT_GIVEN) else given


def differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Keys whose values are not the same everywhere, with their values; the first of each part.

    Example:
        >>> differing([{"lr": 0.1, "batch_size": 8}, {"lr": 0.2, "batch_size": 8}])
        {'lr': [0.1, 0.2]}
    """
    found: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for one in settings for key in one):
        if any(key.startswith(f"{outer}.") for outer in found):
            continue  # other classes have other arguments
        values = [one.get(key, MISSING) for one in settings]
        distinct = [value for place, value in enumerate(values) if value not in values[:place]]
        if len(distinct) > 1:
            found[key] = distinct
    return found


def in_words(found: Mapping[str, Sequence[Any]], most: int = 3) -> str:
    """Differences as a text such as `lr (0.1 and 0.2)`; long lists are cut.

    Example:
        >>> in_words({"lr": [0.1, 0.2, 0.3], "data": ["Digits", "CIFAR10"]}, most=2)
        'lr (0.1, 0.2, ...) and data (Digits and CIFAR10)'
    """
    texts = []
    for key, values in list(found.items())[:most]:
        shown = [str(value) for value in values[:most]] + ["..."] * (len(values) > most)
        texts.append(f"{key} ({_joined(shown)})")
    return _joined(texts + [f"{len(found) - most} more"] * (len(found) > most))


def _joined(texts: Sequence[str]) -> str:
    if len(texts) < 2 or texts[-1] == "...":
        return ", ".join(texts)
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def _below(config: Any) -> Iterator[tuple[str, Any]]:
    """Names and values one level below a part of a config."""
    if isinstance(config, list):
        seen = set()
        for value in config:
            # Of several items of a class, the first has its name; the others have numbers.
            if (name := class_name(value)) and name not in seen:
                seen.add(name)
                yield name, value
        yield from ((str(number), value) for number, value in enumerate(config))
    elif isinstance(config, Mapping):
        yield from config.items()
        if "class_path" in config:
            yield from (config.get("init_args") or {}).items()
