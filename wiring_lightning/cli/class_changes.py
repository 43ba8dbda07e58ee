"""What stays of the arguments of a class when a command line or a second config names another."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jsonargparse import Namespace, _typehints

from wiring_lightning._checks import is_plain
from wiring_lightning.cli.library_networks import library_of
from wiring_lightning.cli.messages import note
from wiring_lightning.cli.typehints import replaced

# Arguments that mean the same in every library; others only share a name, such as `depth`.
_COMMON = ("num_classes", "in_chans")

_discard = _typehints.discard_init_args_on_class_path_change


@contextmanager
def told_class_changes() -> Iterator[None]:
    """Say which arguments a class takes over from the one that was named before it.

    jsonargparse keeps those that the new class takes, too, and says nothing. A network of another
    library keeps no more than `num_classes` and `in_chans`. It is said when all is parsed, since
    what comes later may give an argument anew.
    """
    changes = _Changes()
    with replaced(discard_init_args_on_class_path_change=changes.discard):
        try:
            yield
        except SystemExit as end:
            if not end.code:  # the config was printed
                changes.tell()
            raise
    changes.tell()


@dataclass
class _Changes:
    """The classes that were replaced, and what their successors still have of their arguments.

    Attributes:
        kept: names and values, by the paths of the old and the new class.
    """

    kept: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def discard(self, parser_or_action: Any, before: Any, now: Any) -> None:
        """As jsonargparse's function: drop arguments that the new class does not take, in place."""
        old = before["class_path"] if before and before.get("init_args") else None
        new = now["class_path"]
        _discard(parser_or_action, before, now)
        if old is None:
            return
        given = _arguments(now)
        if old == new:
            self._forget(new, _arguments(before), given)
            return
        if library_of(old) != library_of(new):
            for name in [name for name in _arguments(before) if name not in _COMMON]:
                before["init_args"].pop(name)
        if (old, new) in self.kept:
            return  # told again, merged with what was there
        self.kept = {change: kept for change, kept in self.kept.items() if change[1] != old}
        self.kept[old, new] = {
            name: value
            for name, value in _arguments(before).items()
            if value is not None and name not in given
        }

    def _forget(self, path: str, before: dict[str, Any], now: dict[str, Any]) -> None:
        """Leave out what was kept and has another value from now on, as it was given anew."""
        for (_, new), kept in self.kept.items():
            for name in [*kept] if new == path else []:
                value = kept[name]
                if name in now and before.get(name) == value and now[name] != value:
                    del kept[name]

    def tell(self) -> None:
        """Say it, a line for each class that keeps something."""
        for (old, new), kept in self.kept.items():
            if kept:
                new_name, old_name = (path.rpartition(".")[2] for path in (new, old))
                named = ", ".join(_named(name, value) for name, value in kept.items())
                note(f"{new_name} keeps from {old_name} what is not given anew: {named}")


def _arguments(part: Any) -> dict[str, Any]:
    """The arguments that a part of a config says; only the one of an option that is being read."""
    given = part.get("init_args") or {}
    if isinstance(given, _typehints.NestedArg):
        return {given.key: given.val}
    return dict(vars(given) if isinstance(given, Namespace) else given)


def _named(name: str, value: Any) -> str:
    return f"{name}={value}" if is_plain(value) else name
