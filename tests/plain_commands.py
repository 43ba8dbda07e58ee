"""What the commands of a page say of their networks, read without the command line's parser.

The parser takes longer than most of these networks. So the tests of a page parse only the commands
that `typical` finds, compare what they give with this, and read all others here.
"""

from collections.abc import Iterable
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from wiring_lightning import backbones

ROOT = Path(__file__).parents[1]
Command = tuple[str, ...]  # fit --config FILE, and options


@cache
def settings_of(path: str) -> dict[str, Any]:
    """A config as its file has it; nobody may write into it."""
    return yaml.safe_load((ROOT / path).read_text())


def options(command: Command) -> dict[str, Any]:
    """The values of the options behind the config, by their keys."""
    pairs = (option.removeprefix("--").split("=", 1) for option in command[3:])
    return {key: yaml.safe_load(value) for key, value in pairs}


def backbone(command: Command) -> tuple[type, dict[str, Any]]:
    """The class of a command's network and all of its arguments, those by default too."""
    given = settings_of(command[2])["model"]["init_args"]["backbone"]
    kind = getattr(backbones, given["class_path"])
    prefix = "model.backbone."
    arguments = given["init_args"] | {
        key.removeprefix(prefix): value
        for key, value in options(command).items()
        if key.startswith(prefix)
    }
    bound = signature(kind).bind(**arguments)
    bound.apply_defaults()
    return kind, bound.arguments


def typical(commands: Iterable[Command]) -> list[Command]:
    """Few of some commands, with every config, and with every type of value of its options."""
    seen: set[object] = set()
    found = []
    for command in sorted(commands, key=len, reverse=True):
        kinds = {(command[2], key, type(value)) for key, value in options(command).items()}
        kinds.add(command[2])
        if kinds - seen:
            seen |= kinds
            found.append(command)
    return found
