"""The parser of configs and command lines: what they may hold, and one sentence if they do not."""

import math
import os
from pathlib import Path
from typing import Any, NoReturn

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
from jsonargparse import Namespace, get_loader, set_loader
from jsonargparse._actions import ActionConfigFile, _ActionConfigLoad
from jsonargparse._common import parser_context
from jsonargparse._typehints import ActionTypeHint
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from wiring_lightning.cli.help import lead
from wiring_lightning.cli.messages import fail
from wiring_lightning.cli.parse_errors import one_line
from wiring_lightning.cli.yaml_text import check_yaml, read_yaml, where_and_why

_MODE = "wiring_yaml"
_MOST_BYTES = 10_000_000


def _load(text: str) -> Any:
    """What jsonargparse's own loader reads, if it is what people mean."""
    check_yaml(text)
    return get_loader("yaml")(text)


set_loader(_MODE, _load, exceptions=(yaml.YAMLError,))


class WiringParser(LightningArgumentParser):
    """Says in one line what is wrong with an argument or a config.

    All values of a config pass here, those of nested classes too: jsonargparse makes parsers of the
    same class for them.

    Args:
        arguments: those of Lightning's parser.

    Attributes:
        subcommand: the one that the parser is for; empty for parsers of parts.
    """

    subcommand = ""

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **{**arguments, "parser_mode": _MODE})

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error or os.environ.get("WIRING_DEBUG"):
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        *_, command = parser.prog.split()
        command = "wiring" if command == "wiring" else f"wiring {command}"
        fail(f"{one_line(message)} (see {command} --help)")

    @override
    def format_help(self, *args: Any, **settings: Any) -> str:
        return lead(self.subcommand, super().format_help(*args, **settings))

    def text_of(self, config: Namespace, **settings: Any) -> str:
        """What `parse` gave, as YAML; it was checked then, and another check takes long."""
        text: str = self.dump(config, skip_none=False, skip_validation=True, **settings)
        return text

    def values_of(self, config: Namespace, **settings: Any) -> dict[str, Any]:
        """What `parse` gave, as strings, numbers, lists and dicts."""
        values: dict[str, Any] = yaml.safe_load(self.text_of(config, **settings))
        return values

    @override
    def parse_path(self, path: Any, *args: Any, **settings: Any) -> Namespace:
        """Read a config file; what is no text of YAML is refused by the name of the file."""
        file = Path(str(path))
        if file.is_char_device() or (file.is_file() and file.stat().st_size > _MOST_BYTES):
            self.error(f"{file} is no config: a config is a text file of less than 10 MB")
        if file.is_file():
            try:
                content = read_yaml(file.read_text(encoding="utf-8"))
            except UnicodeDecodeError as error:
                self.error(f"{file} is no text in UTF-8 ({error.reason}, byte {error.start})")
            except yaml.YAMLError as error:
                self.error(f"{file}: Problems parsing config: {where_and_why(error)}")
            if content is None:
                self.error(f"{file} is empty: write a config into it, or give another file")
        config: Namespace = super().parse_path(path, *args, **settings)
        return config

    def _check_value_key(
        self, action: Any, value: Any, key: str, cfg: Namespace | None, append: bool = False
    ) -> Any:
        """As jsonargparse, but refuse what it would take for something else."""
        if isinstance(value, float) and math.isnan(value):
            raise TypeError(f'Parser key "{key}": must be a number, got nan')
        if isinstance(action, _ActionConfigLoad):
            value = {} if value is None else value  # a key with nothing below it
            if not isinstance(value, str | dict | Namespace):
                got = f"Expected a <class 'dict'>. Got value: {value}"
                raise TypeError(f'Parser key "{key}": {got}')
        if isinstance(action, ActionConfigFile) and not isinstance(value, str | list | None):
            raise TypeError(f'Parser key "{key}": must be the path of a file, got {value}')
        if value is None and isinstance(action, ActionTypeHint) and action.default is not None:
            # jsonargparse takes null for "not given"; then the default would stand here.
            with parser_context(lenient_check=False, parent_parser=self):
                return action._check_type_(value, cfg=cfg, append=append, mode=self.parser_mode)
        return super()._check_value_key(action, value, key, cfg, append=append)
