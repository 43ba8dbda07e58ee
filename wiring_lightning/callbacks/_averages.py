"""Averages of a network's weights over many steps, whose wirings differ.

To *settle* an average is to replace its values by ones with a valid wiring. The learner's method
`settled` computes them.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import filterfalse
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.hooks import RemovableHandle

from wiring_lightning.callbacks._averaged_booleans import copy_booleans
from wiring_lightning.callbacks._copies import (
    Candidate,
    CopiedGroup,
    Group,
    Place,
    candidates,
    holders,
    same,
    tensors_of,
    who_learns,
    writes_average,
)


class Settler(Protocol):
    """Computes values with a valid wiring; every `WiringCallback` is a `Settler`."""

    def places(self) -> list[Group]:
        """The tensors of the wiring, in groups that are settled together."""
        ...

    def settled(self, group: int, values: list[Tensor]) -> list[Tensor]:
        """The values of a group with a valid wiring; the same objects if nothing changes."""
        ...

    def valid(self, group: int, values: list[Tensor]) -> bool:
        """Whether values of a group that may be from an earlier step have a wiring of their own."""
        ...

    def wrote(self, places: Group) -> None:
        """Called after a group of a copy got other values."""
        ...

    def check(self) -> None:
        """Raise an error if the network that learns breaks a constraint."""
        ...


@dataclass(frozen=True, eq=False)
class _Copy:
    """A copy of a part of the network, with the groups of the wiring in it."""

    module: nn.Module
    groups: list[CopiedGroup]

    @property
    def is_average(self) -> bool:
        """Whether it is an average by now."""
        return any(group.is_average for group in self.groups)


class Averages:
    """Settles the averages of a fit.

    These are the averages of Lightning's callbacks, and copies of the network, such as timm's
    `ModelEmaV3`, that a callback or the LightningModule holds. A copy is a module of the same
    class that no optimizer holds. If it starts with the same weights, it is an average once its
    values have changed to others than those of the network; if not, as in a second fit, once they
    move straight towards those of the network. So teachers and snapshots stay as they are. Averages
    are settled for validation and in checkpoints; the running average itself is settled only after
    the fit.

    A copy may also be made during the fit. One that takes the place of an average, under its name,
    is an average from the start. One that an optimizer holds later on is none any more.

    Args:
        settler: the learner.
        trainer: the trainer of the fit.
        module: the module that it trains.

    Attributes:
        interrupted: whether the fit has failed. Then the hooks do nothing any more as soon as the
            exception is no longer handled, even if an error while it was has kept them in place.
    """

    def __init__(self, settler: Settler, trainer: Trainer, module: LightningModule) -> None:
        self._settler = settler
        self._trainer = trainer
        self._module = module
        self._paths = {id(child): name for name, child in module.named_modules()}
        # Lightning's callbacks write their average into the network itself.
        self.in_network = any(map(writes_average, trainer.callbacks))
        self.copies: dict[str, _Copy] = {}
        self.interrupted = False
        self._held: list[int] = []  # what could be a copy, at the last look
        self._announced: set[str] = set()
        self._before: list[tuple[Tensor, Tensor]] = []
        self._settled: list[Group] = []  # those of copies, until `restore`
        self._hooks: list[RemovableHandle] = []
        held = holders(module)
        for number, group in enumerate(settler.places()):
            shared = _SettledGroup(settler, number, group, held, check=not self.in_network)
            self._settle_state_dicts(shared)
        for callback in trainer.callbacks:
            for value in vars(callback).values():
                if isinstance(value, AveragedModel):
                    copy_booleans(value)

    def find(self, known: Sequence[str] = ()) -> None:
        """Find the copies of the network.

        Args:
            known: names of copies in a resumed run; their weights may differ from the network's.
        """
        before = {id(copy.module): copy for copy in self.copies.values()}
        for one in candidates(self._trainer, self._module, self._who_learns()):
            path, earlier = self._paths.get(id(one.original)), self.copies.get(one.name)
            if id(one.module) in before:
                self.copies[one.name] = before[id(one.module)]
            elif path is not None:
                is_average = one.certain or (earlier is not None and earlier.is_average)
                equal = self._is_equal(one.module, one.original)
                if is_average or equal or one.whole or one.name in known:
                    self.copies[one.name] = self._copied(one, path, is_average, not equal)

    def look(self, closely: bool = False) -> None:
        """Look for new copies, and at those that were written to since the last look.

        Args:
            closely: whether to look everywhere, also for what was written without a trace.
        """
        held = self._holdings()
        self._forget_learning()
        if closely or held != self._held:
            self.find()
            self._held = held
        for copy in self.copies.values():
            for copied in copy.groups:
                if closely or copied.was_written:
                    copied.look()

    def settle(self) -> None:
        """Settle all averages in place, until `restore`."""
        self._forget_learning()
        own = [*enumerate(self._settler.places())] if self.in_network else []
        copied = [
            (number, one.places)
            for copy in self.copies.values()
            for number, one in enumerate(copy.groups)
            if one.needs_wiring()
        ]
        for number, group in (*own, *copied):
            values = [place.tensor for place in group]
            settled = self._settler.settled(number, values)
            for value, new in zip(values, settled, strict=True):
                if new is not value and not torch.equal(value, new):
                    self._before.append((value, value.clone()))
                    value.copy_(new)
        self._settled = [group for _, group in copied]
        self._tell()

    def restore(self) -> None:
        """Restore the values from before `settle`, so that averaging continues with them."""
        for value, before in self._before:
            value.copy_(before)
        self._tell()
        self._before, self._settled = [], []

    def settle_for_norms(self) -> None:
        """Settle an average whose batch norm statistics are being computed, each time it changed.

        `StochasticWeightAveraging` has an epoch for that, with the average in the network.
        """
        if self.in_network and any(
            isinstance(callback, StochasticWeightAveraging)
            and _updates_norms(callback, self._trainer.current_epoch)
            for callback in self._trainer.callbacks
        ):
            self.settle()

    def finish(self) -> None:
        """Settle all averages for good, at the end of the fit."""
        self.restore()
        for callback in self._trainer.callbacks:
            if isinstance(callback, StochasticWeightAveraging) and _updates_norms(
                callback, self._trainer.current_epoch - 1
            ):
                # Its extra epoch for batch norm ends with an optimizer step on the network, which
                # therefore no longer holds the average.
                assert callback._average_model is not None
                callback.transfer_weights(callback._average_model, self._module)
        self.find()
        self.settle()
        self._before, self._settled = [], []

    def detach(self) -> None:
        """Restore all values and remove all hooks."""
        self.restore()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def state(self) -> dict[str, list[list[Tensor]]]:
        """The averages before they are settled; the `state_dict` holds settled ones only.

        Copies that are no averages yet have their names here, and no values.
        """
        self._forget_learning()
        return {
            name: [[p.tensor for p in one.places] if one.is_average else [] for one in copy.groups]
            for name, copy in self.copies.items()
        }

    def load_state(self, state: Mapping[str, list[list[Tensor]]]) -> None:
        """Restore the averages of a state."""
        for name, copy in self.copies.items():
            for copied, values in zip(copy.groups, state.get(name, []), strict=False):
                for place, value in zip(copied.places, values, strict=False):
                    place.tensor.copy_(value)
                    copied.is_average = True
                self._settler.wrote(copied.places)

    @property
    def over(self) -> bool:
        """Whether the fit has failed, and its exception is no longer handled."""
        return self.interrupted and sys.exc_info()[1] is None

    def modules(self, found: Sequence[nn.Module]) -> list[nn.Module]:
        """The copies, and those that were found before, without what an optimizer holds by now."""
        known = [*found, *(copy.module for copy in self.copies.values())]
        return list(filterfalse(self._who_learns(), known))

    def _who_learns(self) -> Callable[[nn.Module], bool]:
        """As `who_learns`; the settler may have taken parameters out of the optimizers."""
        places = [place for group in self._settler.places() for place in group]
        learned = [getattr(place.owner, place.key) for place in places if place.is_parameter]
        return who_learns(self._trainer, learned)

    def _forget_learning(self) -> None:
        """Forget the copies that an optimizer holds by now, such as layers that were unfrozen."""
        learns = self._who_learns() if self.copies else None
        for name, copy in [*self.copies.items()]:
            if learns is not None and learns(copy.module):
                for group in self.copies.pop(name).groups:
                    group.forget()

    def _holdings(self) -> list[int]:
        """The modules that callbacks and the LightningModule hold, without looking into them."""
        values = (value for each in self._trainer.callbacks for value in vars(each).values())
        own = self._module.children()
        return [id(value) for value in (*values, *own) if isinstance(value, nn.Module)]

    def _tell(self) -> None:
        """Tell the learner which copies got other values."""
        for group in self._settled:
            self._settler.wrote(group)

    def _settle_state_dicts(self, shared: "_SettledGroup") -> None:
        """Register hooks that settle every `state_dict` of the modules that hold a group."""
        for number, place in enumerate(shared.entries):
            hook = _SettledState(self, shared, number)
            self._hooks.append(place.owner.register_state_dict_post_hook(hook))

    def _is_equal(self, copy: nn.Module, original: nn.Module) -> bool:
        """Whether two modules hold the same weights, except where those of one are absent."""
        wiring = {p.tensor.data_ptr() for group in self._settler.places() for p in group}
        pairs = zip(tensors_of(copy).values(), tensors_of(original).values(), strict=True)
        return all(
            same(copied, value, where_there=value.data_ptr() in wiring) for copied, value in pairs
        )

    def _copied(self, one: Candidate, path: str, is_average: bool, differs: bool) -> _Copy:
        """A copy of the submodule at `path`; groups that are not wholly in it are empty."""
        groups = []
        held = holders(one.module)

        def learns() -> bool:
            return self._who_learns()(one.module)

        for number, group in enumerate(self._settler.places()):
            places = []
            for place in group:
                owner = self._paths.get(id(place.owner), "")
                if path and owner != path and not owner.startswith(f"{path}."):
                    continue
                inside = owner[len(path) :].lstrip(".") if path else owner
                places.append(Place(one.module.get_submodule(inside), place.key))
            whole = places if len(places) == len(group) else []
            is_valid = partial(self._settler.valid, number)
            say = partial(self._announce, one.name)
            copied = CopiedGroup(whole, group, is_valid, learns, say, is_average, differs)
            shared = _SettledGroup(self._settler, number, whole, held, copied=copied)
            self._settle_state_dicts(shared)
            groups.append(copied)
        return _Copy(one.module, groups)

    def _announce(self, name: str) -> None:
        """Say once that a copy is an average."""
        if name not in self._announced:
            self._announced.add(name)
            rank_zero_info(
                f"{type(self._settler).__name__}: {name.removeprefix('module.')} is an average of "
                "the network, so it gets the wiring when it is validated or saved, and for good "
                "when the fit ends."
            )


class _SettledGroup:
    """Settles a group once for each `state_dict`, however many modules write into it.

    With `check`, values that are no average and break a constraint are an error. A group in a copy
    is settled if it is an average. `entries` are the places of all names of its tensors: a weight
    that is tied to another layer has two in a `state_dict`.
    """

    def __init__(
        self,
        settler: Settler,
        number: int,
        group: Group,
        held: Mapping[int, Group],
        check: bool = False,
        copied: CopiedGroup | None = None,
    ) -> None:
        self._group = group
        tensors = [getattr(place.owner, place.key) for place in group]
        names = [held.get(id(one), [own]) for one, own in zip(tensors, group, strict=True)]
        self._indices = [index for index, places in enumerate(names) for _ in places]
        self.entries = [place for places in names for place in places]
        self._settler, self._number, self._check = settler, number, check
        self._copied = copied
        self._state: object = None  # the one that is being filled
        self._pending: dict[int, Tensor | None] = {}

    def value(self, state: Any, entry: int) -> Tensor | None:
        """The settled value of one entry; `None` if its tensor is valid as it is."""
        if self._state is not state or entry not in self._pending:
            values = [place.tensor for place in self._group]
            settled = values
            if self._copied is None or self._copied.needs_wiring():
                settled = self._settler.settled(self._number, values)
            pairs = zip(settled, values, strict=True)
            changed = [None if new is old else new for new, old in pairs]
            if self._check and any(new is not None for new in changed):
                self._settler.check()
            self._state = state
            self._pending = {n: changed[index] for n, index in enumerate(self._indices)}
        value = self._pending.pop(entry)
        if not self._pending:
            self._state = None
        return value


@dataclass(eq=False)
class _SettledState:
    """A hook that settles one entry of a group in the `state_dict` of a module."""

    averages: Averages
    shared: _SettledGroup
    entry: int

    def __call__(self, _owner: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        settled = None if self.averages.over else self.shared.value(state, self.entry)
        if settled is not None:
            state[f"{prefix}{self.shared.entries[self.entry].key}"] = settled.clone()

    def __reduce__(self) -> tuple[type["_NoHook"], tuple[()]]:
        return _NoHook, ()  # a copied or pickled network must not refer to this learner


class _NoHook:
    """The hook of a copied network, which does nothing."""

    def __call__(self, *_: Any) -> None:
        """Do nothing."""


def _updates_norms(averaging: StochasticWeightAveraging, epoch: int) -> bool:
    """Whether this is the extra epoch that computes the average's batch norm statistics."""
    return averaging._model_contains_batch_norm is True and epoch == averaging.swa_end + 1
