"""What stays of the arguments of a class when a command line or a second config names another."""

from contextlib import AbstractContextManager
from typing import Any

from jsonargparse import Namespace, _typehints

from wiring_lightning._checks import is_plain
from wiring_lightning.cli.library_networks import library_of
from wiring_lightning.cli.messages import note
from wiring_lightning.cli.typehints import replaced

# Arguments that mean the same in every library; others only share a name, such as `depth`.
_COMMON = ("num_classes", "in_chans")

_said: set[str] = set()  # a command line is parsed several times
_discard = _typehints.discard_init_args_on_class_path_change


def told_class_changes() -> AbstractContextManager[None]:
    """Say which arguments a class takes over from the one that was named before it.

    jsonargparse keeps those that the new class takes, too, and says nothing. A network of another
    library keeps no more than `num_classes` and `in_chans`.
    """
    _said.clear()
    return replaced(discard_init_args_on_class_path_change=_discard_and_tell)


def _discard_and_tell(parser_or_action: Any, before: Any, now: Any) -> None:
    """As jsonargparse's function: drop arguments that the new class does not take, in place."""
    changed = before and "init_args" in before and before["class_path"] != now["class_path"]
    given = dict(before["init_args"]) if changed else {}
    _discard(parser_or_action, before, now)
    if not given:
        return
    old, new = before["class_path"], now["class_path"]
    kept: Namespace = before["init_args"]
    if library_of(old) != library_of(new):
        for name in [name for name in vars(kept) if name not in _COMMON]:
            kept.pop(name)
    named = [_named(name, value) for name, value in vars(kept).items() if value is not None]
    if named:
        new_name, old_name = (path.rpartition(".")[2] for path in (new, old))
        text = f"{new_name} keeps from {old_name} what is not given anew: {', '.join(named)}"
        if text not in _said:
            _said.add(text)
            note(text)


def _named(name: str, value: Any) -> str:
    return f"{name}={value}" if is_plain(value) else name
