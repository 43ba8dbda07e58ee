"""Which part of a file holds weights, and which names a module has for them."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wiring_lightning.checkpoints.reading import CheckpointError, damaged

_COMPILED = "_orig_mod."  # what torch.compile puts into names
_EXTRA = "_extra_state"  # the name that torch gives to what is no tensor


@dataclass(frozen=True)
class Named:
    """Weights with the names of a module, and in words what other names they had in the file."""

    weights: Mapping[str, Any]
    renamed: str | None = None


def find_weights(content: Mapping[str, Any], path: str | Path) -> Mapping[str, Any]:
    """The weights in what a file holds: all of it, or what is under one of its keys.

    Trainers of other people save weights beside other things, under `model` for example.

    Args:
        content: a Lightning checkpoint, a bare `state_dict`, or a mapping that holds one.
        path: where it was read from, for the message.

    Raises:
        CheckpointError: if no part of it or several parts could be meant.

    Example:
        >>> list(find_weights({"model": nn.Linear(2, 1).state_dict(), "epoch": 3}, "w.pth"))
        ['weight', 'bias']
    """
    if "state_dict" in content:
        weights: Any = content["state_dict"]
        if not isinstance(weights, Mapping):
            raise damaged(path, f"its state_dict is of type {type(weights).__name__}")
        return weights
    keys = [key for key, value in content.items() if not _is_extra(key) and _is_state(value)]
    if len(keys) > 1:
        raise CheckpointError(
            f"The file {path} holds weights under {' and under '.join(map(str, keys))}: save those "
            f"that you want in a file of their own, such as torch.load(path)[{keys[0]!r}]."
        )
    if keys:
        found: Mapping[str, Any] = content[keys[0]]
        return found
    if content and not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(
            f"The file {path} holds no weights (but {', '.join(map(str, [*content][:3]))}): check "
            "the path, and save model.state_dict()."
        )
    return content


def named_as_in(module: nn.Module, weights: Mapping[str, Any]) -> Named:
    """Weights with the names that a module has for them, as far as only prefixes differ.

    A network has other names inside of a task (`backbone.`), of `DistributedDataParallel`
    (`module.`) and after `torch.compile` (`_orig_mod.`).

    Args:
        module: where they will be loaded.
        weights: by name; they are not changed.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> named = named_as_in(layer, {"module.weight": layer.weight})
        >>> list(named.weights), named.renamed
        (['weight'], 'module.weight there is weight here')
    """
    if not all(isinstance(name, str) for name in weights):
        return Named(weights)
    own = {plain_name(name): name for name in module.state_dict()}
    given = [plain_name(name) for name in weights]
    fitting = len(set(own.values()) & weights.keys())
    chosen: tuple[str, str] | None = None
    for old, new in product(_prefixes(given), _prefixes([*own])):
        fit = len({new + name.removeprefix(old) for name in given} & own.keys())
        if fit > fitting:
            fitting, chosen = fit, (old, new)
    if chosen is None:
        return Named(weights)
    old, new = chosen
    names = {name: new + plain_name(name).removeprefix(old) for name in weights}
    names = {name: own.get(plain, plain) for name, plain in names.items()}
    renamed = OrderedDict((names[name], value) for name, value in weights.items())
    notes = getattr(weights, "_metadata", None)  # what torch notes about the modules
    if isinstance(notes, Mapping):
        moved = {_of_module(name, old, new): note for name, note in notes.items()}
        setattr(renamed, "_metadata", OrderedDict(moved))  # noqa: B010
    first = next(name for name, new in names.items() if name != new)
    return Named(renamed, f"{first} there is {names[first]} here")


def _is_extra(name: Any) -> bool:
    return str(name).rpartition(".")[2] == _EXTRA


def _is_state(value: Any) -> bool:
    """Whether it is a `state_dict`: tensors by name, and states that only modules can read."""
    return (
        isinstance(value, Mapping)
        and any(isinstance(one, Tensor) for one in value.values())
        and all(
            isinstance(name, str) and (isinstance(one, Tensor) or _is_extra(name))
            for name, one in value.items()
        )
    )


def plain_name(name: str) -> str:
    """The name of a weight as it is without `torch.compile`."""
    return name.replace(_COMPILED, "")


def _prefixes(names: Sequence[str]) -> list[str]:
    """Nothing, and what all of the names begin with, up to a dot."""
    if not names:
        return [""]
    parts = names[0].split(".")[:-1]
    begins = [".".join([*parts[:end], ""]) for end in range(len(parts) + 1)]
    return [begin for begin in begins if all(name.startswith(begin) for name in names)]


def _of_module(name: str, old: str, new: str) -> str:
    """The name of a module, which has no dot at its end, with another prefix."""
    dotted = plain_name(f"{name}." if name else "")
    return (new + dotted.removeprefix(old)).removesuffix(".")
