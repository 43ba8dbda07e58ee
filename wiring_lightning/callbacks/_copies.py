"""Copies of the network that learns, and which of them are averages."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from wiring_lightning._checks import listed
from wiring_lightning.optim import parameters_of

# The least cosine between the way that a copy went and the way to the network, for an average. It
# is 1 if nothing moved the network since, about 0 for a network that learns by itself, and 0.5 for
# one that is loaded into another.
_STRAIGHT = 0.9


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

    @property
    def is_parameter(self) -> bool:
        """Whether it is a parameter."""
        return isinstance(getattr(self.owner, self.key), nn.Parameter)


Group = Sequence[Place]


def holders(network: nn.Module) -> dict[int, list[Place]]:
    """Where each parameter is in a network, by its `id`: a tied one is in several places."""
    found: dict[int, list[Place]] = {}
    for module in network.modules():
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            found.setdefault(id(parameter), []).append(Place(module, key))
    return found


class CopiedGroup:
    """A group of the wiring in a copy of the network.

    A copy that does not change, such as a teacher, is no average. Neither is one that was
    overwritten with the present values of the network, such as a snapshot of the best epoch. What
    had other values than the network from the start may be any network of its kind: it is an
    average only if it moves straight towards the network. What an optimizer holds by now, such as a
    layer that was unfrozen, learns by itself: it is no copy any more.

    Args:
        places: the group in the copy.
        original: the group in the network.
        is_valid: whether values have a wiring of their own.
        learns: whether an optimizer holds a part of the copy by now.
        say: called whenever an average needs a wiring.
        is_average: whether it is certain that this is an average.
        differs: whether the copy has other values than the network.
    """

    def __init__(
        self,
        places: Group,
        original: Group,
        is_valid: Callable[[list[Tensor]], bool],
        learns: Callable[[], bool],
        say: Callable[[], None],
        is_average: bool,
        differs: bool,
    ) -> None:
        self.places = places
        self.is_average = is_average
        self._differs = differs
        self._original, self._is_valid, self._say = original, is_valid, say
        self._learns = learns
        self._seen: list[Tensor] = []
        self._versions: list[int] = []
        if places and not is_average:
            self._keep()

    @property
    def was_written(self) -> bool:
        """Whether something wrote to a copy that may still be no average."""
        return not self.is_average and self._versions != versions(self.places)

    def look(self) -> None:
        """Find out whether this is an average by now."""
        if self.is_average or not self.places:
            return
        if _hold(self.places, self._seen):
            self._versions = versions(self.places)
        elif _hold(self.places, [place.tensor for place in self._original]):
            self._differs = False
            self._keep()
        elif self._differs and not self._moved_straight():
            self._keep()
        elif self._learns():
            self.forget()
        else:
            self.is_average, self._seen = True, []

    def forget(self) -> None:
        """Be no copy any more; hooks that still know this group leave its values as they are."""
        self.places, self.is_average, self._seen, self._versions = [], False, [], []

    def needs_wiring(self) -> bool:
        """Whether this is an average that has no wiring of its own."""
        self.look()
        values = [place.tensor for place in self.places]
        if not values or not self.is_average or self._is_valid(values):
            return False
        self._say()
        return True

    def _moved_straight(self) -> bool:
        """Whether the values have moved straight towards those of the network."""
        moved, wanted = [], []
        for place, own, seen in zip(self.places, self._original, self._seen, strict=True):
            if seen.is_floating_point():
                moved.append((place.tensor - seen).flatten().float())
                wanted.append((own.tensor.to(seen.device) - seen).flatten().float())
        return bool(cosine_similarity(torch.cat(moved), torch.cat(wanted), dim=0) > _STRAIGHT)

    def _keep(self) -> None:
        """Remember the present values."""
        self._seen = [place.tensor.clone() for place in self.places]
        self._versions = versions(self.places)


def versions(places: Group) -> list[int]:
    """A number for each tensor, which grows when it is written to."""
    tensors = [place.tensor for place in places]
    return [-1 if tensor.is_inference() else tensor._version for tensor in tensors]


def _hold(places: Group, values: Sequence[Tensor]) -> bool:
    """Whether tensors have these values."""
    return all(same(place.tensor, value) for place, value in zip(places, values, strict=True))


def same(copied: Tensor, value: Tensor, where_there: bool = False) -> bool:
    """Whether tensors hold the same values, on whichever devices.

    Args:
        copied: a tensor.
        value: another one of its shape.
        where_there: whether it does not matter what is zero in one of them.
    """
    copied = copied.to(value.device)
    equal = copied == value
    if where_there:
        equal |= (copied == 0) | (value == 0)
    return bool(equal.all())


def copies_inside(
    trainer: Trainer, module: LightningModule, known: Collection[str], learner: str
) -> list[nn.Module]:
    """Submodules that no optimizer holds and that copy another submodule, in a fit that starts.

    Equal values, up to what a learner has removed by now, are those of a copy. So is what a
    checkpoint names. An average that began before this fit has other values. It cannot be told from
    a teacher yet, so a warning names both. Another one names equal layers and blocks: they may be
    frozen parts of a network whose layers all start with the same weights.

    Args:
        trainer: the trainer of the fit.
        module: the module that it trains.
        known: names of copies in the checkpoint of a resumed run.
        learner: name of the callback that asks.
    """
    found, unequal, parts = [], [], []
    for one in candidates(trainer, module, who_learns(trainer)):
        if not one.name.startswith("module."):
            continue
        pairs = zip(tensors_of(one.module).values(), tensors_of(one.original).values(), strict=True)
        if one.name in known:
            found.append(one.module)
        elif all(same(*pair, where_there=True) for pair in pairs):
            found.append(one.module)
            parts += [] if one.whole else [one.name.removeprefix("module.")]
        elif one.whole:
            found.append(one.module)
            unequal.append(one.name.removeprefix("module."))
    if unequal:
        rank_zero_warn(
            f"{learner}: the weights of {listed(unequal)} stay as they are, because no optimizer "
            "holds them; only an average of the network gets the wiring."
        )
    if parts:
        rank_zero_warn(
            f"{learner}: {listed(parts[::-1])} start with the weights of others that learn, and no "
            "optimizer holds them. They are left out, also if they learn later; only an average of "
            "the network gets the wiring."
        )
    return found


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module's `state_dict`, which are not settled here."""
    found: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    for path, child in module.named_modules(remove_duplicate=False):
        buffers = child.named_buffers(path, recurse=False)
        lost = child._non_persistent_buffers_set
        found |= {name: value for name, value in buffers if name.rpartition(".")[2] not in lost}
    return found


def writes_average(callback: Any) -> bool:
    """Whether a callback of Lightning writes an average into the network."""
    return isinstance(callback, WeightAveraging | StochasticWeightAveraging)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A module that no optimizer holds and that may be a copy of a part of the network.

    Args:
        name: `module` and its path in the LightningModule, or the callback and its attribute.
        module: the module.
        original: the part of the network that it may copy.
        certain: whether it is certain that this is an average.
        whole: whether it may be a copy whatever its values: a network of its own, and not a layer
            or a block in a network that learns.
    """

    name: str
    module: nn.Module
    original: nn.Module
    certain: bool
    whole: bool


class _Pending(NamedTuple):
    """A module in which `candidates` has yet to look for copies.

    Args:
        name: as of a `Candidate`.
        module: the module.
        certain: as of a `Candidate`.
        apart: whether it is no part of a network that learns, beside the LightningModule itself.
        single: whether it may be a whole network even if it is a single layer.
    """

    name: str
    module: nn.Module
    certain: bool = False
    apart: bool = True
    single: bool = False


def who_learns(trainer: Trainer, learned: Sequence[Tensor] = ()) -> Callable[[nn.Module], bool]:
    """Tells of a module whether an optimizer holds one of its parameters now.

    Args:
        trainer: the trainer of the fit.
        learned: parameters that a callback has taken out of the optimizers, to learn them itself.
    """
    held = {
        id(parameter) for optimizer in trainer.optimizers for parameter in parameters_of(optimizer)
    } | set(map(id, learned))
    return lambda module: any(id(parameter) in held for parameter in module.parameters())


def candidates(
    trainer: Trainer, network: LightningModule, learns: Callable[[nn.Module], bool]
) -> Iterator[Candidate]:
    """Modules that no optimizer holds and that may be copies of parts of the network.

    Args:
        trainer: the trainer of the fit.
        network: the module that it trains.
        learns: as `who_learns` tells it.
    """
    originals: dict[Any, list[nn.Module]] = {}
    for module in filter(learns, network.modules()):
        originals.setdefault(_likeness(module), []).append(module)
    pending = [_Pending("module", network)]
    for callback in trainer.callbacks:
        for key, value in vars(callback).items():
            if isinstance(value, nn.Module) and value is not network:
                name = f"{type(callback).__name__}.{key}"
                pending.append(_Pending(name, value, certain=writes_average(callback)))
    while pending:
        name, module, certain, apart, single = pending.pop()
        if next(module.parameters(), None) is None:
            continue
        learning = learns(module)
        like = [] if learning else originals.get(_likeness(module), [])
        if like:
            whole = apart and len(like) == 1 and (single or _has_layers(module))
            yield Candidate(name, module, like[0], certain, whole)
        else:
            apart &= not learning or module is network
            single = isinstance(module, AveragedModel)
            pending += [
                _Pending(f"{name}.{key}", child, certain, apart, single)
                for key, child in module.named_children()
            ]


def _has_layers(module: nn.Module) -> bool:
    """Whether more than one of the modules in a module has parameters of its own."""
    return sum(any(True for _ in m.parameters(recurse=False)) for m in module.modules()) > 1


def _likeness(module: nn.Module) -> Any:
    """What a module has in common with its copies: the class, and names and shapes of tensors.

    Parameters whose shape is not known yet are like no others.
    """
    tensors = tensors_of(module).items()
    return type(module), *((n, id(t) if is_lazy(t) else t.shape) for n, t in tensors)
