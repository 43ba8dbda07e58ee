"""Sparse groups in the order of a checkpoint, whose states belong to them by position."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from wiring_lightning._checks import listed
from wiring_lightning.callbacks._kept_arguments import Before
from wiring_lightning.callbacks._weight_choice import SparseGroup


def in_saved_order(
    groups: Sequence[SparseGroup], saved: Mapping[str, Sequence[str]] | None, before: Before
) -> list[SparseGroup]:
    """The groups, and the weights in each, in the order in which they were saved.

    It differs if modules are defined in another order, or optimizers given in another one.

    Args:
        groups: those of this fit, which have the names of the saved ones.
        saved: the names of the weights of each group; `None` in a checkpoint of an earlier version.
        before: with what the run goes on.

    Raises:
        MisconfigurationException: if a group has other weights now.
    """
    if saved is None:
        return list(groups)
    group_of = {group.name: group for group in groups}
    return [_with_members(group_of[name], members, before) for name, members in saved.items()]


def names_by_rule(ruled_groups: Sequence[tuple[Any, SparseGroup, int]]) -> list[list[str]]:
    """The names of the groups of each rule, for groups that are given with theirs."""
    held: dict[int, list[str]] = {}
    for rule, group, _ in ruled_groups:
        held.setdefault(id(rule), []).append(group.name)
    return list(held.values())


def states_by_rule(saved: Mapping[str, Any], held: Sequence[Sequence[str]]) -> list[Any]:
    """The saved states of rules, each of which is of one optimizer.

    Args:
        saved: the state of a callback: `rules`, and in `held` the names of the groups of each.
        held: the names of the groups of each rule of this fit.

    Raises:
        MisconfigurationException: if the optimizers hold other groups than those of the saved run.
    """
    states: list[Any] = saved["rules"]
    before = saved.get("held")  # earlier versions did not save it
    if before is None:
        before = held if len(held) == len(states) else None
    if before is None or {*map(frozenset, before)} != {*map(frozenset, held)}:
        raise MisconfigurationException(
            f"the sparse weights were in {len(states)} optimizer(s) when they were saved, and now "
            f"others of them are together in {len(held)}: give each optimizer the same weights as "
            "in the saved run."
        )
    state_of = {frozenset(names): state for names, state in zip(before, states, strict=True)}
    return [state_of[frozenset(names)] for names in held]


def _with_members(group: SparseGroup, saved: Sequence[str], before: Before) -> SparseGroup:
    """The group with its weights in the order of their names."""
    own = _keys([member.name for member in group.members])
    member_of = dict(zip(own, group.members, strict=True))
    was = _keys(saved)
    gone, new = sorted({*was} - {*own}), sorted({*own} - {*was})
    if other := gone or new:
        there, here = ("", "no ") if gone else ("no ", "")
        raise MisconfigurationException(
            f"{before.had} {there}state of {listed([name for name, _ in other])}, and there is "
            f"{here}such sparse weight now; {before.go_on} the same model and the same choice of "
            f"layers{before.otherwise}."
        )
    return replace(group, members=[member_of[key] for key in was])


def _keys(names: Sequence[str]) -> list[tuple[str, int]]:
    """Each name, and how many before it are equal, as of the two parameters of a weight norm."""
    return [(name, [*names[:index]].count(name)) for index, name in enumerate(names)]
