"""Copies of the network that learns, and which of them are averages."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


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


class CopiedGroup:
    """A group of the wiring in a copy of the network.

    A copy that does not change, such as a teacher, is no average. Neither is one that was
    overwritten with the present values of the network, such as a snapshot of the best epoch.

    Args:
        places: the group in the copy.
        original: the group in the network.
        is_valid: whether values have a wiring of their own.
        say: called whenever an average needs a wiring.
        mixed: whether it is certain that this is an average.
    """

    def __init__(
        self,
        places: Group,
        original: Group,
        is_valid: Callable[[list[Tensor]], bool],
        say: Callable[[], None],
        mixed: bool,
    ) -> None:
        self.places = places
        self.mixed = mixed
        self._original, self._is_valid, self._say = original, is_valid, say
        self._seen: list[Tensor] = []
        self._versions: list[int] = []
        if places and not mixed:
            self._keep()

    @property
    def was_written(self) -> bool:
        """Whether something wrote to a copy that may still be no average."""
        return not self.mixed and self._versions != versions(self.places)

    def look(self) -> None:
        """Find out whether this is an average by now."""
        if self.mixed or not self.places:
            return
        if _hold(self.places, self._seen):
            self._versions = versions(self.places)
        elif _hold(self.places, [place.tensor for place in self._original]):
            self._keep()
        else:
            self.mixed, self._seen = True, []

    def needs_wiring(self) -> bool:
        """Whether this is an average that has no wiring of its own."""
        self.look()
        values = [place.tensor for place in self.places]
        if not values or not self.mixed or self._is_valid(values):
            return False
        self._say()
        return True

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


def copies_inside(trainer: Trainer, module: LightningModule) -> list[nn.Module]:
    """Submodules that no optimizer holds and that have the same weights as another submodule."""
    return [
        copy
        for name, copy, original, _ in candidates(trainer, module)
        if name.startswith("module.")
        and all(map(same, tensors_of(copy).values(), tensors_of(original).values()))
    ]


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


def candidates(
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

    originals: dict[Any, nn.Module] = {}
    for module in filter(learns, network.modules()):
        originals.setdefault(_likeness(module), module)
    pending: list[tuple[str, nn.Module, bool]] = [("module", network, False)]
    for callback in trainer.callbacks:
        for key, value in vars(callback).items():
            if isinstance(value, nn.Module) and value is not network:
                name = f"{type(callback).__name__}.{key}"
                pending.append((name, value, writes_average(callback)))
    while pending:
        name, module, certain = pending.pop()
        if next(module.parameters(), None) is None:
            continue
        original = None if learns(module) else originals.get(_likeness(module))
        if original is not None:
            yield name, module, original, certain
        else:
            children = module.named_children()
            pending += [(f"{name}.{key}", child, certain) for key, child in children]


def _likeness(module: nn.Module) -> Any:
    """What a module has in common with its copies: the class, and names and shapes of tensors.

    Parameters whose shape is not known yet are like no others.
    """
    tensors = tensors_of(module).items()
    return type(module), *((n, id(t) if is_lazy(t) else t.shape) for n, t in tensors)
