"""Spoilt configs: a change of a value, of a key, of a class, of several, or of the file's bytes."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import lru_cache
from random import Random
from typing import Any

import yaml

from tests.bad_input.generated.bases import Config, shipped, tiny
from tests.bad_input.generated.case import RAN, Case

Path = tuple[str | int, ...]
Spoil = Callable[[Config, Random], str]

# What stands where something else should be.
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 0.5, 1.0, -0.5, 3.7, 1e-300, 1e300, 10**12, -(10**18),
    float("nan"), float("inf"), float("-inf"), "", " ", "text", "null", "nan", "1", "1e3", "one",
    "1,000", "../..", "/", "a.b.c", "\u0663", "\u2014", "x" * 3000, "a: b", "{", "${x}", "!!int 3",
    [], [[]], [None], [0], [1, 2], ["a", "b"], [{}], {}, {"a": 1}, {"class_path": None},
    {"class_path": ""}, {"init_args": {}}, {"class_path": "torch.nn.Identity"}, {None: None},
    {1: 2}, {"": ""},
)  # fmt: skip
# Numbers that are none, out of every range, or on its edge.
_NUMBERS: tuple[Any, ...] = (
    None, True, 0, -1, -0.5, 1e-300, 1e300, 10**12, 10**18, -(10**12), 10**400, 0.999, 1.0, 1.001,
    float("nan"), float("inf"), float("-inf"), "0", "-1", ".inf", "1e400", 3, 17,
)  # fmt: skip
# What keeps a run short, and on this machine.
_KEPT = ("fast_dev_run", "enable_progress_bar", "accelerator", "devices")
_COMMAND = {"command": f"touch {RAN}"}
# Classes and functions that are not what is asked for, whatever that is.
CLASSES: tuple[Any, ...] = (
    "os.system", "os.getcwd", "subprocess.Popen", "builtins.print", "builtins.dict", "builtins.int",
    "pathlib.Path", "torch.nn.Module", "torch.nn.Linear", "torch.optim.Optimizer", "torch.zeros",
    "torch.optim.Adam", "torch.optim.SGD", "torch.nn.Sequential", "collections.OrderedDict",
    "lightning.pytorch.Trainer", "lightning.pytorch.Callback", "lightning.pytorch.LightningModule",
    "lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.loggers.CSVLogger",
    "wiring_lightning.callbacks.WiringCallback", "wiring_lightning.callbacks.MaskConnect",
    "wiring_lightning.tasks.ClassificationTask", "wiring_lightning.data.Digits",
    "wiring_lightning.backbones.ResNeXt", "wiring_lightning.wiring.Wired", "wiring_lightning",
    "wiring_lightning.backbones", "nowhere", "nowhere.Net", "torch.nowhere", "os", "os.", ".os",
    "..", "ResNet", "resnext", "Resnext", "RESNEXT", "Maskconnect", "Digit", "SGD", "sgd", "Adam",
    "StepLR", "torch.optim.lr_scheduler.LambdaLR", "1", "1.5", "a b", "a-b.c", "a.b.c.d", "\u00e4",
    "torch.nn.Linear ", "<class 'torch.nn.Linear'>", "torch.nn.Linear()", 3, None, [], {}, True,
)  # fmt: skip
TRAINER: dict[str, tuple[Any, ...]] = {
    "accelerator": ("tpu", "gpu", "nothing", 1, None, ["cpu"]),
    "devices": (0, -2, "all", "a,b", [], [5], {}, 1.5),
    "strategy": ("nothing", "ddp_nothing", 3, {"class_path": "os.getcwd"}),
    "precision": ("8", "half", 17, None, "16-nothing", [16]),
    "logger": ("x", 3, [], [None], {"class_path": "CSVLogger", "init_args": {"name": 1}}),
    "profiler": ("nothing", 3, {"class_path": "os.getcwd"}),
    "max_epochs": (-2, 1.5, "all", 10**30),
    "max_steps": (-7, 0, 0.5, "x"),
    "max_time": ("yesterday", -1, {"hours": "x"}, {"nothing": 1}, "00:00:00:99"),
    "min_epochs": (-1, "x", 10**12),
    "limit_train_batches": (-1, 1.5, "x", 0, float("nan"), -0.1),
    "limit_val_batches": (-1, 2.5, "x", float("inf")),
    "num_sanity_val_steps": (-2, 1.5, "x"),
    "check_val_every_n_epoch": (0, -1, 1.5, "x"),
    "val_check_interval": (0, -1, 10**6, 1.5, "x"),
    "accumulate_grad_batches": (0, -1, 1.5, "x"),
    "gradient_clip_val": (-1, "x", float("nan"), []),
    "gradient_clip_algorithm": ("nothing", 3, []),
    "log_every_n_steps": (0, -1, 1.5, "x"),
    "overfit_batches": (-1, 1.5, "x", float("nan")),
    "fast_dev_run": (-1, "x", 1.5, None, []),
    "enable_checkpointing": ("x", 3, None),
    "deterministic": ("x", 3, []),
    "barebones": (True, "x", 3),
    "plugins": ("nothing", [3], {"class_path": "os.getcwd"}),
    "callbacks": ("x", 3, {}, [3], [[]], [None], {"class_path": "Callback"}, "MaskConnect", [{}]),
    "default_root_dir": (3, [], "a\u0000b", "config.yaml/below"),
    "reload_dataloaders_every_n_epochs": (-1, "x", 1.5),
    "inference_mode": ("x", 3),
    "sync_batchnorm": ("x", 3),
    "use_distributed_sampler": ("x", None),
    "nothing": (1, None),
    "": (1,),
}


def _paths(config: Any, path: Path = ()) -> Iterator[Path]:
    """The place of every value in a config, those of mappings and lists included."""
    if path:
        yield path
    if isinstance(config, dict):
        for key, value in config.items():
            yield from _paths(value, (*path, key))
    elif isinstance(config, list):
        for number, value in enumerate(config):
            yield from _paths(value, (*path, number))


def _parent(config: Config, path: Path) -> Any:
    value: Any = config
    for part in path[:-1]:
        value = value[part]
    return value


def _value(config: Config, path: Path) -> Any:
    return _parent(config, path)[path[-1]]


def _said(path: Path) -> str:
    return ".".join(map(str, path))


def _some_path(config: Config, random: Random) -> Path:
    return random.choice([path for path in _paths(config) if path[-1] not in _KEPT])


def _number_paths(config: Config) -> list[Path]:
    numbers = [path for path in _paths(config) if isinstance(_value(config, path), (int, float))]
    return [path for path in numbers if path[-1] not in _KEPT]


def _other_value(config: Config, random: Random) -> str:
    path, value = _some_path(config, random), deepcopy(random.choice(_VALUES))
    _parent(config, path)[path[-1]] = value
    return f"{_said(path)} is {str(value)[:30]!r}"


def _other_number(config: Config, random: Random) -> str:
    path = random.choice(_number_paths(config))
    value = random.choice(_NUMBERS)
    _parent(config, path)[path[-1]] = value
    return f"{_said(path)} is {value}"


def _wrapped_value(config: Config, random: Random) -> str:
    path = _some_path(config, random)
    value = _value(config, path)
    key = random.choice(["value", "class_path", "init_args", 0])
    _parent(config, path)[path[-1]] = random.choice([[value], [value, value], {key: value}])
    return f"{_said(path)} is wrapped"


def _number_as_text(config: Config, random: Random) -> str:
    path = random.choice(_number_paths(config))
    value = _value(config, path)
    texts = (f"{value} ", f"'{value}'", f"{value}%", f"{value},0", f"{value}k", f"~{value}",
             f"{value}/2", f"0x{value}", f"{value}_0", f"{value}..2", f"about {value}")  # fmt: skip
    _parent(config, path)[path[-1]] = random.choice(texts)
    return f"{_said(path)} is {_value(config, path)!r}"


def _no_key(config: Config, random: Random) -> str:
    path = _some_path(config, random)
    del _parent(config, path)[path[-1]]
    return f"{_said(path)} is missing"


def _other_key(config: Config, random: Random) -> str:
    keys = [path for path in _paths(config) if isinstance(path[-1], str)]
    path = random.choice(keys)
    key, parent = str(path[-1]), _parent(config, path)
    at = random.randrange(len(key))
    renamed = random.choice(
        [key[:at] + key[at + 1 :], key.upper(), key + "s", f" {key}", f"{key}.x", key[::-1],
         key[:at] + "\u0435" + key[at + 1 :], f"-{key}", key.replace("_", "-") + "-", f"{key} "]
    )  # fmt: skip
    parent[renamed] = parent.pop(key)
    return f"{_said(path)} is called {renamed!r}"


def _more_keys(config: Config, random: Random) -> str:
    places = [path for path in [(), *_paths(config)]
              if isinstance(_value(config, path) if path else config, dict)]  # fmt: skip
    path = random.choice(places)
    key = random.choice(["nothing", "args", "init_args", "class_path", "0", "", "a.b", "__class__",
                         "dict_kwargs", "self", "config", "help", "subcommand", "fit"])  # fmt: skip
    value = deepcopy(random.choice(_VALUES))
    (_value(config, path) if path else config)[key] = value
    return f"{_said(path)} has {key!r}: {str(value)[:30]!r}"


def _other_class(config: Config, random: Random) -> str:
    classes = [path for path in _paths(config) if path[-1] == "class_path"]
    path, name = random.choice(classes), deepcopy(random.choice(CLASSES))
    parent = _parent(config, path)
    parent["class_path"] = name
    if random.random() < 0.6:
        parent["init_args"] = random.choice([{}, dict(_COMMAND), dict(_COMMAND), None, [], "x"])
    return f"{_said(path)} is {name!r} with {parent.get('init_args', 'nothing')!r}"


def _class_for_a_value(config: Config, random: Random) -> str:
    path, name = _some_path(config, random), random.choice(CLASSES)
    spec = {"class_path": name, "init_args": dict(_COMMAND)}
    _parent(config, path)[path[-1]] = random.choice([name, spec])
    return f"{_said(path)} is {_value(config, path)!r}"


def _swapped(config: Config, random: Random) -> str:
    one, other = _some_path(config, random), _some_path(config, random)
    first, second = deepcopy(_value(config, one)), deepcopy(_value(config, other))
    _parent(config, one)[one[-1]] = second
    if one != other[: len(one)]:  # what lay inside the first is gone
        _parent(config, other)[other[-1]] = first
    return f"{_said(one)} and {_said(other)} are swapped"


def _trainer(config: Config, random: Random) -> str:
    key = random.choice(list(TRAINER))
    value = deepcopy(random.choice(TRAINER[key]))
    config["trainer"][key] = value
    return f"trainer.{key} is {value!r}"


_SPOILS: tuple[tuple[Spoil, int], ...] = (
    (_other_number, 25),
    (_other_value, 25),
    (_wrapped_value, 6),
    (_number_as_text, 6),
    (_no_key, 6),
    (_other_key, 8),
    (_more_keys, 8),
    (_other_class, 12),
    (_class_for_a_value, 8),
    (_swapped, 6),
    (_trainer, 10),
)


def _spoil_text(text: str, random: Random) -> tuple[str, bytes]:
    """What is wrong in the file, and its bytes."""
    lines = text.splitlines(keepends=True)
    at = random.randrange(len(lines))
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    key = lines[at].strip().removeprefix("- ").partition(":")[0]
    where = random.randrange(len(text))
    raw = text.encode()
    changes: dict[str, bytes] = {
        f"line {at + 1} twice": "".join([*lines[: at + 1], *lines[at:]]).encode(),
        f"the key {key} twice": "".join([*lines[: at + 1], f"{indent}{key}: 1\n",
                                         *lines[at + 1 :]]).encode(),
        f"cut at {where}": raw[:where],
        f"a tab in line {at + 1}": "".join([*lines[:at], "\t", *lines[at:]]).encode(),
        f"a space in line {at + 1}": "".join([*lines[:at], " ", *lines[at:]]).encode(),
        f"a sign at {where}": f"{text[:where]}{random.choice('{}[]:,&*!|>@`%#')}{text[where:]}"
        .encode(),
        f"a byte at {where}": raw[:where] + random.randbytes(1) + raw[where:],
        "UTF-16": text.encode("utf-16"),
        "Latin 1": text.replace("e", "\u00e9", 3).encode("latin-1"),
        "with a byte order mark": b"\xef\xbb\xbf" + raw,
        "with NUL": raw[:where] + b"\x00" + raw[where:],
        "Windows lines": text.replace("\n", "\r\n").encode(),
        "Mac lines": text.replace("\n", "\r").encode(),
        "empty": b"",
        "spaces": b"  \n\n",
        "a comment": b"# nothing\n",
        "random bytes": random.randbytes(500),
        "a picture": b"\x89PNG\r\n\x1a\n" + random.randbytes(200),
        "an archive": b"PK\x03\x04" + random.randbytes(200),
        "two documents": raw + b"---\n" + raw,
        "a list": b"- 1\n- 2\n",
        "a number": b"3\n",
        "text": b"just words\n",
        "JSON cut": b'{"model": {"class_path": "Classi',
        "a tag that runs": f"x: !!python/object/apply:os.system ['touch {RAN}']\n".encode() + raw,
        "an unknown tag": b"x: !nothing 3\n" + raw,
        "an alias of nothing": b"x: *nothing\n" + raw,
        "an alias of itself": b"x: &a [*a]\n" + raw,
        "a bomb": b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n".encode()
            for old, new in zip("abcdefgh", "bcdefghi", strict=True)) + raw,
        "deep": b"x: " + b"[" * 3000 + b"]" * 3000 + b"\n" + raw,
        "a long line": b"x: " + b"y" * 200_000 + b"\n" + raw,
        "a merge of a number": b"x:\n  <<: 3\n" + raw,
        "a complex key": b"? [a, b]\n: 1\n" + raw,
        "a date": b"seed_everything: 2020-01-01\n" + raw,
    }  # fmt: skip
    name = random.choice(list(changes))
    return name, changes[name]


def spoil_config(config: Config, random: Random) -> str:
    """Change one thing in a config, and say which."""
    spoils, weights = zip(*_SPOILS, strict=True)
    (spoil,) = random.choices(spoils, weights)
    try:
        return spoil(config, random)
    except (AttributeError, IndexError, KeyError, TypeError):
        return "nothing more"  # an earlier change has removed what this one wants


_SUBCOMMANDS = ("fit", "fit", "fit", "fit", "fit", "test", "validate", "predict", "inspect")


@lru_cache(maxsize=1)
def _bases() -> list[Config]:
    return [*tiny(), *tiny(), *tiny(), *tiny(), *shipped()]


def spoilt_values(random: Random, number: int) -> Case:
    """A config with one thing wrong, or two."""
    config = deepcopy(random.choice(_bases()))
    said = [spoil_config(config, random) for _ in range(random.choice([1, 1, 1, 2]))]
    content = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
    command = (random.choice(_SUBCOMMANDS), "--config", "config.yaml")
    return Case(f"{number}: {' and '.join(said)}", command, {"config.yaml": content})


def spoilt_files(random: Random, number: int) -> Case:
    """A config whose file is no good YAML, or good YAML of another kind."""
    text = yaml.safe_dump(random.choice(_bases()[:5]), sort_keys=False)
    name, content = _spoil_text(text, random)
    command = (random.choice(_SUBCOMMANDS), "--config", "config.yaml")
    return Case(f"{number}: {name}", command, {"config.yaml": content})
