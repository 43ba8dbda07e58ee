"""Averages of a network's weights over many steps, whose wirings differ.

To *settle* an average is to replace its values by ones with a valid wiring. The learner's method
`settled` computes them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, eq=False)
class Place:
    """A parameter or buffer that is part of a wiring.

    Args:
        owner: the module that holds it.
        key: its name in that module.
    """

    owner: nn.Module
    key: str

    @property
    def tensor(self) -> Tensor:
        """The parameter or buffer, detached."""
        value: Tensor = getattr(self.owner, self.key)
        return value.detach()


Group = Sequence[Place]


class Settler(Protocol):
    """Computes values with a valid wiring; every `WiringCallback` is a `Settler`."""

    def places(self) -> list[Group]:
        """The tensors of the wiring, in groups that are settled together."""
        ...

    def settled(self, group: int, values: list[Tensor]) -> list[Tensor]:
        """The values of a group with a valid wiring; the same objects if nothing changes."""
        ...

    def check(self) -> None:
        """Raise an error if the network that learns breaks a constraint."""
        ...


class Averages:
    """Settles the averages of a fit.

    These are the averages of Lightning's callbacks, and copies of the network, such as timm's
    `ModelEmaV3`, that a callback or the LightningModule holds. A copy is a module of the same
    class that no optimizer holds and that starts with the same weights. Averages are settled for
    validation and in checkpoints; the running average itself is settled only after the fit.

    Args:
        settler: the learner.
        trainer: the trainer of the fit.
        module: the module that it trains.
    """

    def __init__(self, settler: Settler, trainer: Trainer, module: LightningModule) -> None:
        self._settler = settler
        self._trainer = trainer
        self._module = module
        self._paths = {id(child): name for name, child in module.named_modules()}
        # Lightning's callbacks write their average into the network itself.
        self.in_network = any(map(_averages, trainer.callbacks))
        self.copies: dict[str, list[Group]] = {}
        self._before: list[tuple[Tensor, Tensor]] = []
        self._hooks: list[RemovableHandle] = []
        self._settle_state_dicts(settler.places(), check=not self.in_network)
        for callback in trainer.callbacks:
            for value in vars(callback).values():
                if isinstance(value, AveragedModel):
                    _copy_booleans(value)

    def find(self, known: Sequence[str] = ()) -> None:
        """Find the copies of the network.

        Args:
            known: names of copies in a resumed run; their weights may differ from the network's.
        """
        for name, copy, original, certain in _candidates(self._trainer, self._module):
            if name in self.copies:
                continue
            if certain or name in known or self._is_equal(copy, original):
                places = self._counterparts(copy, self._paths[id(original)])
                self.copies[name] = places
                self._settle_state_dicts(places)

    def settle(self) -> None:
        """Settle all averages in place, until `restore`."""
        networks = [self._settler.places()] if self.in_network else []
        for groups in (*networks, *self.copies.values()):
            for number, group in enumerate(groups):
                values = [place.tensor for place in group]
                if not values:
                    continue
                settled = self._settler.settled(number, values)
                for value, new in zip(values, settled, strict=True):
                    if new is not value and not torch.equal(value, new):
                        self._before.append((value, value.clone()))
                        value.copy_(new)

    def restore(self) -> None:
        """Restore the values from before `settle`, so that averaging continues with them."""
        for value, before in self._before:
            value.copy_(before)
        self._before = []

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
        self.settle()
        self._before = []

    def detach(self) -> None:
        """Restore all values and remove all hooks."""
        self.restore()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def state(self) -> dict[str, list[list[Tensor]]]:
        """The averages before they are settled; the `state_dict` holds settled ones only."""
        return {
            name: [[place.tensor for place in group] for group in groups]
            for name, groups in self.copies.items()
        }

    def load_state(self, state: Mapping[str, list[list[Tensor]]]) -> None:
        """Restore the averages of a state."""
        for name, groups in self.copies.items():
            for group, values in zip(groups, state.get(name, []), strict=False):
                for place, value in zip(group, values, strict=False):
                    place.tensor.copy_(value)

    def _settle_state_dicts(self, groups: Sequence[Group], check: bool = False) -> None:
        """Register hooks that settle every `state_dict` of the modules that hold these groups."""
        for number, group in enumerate(groups):
            shared = _SettledGroup(self._settler, number, group, check)
            for index, place in enumerate(group):
                hook = _SettledState(shared, index)
                self._hooks.append(place.owner.register_state_dict_post_hook(hook))

    def _is_equal(self, copy: nn.Module, original: nn.Module) -> bool:
        """Whether two modules hold the same weights, except where the original's are absent."""
        wiring = {p.tensor.data_ptr() for group in self._settler.places() for p in group}
        pairs = zip(copy.state_dict().values(), original.state_dict().values(), strict=True)
        for copied, value in pairs:
            same = copied.to(value.device) == value
            if value.data_ptr() in wiring:
                same |= value == 0
            if not same.all():
                return False
        return True

    def _counterparts(self, copy: nn.Module, path: str) -> list[Group]:
        """The wiring's groups in a copy of the submodule at `path`; empty if not all is in it."""
        groups: list[Group] = []
        for group in self._settler.places():
            places = []
            for place in group:
                owner = self._paths.get(id(place.owner), "")
                if path and owner != path and not owner.startswith(f"{path}."):
                    continue
                inside = owner[len(path) :].lstrip(".") if path else owner
                places.append(Place(copy.get_submodule(inside), place.key))
            groups.append(places if len(places) == len(group) else [])
        return groups


def learning_epochs(trainer: Trainer, callback: object) -> int | None:
    """The `max_epochs` of a trainer in `on_fit_start` of a callback; `None` if there is no limit.

    `StochasticWeightAveraging` adds an epoch in which only statistics of batch norms change. It is
    not counted, whichever of the two callbacks comes first.
    """
    epochs = trainer.max_epochs
    if epochs is None or epochs < 0:
        return None
    before = takewhile(lambda other: other is not callback, trainer.callbacks)
    return epochs - any(
        isinstance(other, StochasticWeightAveraging) and other._model_contains_batch_norm is True
        for other in before
    )


def copies_inside(trainer: Trainer, module: LightningModule) -> list[nn.Module]:
    """Submodules that no optimizer holds and that have the same weights as another submodule."""
    return [
        copy
        for name, copy, original, _ in _candidates(trainer, module)
        if name.startswith("module.")
        and all(map(_is_same, copy.state_dict().values(), original.state_dict().values()))
    ]


def _is_same(copied: Tensor, value: Tensor) -> bool:
    return torch.equal(copied.to(value.device), value)


def _candidates(
    trainer: Trainer, network: LightningModule
) -> Iterator[tuple[str, nn.Module, nn.Module, bool]]:
    """Modules that no optimizer holds and that may be copies of parts of the network.

    Yields:
        Name, module, the part of the network that it may copy, and whether that is certain.
    """
    learned = {
        id(parameter)
        for optimizer in trainer.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }

    def learns(module: nn.Module) -> bool:
        return any(id(parameter) in learned for parameter in module.parameters())

    learning = [module for module in network.modules() if learns(module)]
    pending: list[tuple[str, nn.Module, bool]] = [("module", network, False)]
    for callback in trainer.callbacks:
        for key, value in vars(callback).items():
            if isinstance(value, nn.Module) and value is not network:
                name = f"{type(callback).__name__}.{key}"
                pending.append((name, value, _averages(callback)))
    while pending:
        name, module, certain = pending.pop()
        if next(module.parameters(), None) is None:
            continue
        originals = [] if learns(module) else [m for m in learning if _is_alike(m, module)]
        if originals:
            yield name, module, originals[0], certain
        else:
            children = module.named_children()
            pending += [(f"{name}.{key}", child, certain) for key, child in children]


class _SettledGroup:
    """Settles a group once for each `state_dict`, however many modules write into it.

    With `check`, values that are no average and break a constraint are an error.
    """

    def __init__(self, settler: Settler, number: int, group: Group, check: bool) -> None:
        self.group = group
        self._settler, self._number, self._check = settler, number, check
        self._state: object = None  # the one that is being filled
        self._pending: dict[int, Tensor | None] = {}

    def value(self, state: Any, index: int) -> Tensor | None:
        """The settled value of one tensor; `None` if the tensor is valid as it is."""
        if self._state is not state or index not in self._pending:
            values = [place.tensor for place in self.group]
            settled = self._settler.settled(self._number, values)
            pairs = zip(settled, values, strict=True)
            changed = [None if new is old else new for new, old in pairs]
            if self._check and any(new is not None for new in changed):
                self._settler.check()
            self._state, self._pending = state, dict(enumerate(changed))
        value = self._pending.pop(index)
        if not self._pending:
            self._state = None
        return value


@dataclass(eq=False)
class _SettledState:
    """A hook that settles one tensor of a group in the `state_dict` of a module."""

    shared: _SettledGroup
    index: int

    def __call__(self, _owner: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        settled = self.shared.value(state, self.index)
        if settled is not None:
            state[f"{prefix}{self.shared.group[self.index].key}"] = settled.clone()

    def __reduce__(self) -> tuple[type["_NoHook"], tuple[()]]:
        return _NoHook, ()  # a copied or pickled network must not refer to this learner


class _NoHook:
    """The hook of a copied network, which does nothing."""

    def __call__(self, *_: Any) -> None:
        """Do nothing."""


def _averages(callback: Any) -> bool:
    return isinstance(callback, WeightAveraging | StochasticWeightAveraging)


def _copy_booleans(average: AveragedModel) -> None:
    """Make an average copy boolean tensors, such as a wiring, which torch would try to average."""
    average_lists = average.multi_avg_fn
    if average_lists is None:
        average_one = average.avg_fn or get_swa_avg_fn()
        average.avg_fn = lambda a, b, n: b if a.dtype == torch.bool else average_one(a, b, n)
        return

    def update(averages: Any, values: Any, count: Any) -> None:  # the lists are of one dtype
        if averages[0].dtype == torch.bool:
            torch._foreach_copy_(averages, values)
        else:
            average_lists(averages, values, count)

    average.multi_avg_fn = update


def _updates_norms(averaging: StochasticWeightAveraging, epoch: int) -> bool:
    """Whether this is the extra epoch that computes the average's batch norm statistics."""
    return averaging._model_contains_batch_norm is True and epoch == averaging.swa_end + 1


def _is_alike(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules have the same class, and tensors of the same names and shapes."""
    if type(first) is not type(second):
        return False
    one, two = first.state_dict(), second.state_dict()
    return list(one) == list(two) and all(one[name].shape == two[name].shape for name in one)
