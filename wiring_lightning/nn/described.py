"""Modules that say what they are beyond the shapes of their weights, and refuse other weights."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

Fact = bool | int | float | str | Sequence["Fact"] | None
_KEY = "described"  # beside `version` in what PyTorch notes about each module of a state_dict
_LONG = 40  # letters of a value from which on a message does not repeat it


class Described(nn.Module):
    """A module whose `state_dict` says what computed it, and which refuses impossible weights.

    Two networks may have weights of the same shapes and still be different functions: another K,
    another rule for the identity. A subclass calls `describe` in its constructor with what its
    shapes do not show. PyTorch keeps a note about each module in a `state_dict`, without a key of
    its own, and this class adds the description to it. Whoever reads a file asks
    `find_differences`, as `checkpoints.load_weights` does.

    `load_state_dict` itself takes the weights of another function, as PyTorch does, but not what
    `flaw` says no such module can hold.

    Attributes:
        former_names: old names of children, by their present ones. A `state_dict` with old names is
            still loaded.

    Example:
        >>> class Scaled(Described):
        ...     def __init__(self, factor: float) -> None:
        ...         super().__init__()
        ...         self.describe(factor=factor)
        ...         self.layer = nn.Linear(2, 2)
        >>> find_differences(Scaled(3.0), Scaled(2.0).state_dict())
        ['factor is 2.0 there and 3.0 here']
    """

    former_names: ClassVar[Mapping[str, str]] = MappingProxyType({})
    facts: Mapping[str, Any] = MappingProxyType({})
    built_with: Mapping[str, Any] = MappingProxyType({})

    def record(self, arguments: Mapping[str, Any]) -> None:
        """Keep in `built_with` what a constructor was given, so that a file can say it.

        Call it first in the constructor, before `nn.Module.__init__` if need be.

        Args:
            arguments: `locals()`, plain values by name.
        """
        kept = {name: value for name, value in arguments.items() if name[:2] != "__"}
        kept.pop("self", None)
        try:
            self.built_with = {n: None if v is None else _plain(v) for n, v in kept.items()}
        except TypeError:  # an argument of a wrong kind, which the constructor refuses by itself
            self.built_with = {}

    def describe(self, **facts: Fact) -> None:
        """Say what changes the function of this module; `None` for what it does not use.

        It may be called before `nn.Module.__init__`, and again by a subclass.

        Args:
            facts: by the name of the argument that a user knows, as plain values.
        """
        plain = {name: _plain(value) for name, value in facts.items() if value is not None}
        self.facts = {**self.facts, "class": type(self).__name__, **plain}

    def differences(self, described: Mapping[str, Any]) -> list[str]:
        """What differs from the description in a `state_dict`, in words.

        Only what both sides know is compared, so that a version may add a fact.
        """
        classes = {kind.__name__ for kind in type(self).__mro__}
        return [
            _difference(name, described[name], own)
            for name, own in self.facts.items()
            if name in described
            and described[name] != own
            and not (name == "class" and described[name] in classes)
        ]

    def flaw(
        self,
        values: Mapping[str, Tensor],  # noqa: ARG002
        alike: bool | None,  # noqa: ARG002
    ) -> str | None:
        """What makes values impossible for this module, in words; `None` if nothing does.

        Args:
            values: parameters and buffers of this module by name, in the right shapes.
            alike: whether the description that came with them is that of this module; `None` if
                none came.
        """
        return None

    @override
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        notes = getattr(destination, "_metadata", None)
        if notes is not None and self.facts:
            notes.setdefault(prefix[:-1], {})[_KEY] = dict(self.facts)

    @override
    def _load_from_state_dict(
        self,
        state_dict: MutableMapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # A copy: PyTorch gives no module the caller's own mapping.
        for old, new in _renamed(state_dict, self, prefix).items():
            state_dict[new] = state_dict.pop(old)
        if (flaw := self._flaw_in(state_dict, prefix, local_metadata)) is not None:
            error_msgs.append(flaw)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _flaw_in(
        self, state: Mapping[str, Any], prefix: str, notes: Mapping[str, Any]
    ) -> str | None:
        """The flaw of what a `state_dict` has for this module, with its name in front."""
        values = _own_values(self, state, prefix)
        described = _description(notes)
        flaw = self.flaw(values, not self.differences(described) if described else None)
        return None if flaw is None else f"{prefix[:-1] or type(self).__name__} {flaw}"


def find_differences(module: nn.Module, state: Mapping[str, Any]) -> list[str]:
    """What differs between a module and the description in a `state_dict`, the outermost first."""
    found = [
        difference
        for name, child in _described_in(module)
        for difference in child.differences(_description(_notes(state, name)))
    ]
    return list(dict.fromkeys(found))  # a network and its layers may say the same


def find_flaws(module: nn.Module, state: Mapping[str, Any]) -> Iterator[str]:
    """Where a `state_dict` of the right shapes holds what a module inside cannot hold, in words."""
    for name, child in _described_in(module):
        flaw = child._flaw_in(state, f"{name}." if name else "", _notes(state, name))
        if flaw is not None:
            yield flaw


def with_descriptions(state: Mapping[str, Any], module: nn.Module) -> Mapping[str, Any]:
    """A `state_dict` with the descriptions of its modules, which a plain dict has lost.

    Args:
        state: such as the average of the weights that a callback has kept. One that still has what
            PyTorch notes about its modules is returned as it is.
        module: whose weights these are.

    Example:
        >>> from wiring_lightning.nn import Gate
        >>> gate = Gate(2, 4, fan_in=1)
        >>> described = with_descriptions(dict(gate.state_dict()), gate)
        >>> find_differences(Gate(2, 4, fan_in=2), described)
        ['fan_in is 1 there and 2 here']
    """
    if hasattr(state, "_metadata"):
        return state
    described = OrderedDict(state)
    notes = {name: {_KEY: dict(one.facts)} for name, one in _described_in(module) if one.facts}
    setattr(described, "_metadata", OrderedDict(notes))  # noqa: B010
    return described


def with_present_names(state: Mapping[str, Any], module: nn.Module) -> Mapping[str, Any]:
    """A `state_dict` for a module, with the names that renamed children have now.

    Args:
        state: saved by this version or an earlier one; it is not changed.
        module: where it will be loaded.
    """
    for name, one in _described_in(module):
        prefix = f"{name}." if name else ""
        renamed = _renamed(state, one, prefix)
        if not renamed:
            continue
        notes = getattr(state, "_metadata", None)
        state = OrderedDict((renamed.get(key, key), value) for key, value in state.items())
        if isinstance(notes, Mapping):
            old_notes = _renamed(notes, one, prefix)
            notes = OrderedDict((old_notes.get(key, key), note) for key, note in notes.items())
            setattr(state, "_metadata", notes)  # noqa: B010
    return state


def _renamed(names: Iterable[str], module: Described, prefix: str) -> dict[str, str]:
    """Present names by the old ones among some names of a module's children and their values."""
    return {
        name: f"{prefix}{new}{rest}"
        for new, old in module.former_names.items()
        for name in names
        if (rest := name.removeprefix(f"{prefix}{old}")) != name and rest[:1] in ("", ".")
    }


def _notes(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What a `state_dict` notes about a module."""
    notes = getattr(state, "_metadata", None)
    of_module = notes.get(name) if isinstance(notes, Mapping) else None
    return of_module if isinstance(of_module, Mapping) else {}


def _description(notes: Mapping[str, Any]) -> Mapping[str, Any]:
    description = notes.get(_KEY)
    return description if isinstance(description, Mapping) else {}


def _described_in(module: nn.Module) -> Iterator[tuple[str, Described]]:
    return ((name, one) for name, one in module.named_modules() if isinstance(one, Described))


def _own_values(module: nn.Module, state: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """The values for a module itself that are there in the right shape and not on `meta`."""
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers("", False))}
    given = {name: state.get(prefix + name) for name in own}
    return {
        name: value.detach()
        for name, value in given.items()
        if isinstance(value, Tensor)
        and value.shape == own[name].shape
        and not (value.is_meta or own[name].is_meta)
    }


def _plain(value: Any) -> Any:
    """A value as a `state_dict` that is loaded with `weights_only` may hold it."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    return [_plain(part) for part in value]


def _difference(name: str, there: Any, here: Any) -> str:
    if max(len(str(there)), len(str(here))) > _LONG:
        return f"{name} is not the same there as here"
    return f"{name} is {there} there and {here} here"
