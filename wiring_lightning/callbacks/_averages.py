"""Averages of a network's weights, which would mix the wirings of many steps into one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, eq=False)
class Place:
    """A parameter or buffer that holds a part of a wiring.

    Args:
        owner: the module that holds it.
        key: its name there.
    """

    owner: nn.Module
    key: str

    @property
    def tensor(self) -> Tensor:
        """What lies there, without its history."""
        value: Tensor = getattr(self.owner, self.key)
        return value.detach()


Group = Sequence[Place]


class Settler(Protocol):
    """What knows how a wiring has to be, whatever was averaged."""

    def places(self) -> list[Group]:
        """Where the wiring lies in the network that learns; what belongs together is a group."""
        ...

    def settled(self, group: int, values: list[Tensor]) -> list[Tensor]:
        """What has to lie in the places of a group, instead of these values."""
        ...


class Averages:
    """Lets averages of the weights have the wiring that their network must have.

    Found are the averages of Lightning's own callbacks, and other copies of the network that some
    callback or the LightningModule keeps, such as timm's `ModelEmaV3`: modules of the same kind
    that no optimizer holds, and that start with the same weights. What is validated and saved of
    them is settled; the average itself goes on undisturbed, and is settled when the fit ends.

    Args:
        settler: what knows the wiring.
        trainer: the trainer of the fit.
        module: what it trains.
    """

    def __init__(self, settler: Settler, trainer: Trainer, module: LightningModule) -> None:
        self._settler = settler
        self._trainer = trainer
        self._module = module
        self._paths = {id(child): name for name, child in module.named_modules()}
        # Lightning's callbacks write their average over the weights of the network itself.
        self.expected = any(map(_averages, trainer.callbacks))
        self.copies: dict[str, list[Group]] = {}
        self._before: list[tuple[Tensor, Tensor]] = []
        self._hooks: list[RemovableHandle] = []
        self._hook(settler.places())

    def find(self, known: Sequence[str] = ()) -> None:
        """Look for copies; those whose names are known need not have the same weights any more."""
        for name, copy, live, sure in self._candidates():
            if name in self.copies:
                continue
            if sure or name in known or self._is_equal(copy, live):
                places = self._counterparts(copy, self._paths[id(live)])
                self.copies[name] = places
                self._hook(places)

    def settle(self) -> None:
        """Write what has to be, in the network and its copies, until `restore`."""
        networks = [self._settler.places()] if self.expected else []
        for groups in (*networks, *self.copies.values()):
            for number, group in enumerate(groups):
                values = [place.tensor for place in group]
                if not values:
                    continue
                for value, wanted in zip(
                    values, self._settler.settled(number, values), strict=True
                ):
                    if wanted is not value and not torch.equal(value, wanted):
                        self._before.append((value, value.clone()))
                        value.copy_(wanted)

    def restore(self) -> None:
        """Take back what `settle` wrote: an average goes on as if nobody had looked."""
        for value, before in self._before:
            value.copy_(before)
        self._before = []

    def finish(self) -> None:
        """Settle for good: the fit is over."""
        self.restore()
        for callback in self._trainer.callbacks:
            if isinstance(callback, StochasticWeightAveraging) and _has_updated_norms(
                callback, self._trainer.current_epoch
            ):
                # Its last epoch, for the statistics of batch norm, ends with an optimizer step.
                assert callback._average_model is not None
                callback.transfer_weights(callback._average_model, self._module)
        self.settle()
        self._before = []

    def let_go(self) -> None:
        """Leave all networks alone."""
        self.restore()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def state(self) -> dict[str, list[list[Tensor]]]:
        """The averages as they are: a checkpoint holds the settled ones only."""
        return {
            name: [[place.tensor for place in group] for group in groups]
            for name, groups in self.copies.items()
        }

    def load_state(self, state: Mapping[str, list[list[Tensor]]]) -> None:
        """Go on with the averages of a state."""
        for name, groups in self.copies.items():
            for group, values in zip(groups, state.get(name, []), strict=False):
                for place, value in zip(group, values, strict=False):
                    place.tensor.copy_(value)

    def _hook(self, groups: Sequence[Group]) -> None:
        """Let what is saved be settled."""
        for number, group in enumerate(groups):
            for index, place in enumerate(group):
                hook = _SettledState(self._settler, number, group, index)
                self._hooks.append(place.owner.register_state_dict_post_hook(hook))

    def _candidates(self) -> Iterator[tuple[str, nn.Module, nn.Module, bool]]:
        """Modules that no optimizer holds: name, module, of what it may be a copy, if surely."""
        learned = {
            id(parameter)
            for optimizer in self._trainer.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

        def learns(module: nn.Module) -> bool:
            return any(id(parameter) in learned for parameter in module.parameters())

        live = [module for module in self._module.modules() if learns(module)]
        waiting: list[tuple[str, nn.Module, bool]] = [("module", self._module, False)]
        for callback in self._trainer.callbacks:
            for key, value in vars(callback).items():
                if isinstance(value, nn.Module) and value is not self._module:
                    name = f"{type(callback).__name__}.{key}"
                    waiting.append((name, value, _averages(callback)))
        while waiting:
            name, module, sure = waiting.pop()
            if next(module.parameters(), None) is None:
                continue
            twins = [] if learns(module) else [m for m in live if _is_alike(m, module)]
            if twins:
                yield name, module, twins[0], sure
            else:
                children = module.named_children()
                waiting += [(f"{name}.{key}", child, sure) for key, child in children]

    def _is_equal(self, copy: nn.Module, live: nn.Module) -> bool:
        """Whether a module holds the weights of another, but for those that are absent there."""
        own = {p.tensor.data_ptr() for group in self._settler.places() for p in group}
        pairs = zip(copy.state_dict().values(), live.state_dict().values(), strict=True)
        for theirs, ours in pairs:
            same = theirs.to(ours.device) == ours
            if ours.data_ptr() in own:
                same |= ours == 0
            if not same.all():
                return False
        return True

    def _counterparts(self, copy: nn.Module, path: str) -> list[Group]:
        """The places of the wiring in a copy of the part of the network at a path."""
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


class _SettledState:
    """Writes what has to be into the `state_dict` of a module."""

    def __init__(self, settler: Settler, number: int, group: Group, index: int) -> None:
        self._settler = settler
        self._number = number
        self._group = group
        self._index = index

    def __call__(self, _owner: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        name = f"{prefix}{self._group[self._index].key}"
        values = [place.tensor for place in self._group]
        wanted = self._settler.settled(self._number, values)[self._index]
        if wanted is not values[self._index]:
            state[name] = wanted.clone()

    def __deepcopy__(self, _memo: dict[int, Any]) -> "_Nothing":
        return _Nothing()  # a copy of the network is a network of its own

    def __reduce__(self) -> tuple[type["_Nothing"], tuple[()]]:
        return _Nothing, ()


class _Nothing:
    """The hook that a copied network gets."""

    def __call__(self, *_: Any) -> None:
        """Change nothing."""


def _averages(callback: Any) -> bool:
    return isinstance(callback, WeightAveraging | StochasticWeightAveraging)


def _has_updated_norms(averaging: StochasticWeightAveraging, epochs: int) -> bool:
    """Whether the epoch is over in which the norms of the average were updated."""
    return averaging._model_contains_batch_norm is True and epochs - 1 == averaging.swa_end + 1


def _is_alike(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules are of one kind, with tensors of the same names and shapes."""
    if type(first) is not type(second):
        return False
    one, two = first.state_dict(), second.state_dict()
    return list(one) == list(two) and all(one[name].shape == two[name].shape for name in one)
