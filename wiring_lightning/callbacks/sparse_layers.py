"""What callbacks that keep some weights of some layers have in common: which layers, how many."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol, TypeVar, cast

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.callbacks.wiring_callback import WiringCallback
from wiring_lightning.nn import Adjacency, find_adjacencies
from wiring_lightning.optim import EdgeSet, count_usable


class Rule(Protocol):
    """What keeps weights sparse behind an optimizer, such as `optim.StraightThrough`."""

    optimizer: Optimizer

    def detach(self) -> None:
        """Leave the optimizer."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        ...


SomeRule = TypeVar("SomeRule", bound=Rule)


@dataclass(frozen=True, eq=False)
class SparseGroup:
    """Layers that share one number of edges.

    Args:
        name: of the group, or of its only layer.
        layers: modules with a `weight`.
        k: the number of edges.
    """

    name: str
    layers: Sequence[nn.Module]
    k: int

    @property
    def weights(self) -> list[Tensor]:
        """The parameters."""
        return [cast(Tensor, layer.weight) for layer in self.layers]

    @property
    def usable(self) -> list[Tensor | None]:
        """For each parameter a mask of the entries that can be an edge; `None`: all of them."""
        return [
            layer.usable if isinstance(layer, Adjacency) and not layer.rank_all else None
            for layer in self.layers
        ]

    @property
    def graphs(self) -> list[Adjacency]:
        """Those of the layers that are a graph and know of their edges."""
        return [layer for layer in self.layers if isinstance(layer, Adjacency)]

    def take_absent(self) -> list[Tensor | None]:
        """What the absent entries of graphs start from; each graph hands it over once."""
        return [
            layer.take_absent() if isinstance(layer, Adjacency) else None for layer in self.layers
        ]

    @torch.no_grad()
    def fill_in(self) -> None:
        """Make the graphs complete: every edge that can be there is there."""
        for weight, absent in zip(self.weights, self.take_absent(), strict=True):
            if absent is not None:
                weight.add_(absent)

    def edge_set(self) -> EdgeSet:
        """What `optim` calls such a group."""
        return EdgeSet(self.weights, self.k, self.usable, self.take_absent())


class SparseLayers(WiringCallback):
    """A callback that keeps some weights of some layers; a subclass says which weights and when.

    Args:
        density: share of the weights to keep, above 0 and up to 1, in every layer or group. Graphs
            keep their own number of edges if neither `density` nor `edges` is given.
        edges: number of weights to keep in every layer or group; instead of a density.
        layers: which layers are sparse: names of classes such as `Conv2d`, or patterns for the
            qualified names of modules such as `backbone.layer4.*`. If not given, the graphs of the
            network, or all of its `Conv2d` and `Linear` layers if it has no graph.
        first_dense: whether the first of these layers stays dense.
        groups: patterns as in `layers` by the name of a group; the layers of a group share one
            number of edges, so that it can move from one to another. Layers in no group have a
            number of their own.
        freeze_epoch: from the start of this epoch the edges stay, and only their weights learn.

    Raises:
        MisconfigurationException: if a number is out of range, no layer matches, or no optimizer
            holds a layer's weight.
    """

    def __init__(
        self,
        density: float | None = None,
        edges: int | None = None,
        layers: Sequence[str] | None = None,
        first_dense: bool = False,
        groups: dict[str, list[str]] | None = None,
        freeze_epoch: int | None = None,
    ) -> None:
        super().__init__(freeze_epoch)
        if density is not None and edges is not None:
            raise self.mistake("give a density or a number of edges, not both.")
        if density is not None and not 0 < density <= 1:
            raise self.mistake(f"density must be above 0 and at most 1, got {density}.")
        if edges is not None and edges < 1:
            raise self.mistake(f"edges must be at least 1, got {edges}.")
        self.density = density
        self.edges = edges
        self.layers = None if layers is None else tuple(layers)
        self.first_dense = first_dense
        self.groups = dict(groups or {})
        self._rules: list[Rule] = []
        self._graphs: list[Adjacency] = []
        self._restored: list[dict[str, Any]] | None = None

    @abstractmethod
    def make_rule(self, optimizer: Optimizer, groups: Sequence[SparseGroup]) -> Rule:
        """Start to keep the weights of groups sparse behind the optimizer that holds them."""

    @override
    def set_lr(self, lr: float) -> None:
        raise self.mistake(
            "edges learn with the learning rate of their weights; remove `gate_lr` from the phases."
        )

    def mistake(self, text: str) -> MisconfigurationException:
        """An error about how this callback is used."""
        return MisconfigurationException(f"{type(self).__name__}: {text}")

    def find_layers(self, module: nn.Module) -> dict[str, list[nn.Module]]:
        """The sparse layers of a module, by the name of their group or their own.

        Raises:
            MisconfigurationException: if none is found.
        """
        found: dict[str, list[nn.Module]] = {}
        patterns = self._patterns(module)
        sparse = [
            (name, layer)
            for name, layer in module.named_modules()
            if _has_matrix(layer) and any(_matches(name, layer, pattern) for pattern in patterns)
        ]
        for name, layer in sparse[self.first_dense :]:
            group = next(
                (
                    group
                    for group, patterns in self.groups.items()
                    if any(_matches(name, layer, pattern) for pattern in patterns)
                ),
                name,
            )
            found.setdefault(group, []).append(layer)
        if not found:
            raise MisconfigurationException(
                f"{type(self).__name__} found no layer to make sparse in {type(module).__name__}: "
                f"none is of a class or has a name that matches {', '.join(patterns)}"
                f"{', beside the first, which stays dense' if self.first_dense else ''}."
            )
        return found

    def find_groups(self, trainer: Trainer, module: nn.Module) -> list[SparseGroup]:
        """The groups of a module with their numbers of edges, the same on all ranks.

        Raises:
            MisconfigurationException: if there is none, or one has fewer weights than edges.
        """
        found = self.find_layers(module)
        groups = [
            SparseGroup(name, layers, self._number_of_edges(name, layers))
            for name, layers in found.items()
        ]
        for group in groups:
            for graph in group.graphs:
                if graph.absent is not None:
                    # DDP copies parameters and buffers from rank 0, but not these.
                    graph.absent = trainer.strategy.broadcast(graph.absent)
        return groups

    def make_rules(self, trainer: Trainer, groups: Sequence[SparseGroup]) -> None:
        """Make a rule for every optimizer that holds weights of groups.

        Raises:
            MisconfigurationException: if a group is not in exactly one optimizer.
        """
        owners = [
            (optimizer, [group for group in groups if _holds(optimizer, group)])
            for optimizer in trainer.optimizers
        ]
        if sum(len(own) for _, own in owners) != len(groups):
            raise self.mistake(
                "the weights of a sparse layer or group are in no optimizer, or in two; leave the "
                "layer out of `layers`, or give all its weights to one optimizer."
            )
        self._graphs = [graph for group in groups for graph in group.graphs]
        self._rules = [self.make_rule(optimizer, own) for optimizer, own in owners if own]

    def rules_of(self, optimizer: Optimizer, kind: type[SomeRule]) -> list[SomeRule]:
        """The rules of a kind behind an optimizer."""
        return [
            rule for rule in self._rules if isinstance(rule, kind) and rule.optimizer is optimizer
        ]

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.make_rules(trainer, self.find_groups(trainer, pl_module))
        if self._restored is not None:
            for rule, state in zip(self._rules, self._restored, strict=True):
                rule.load_state_dict(state)
            self._restored = None

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._rules:
            return {"rules": [rule.state_dict() for rule in self._rules]}
        return {} if self._restored is None else {"rules": self._restored}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Called before the optimizers exist; `on_fit_start` takes it up.
        self._restored = state_dict.get("rules")

    @override
    def let_go(self) -> None:
        for rule in self._rules:
            rule.detach()  # and stays, for a checkpoint that is saved after the fit
        self._restored = None

    def _patterns(self, module: nn.Module) -> list[str]:
        """What chooses the sparse layers."""
        if self.layers is not None:
            chosen = self.layers
        elif find_adjacencies(module):
            chosen = ("Adjacency",)
        else:
            chosen = ("Conv2d", "Linear")
        return [*chosen, *(pattern for group in self.groups.values() for pattern in group)]

    def _number_of_edges(self, name: str, layers: Sequence[nn.Module]) -> int:
        group = SparseGroup(name, layers, k=0)
        count = count_usable(group.weights, group.usable)
        if self.edges is not None:
            k = self.edges
        elif self.density is not None:
            k = max(1, round(self.density * count))
        elif len(group.graphs) == len(layers):
            k = sum(graph.edges for graph in group.graphs)
        else:
            raise self.mistake(
                f"{name} does not say how many edges it has; give either a density or a number of "
                "edges."
            )
        if k > count:
            raise self.mistake(
                f"{k} edges were asked for in {name}, but it has only {count} weights."
            )
        return k


def _has_matrix(layer: nn.Module) -> bool:
    """Whether a layer's weight connects inputs to outputs; the scale of a norm does not."""
    weight = getattr(layer, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() >= 2


def _matches(name: str, layer: nn.Module, pattern: str) -> bool:
    """Whether a pattern is the name of a layer's class, or fits its qualified name."""
    return pattern == type(layer).__name__ or fnmatchcase(name, pattern)


def _holds(optimizer: Optimizer, group: SparseGroup) -> bool:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return all(id(weight) in held for weight in group.weights)
