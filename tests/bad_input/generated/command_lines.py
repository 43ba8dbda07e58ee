"""Spoilt command lines: options without values, typos, paths that are something else."""

from functools import lru_cache
from random import Random

import yaml

from tests.bad_input.generated.bases import tiny
from tests.bad_input.generated.case import Case
from tests.bad_input.generated.configs import CLASSES, TRAINER
from wiring_lightning.cli.commands import FILES, LIGHTNING

_OPTIONS: tuple[tuple[str, str], ...] = (
    ("--trainer.max_epochs", "1"),
    ("--trainer.fast_dev_run", "1"),
    ("--trainer.callbacks", "MaskConnect"),
    ("--trainer.callbacks+", "PhaseSchedule"),
    ("--trainer.callbacks.lr", "0.1"),
    ("--trainer.logger", "false"),
    ("--model", "ClassificationTask"),
    ("--model.backbone", "ResNeXt"),
    ("--model.backbone.depth", "11"),
    ("--model.backbone.fan_in", "1"),
    ("--model.optimizer", "torch.optim.SGD"),
    ("--model.optimizer.lr", "0.1"),
    ("--model.lr_scheduler", "WarmupCosine"),
    ("--model.label_smoothing", "0.1"),
    ("--data", "Digits"),
    ("--data.batch_size", "64"),
    ("--data.seed", "1"),
    ("--seed_everything", "3"),
    ("--ckpt_path", "nowhere.ckpt"),
    ("--weights_only", "true"),
    ("--print_config", ""),
    ("--config", "config.yaml"),
    ("-c", "config.yaml"),
)
_INSPECT = (("--format", "json"), ("--figure", "wiring.png"), ("--found", "found"), ("--trust", ""))
_FIGURE = (("--output", "picture.png"), ("-o", "picture.svg"), ("--trust", ""))
_PARETO = (("--cost", "parameters"), ("--machines", "2"), ("-o", "front.png"))
_KINDS = ("connectivity", "active", "graph", "degrees", "accuracy", "efficiency", "reuse", "wiring")
_RUNS = (
    "run",
    "empty",
    "config.yaml",
    "nowhere",
    "",
    "/",
    ".",
    "..",
    "run/..",
    "*",
    "a\nb",
    "\u00e4",
)

_VALUES = (
    "", " ", "null", "true", "-1", "0", "1.5", "1e9999", ".nan", "inf", "nan", "text", "a b", "--",
    "-", "=", "==", "{", "}", "[", "[]", "{}", "[1,", "{a: 1}", "{class_path: os.getcwd}", "*x",
    "&x", "!!x", "%s", "\\", "'", '"', "\u0663", "\u2014", "\t", "\n", "a\nb", "x" * 2000, "a.b.c",
    "config.yaml", "empty", "/", ".", "..", "nowhere/x.ckpt", "@config.yaml", "$HOME", "~", "1;2",
    "None", "10" * 200,
)  # fmt: skip


def _spoil_option(name: str, value: str, random: Random) -> list[str]:
    """An option and its value, one of them or both not as they should be."""
    at = random.randrange(len(name))
    other = random.choice(_VALUES)
    if random.random() < 0.2:
        other = str(random.choice(CLASSES))
    return random.choice(
        [
            [name],
            [f"{name}="],
            [f"{name}={other}"],
            [name, other],
            [f"{name}={other}"],
            [name, other],
            [name, value, value],
            [f"{name[:at]}{name[at + 1 :]}={value}"],
            [f"{name.upper()}={value}"],
            [f"{name}.x={value}"],
            [f"{name}.init_args.x={value}"],
            [f"{name}.class_path={other}"],
            [f"{name}.help"],
            [f"{name}.help={other}"],
            [f"{name}+={other}"],
            [f"{name}[0]={value}"],
            [f"{name}:{value}"],
            [f"-{name}={value}"],
            [name[1:], value],
            [name.lstrip("-"), value],
            [f"{name} {value}"],
            [name.replace("_", "-") + f"={value}"],
            [name.replace(".", "_") + f"={value}"],
        ]
    )


def _lightning(random: Random) -> list[str]:
    """A command of Lightning's with one or two options that are wrong."""
    subcommand = random.choice([*LIGHTNING, "fit", "fit"])
    arguments = [subcommand, "--config", "config.yaml"]
    options = [*_OPTIONS, *(_INSPECT if subcommand == "inspect" else ())]
    for _ in range(random.choice([1, 1, 2])):
        arguments += _spoil_option(*random.choice(options), random)
    if random.random() < 0.3:
        key = random.choice([key for key in TRAINER if key])
        arguments.append(f"--trainer.{key}={random.choice(_VALUES)}")
    return arguments


def _figure(random: Random) -> list[str]:
    arguments = ["figure", random.choice([*_KINDS, "scalling", "", "-", "Active"])]
    arguments += random.choices(_RUNS, k=random.choice([0, 1, 1, 2, 3]))
    if random.random() < 0.5:
        arguments += _spoil_option(*random.choice(_FIGURE), random)
    return arguments


def _pareto(random: Random) -> list[str]:
    arguments = ["pareto", *random.choices(_RUNS, k=random.choice([0, 1, 2, 3]))]
    return arguments + _spoil_option(*random.choice(_PARETO), random)


def _words(random: Random) -> list[str]:
    """Words in any order, hardly ever a command."""
    words = ["wiring", "--config", "config.yaml", "--help", "-h", "--version", "run", "--verbose",
             "figure", "active", "--trainer", "help", "Fit", "fitt", "in spect", "-c", "--model",
             *LIGHTNING, *FILES, *_VALUES]  # fmt: skip
    first = [
        random.choice(["FIT", "train", "fit ", "", "-", "--", "--fit", "\u00e4", "0", "fit,test"])
    ]
    rest = random.choices(words, k=random.choice([0, 1, 2, 3, 5]))
    return random.choice([first, []]) + rest


@lru_cache(maxsize=1)
def _files() -> dict[str, bytes]:
    content = yaml.safe_dump(tiny()[0]).encode()
    return {"config.yaml": content, "empty/nothing.txt": b"", "run/config.yaml": content}


def command_lines(random: Random, number: int) -> Case:
    """A command with something wrong, in a folder with a good config."""
    make = random.choice((_lightning, _lightning, _lightning, _figure, _pareto, _words))
    return Case(str(number), make(random), _files())
