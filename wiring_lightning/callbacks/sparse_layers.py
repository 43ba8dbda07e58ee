"""What callbacks that keep some weights of some layers have in common: which weights, how many."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.callbacks._averages import Group, Place
from wiring_lightning.callbacks._weight_choice import (
    Chosen,
    SparseGroup,
    SparseWeight,
    WeightChoice,
    listed,
)
from wiring_lightning.callbacks.wiring_callback import WiringCallback
from wiring_lightning.nn import Adjacency
from wiring_lightning.optim import count_usable


class Rule(Protocol):
    """What keeps weights sparse behind an optimizer, such as `optim.StraightThrough`."""

    optimizer: Optimizer

    def settled(self, first: int, values: list[Tensor]) -> list[Tensor]:
        """Other values of some parameters, from number `first` on, as sparse as they must be."""
        ...

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


class SparseLayers(WiringCallback):
    """A callback that keeps some weights of some layers; a subclass says which weights and when.

    Args:
        density: share of the weights to keep, above 0 and up to 1, in every layer or group. Graphs
            keep their own number of edges if neither `density` nor `edges` is given.
        edges: number of weights to keep in every layer or group; instead of a density.
        layers: which weights are sparse: names of classes, which stand for their subclasses, too,
            such as `Conv2d`; or patterns for the qualified names of modules such as
            `backbone.layer4.*`, or of parameters such as `encoder.lstm.weight_*`. Biases and norms
            stay dense. If not given, the graphs of the network, or all of its convolutions and
            linear layers if it has no graph.
        first_dense: whether the first of these layers stays dense.
        groups: patterns as in `layers` by the name of a group; the layers of a group share one
            number of edges, so that it can move from one to another. Layers in no group have a
            number of their own.
        freeze_epoch: from the start of this epoch the edges stay, and only their weights learn.
        exclude: patterns as in `layers` of what stays dense in any case.
        log_density: whether to log the share of weights that are not zero after every epoch, as
            `learner/density`, and of each layer or group as `learner/density/<name>`.

    Raises:
        MisconfigurationException: if a number is out of range, a pattern matches nothing, a layer
            has no weights yet, no optimizer holds a layer's weight, or two callbacks want it.
        WiringError: as for `WiringCallback`.
    """

    def __init__(
        self,
        density: float | None = None,
        edges: int | None = None,
        layers: Sequence[str] | None = None,
        first_dense: bool = False,
        groups: dict[str, list[str]] | None = None,
        freeze_epoch: int | None = None,
        exclude: Sequence[str] = (),
        log_density: bool = False,
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
        self.exclude = tuple(exclude)
        self.log_density = log_density
        self._rules: list[Rule] = []
        self._behind: list[tuple[Rule, SparseGroup, int]] = []  # and its first parameter there
        self._dense: list[str] = []
        self._restored: dict[str, Any] | None = None

    @property
    @override
    def state_key(self) -> str:
        """Callbacks of one class that learn different layers have states of their own."""
        if self.layers is None and not self.groups and not self.exclude:
            return super().state_key
        return self._generate_state_key(
            layers=self.layers, groups=self.groups, exclude=self.exclude
        )

    @abstractmethod
    def make_rule(self, optimizer: Optimizer, groups: Sequence[SparseGroup]) -> Rule:
        """Start to keep the weights of groups sparse behind the optimizer that holds them."""

    @property
    def due(self) -> bool:
        """Whether the groups must have their number of edges by now."""
        return True

    @override
    def set_lr(self, lr: float) -> None:
        raise self.mistake(
            "edges learn with the learning rate of their weights; remove `gate_lr` from the phases."
        )

    def find_layers(self, module: nn.Module) -> dict[str, list[SparseWeight]]:
        """The sparse weights of a module, by the name of their group or their own.

        Raises:
            MisconfigurationException: if none is found, or a pattern matches nothing.
        """
        return self._choose(module).groups

    def find_groups(self, trainer: Trainer, module: nn.Module) -> list[SparseGroup]:
        """The groups of a module with their numbers of edges, the same on all ranks.

        Raises:
            MisconfigurationException: if there is none, or one has fewer weights than edges.
        """
        chosen = self._choose(module)
        self._dense = chosen.dense
        if chosen.frozen:
            rank_zero_warn(
                f"{type(self).__name__}: {listed(chosen.frozen)} stay as they are, because they do "
                "not learn (requires_grad is false)."
            )
        groups = [
            SparseGroup(name, members, self._number_of_edges(name, members))
            for name, members in chosen.groups.items()
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
        held = [group.name for _, own in owners for group in own]
        if len(held) != len(groups):
            missing = [group.name for group in groups if held.count(group.name) != 1]
            raise self.mistake(
                f"the weights of {listed(missing)} are in no optimizer, or in two; exclude them, "
                "or give all weights of a layer or group to one optimizer."
            )
        self._rules, self._behind = [], []
        for optimizer, own in owners:
            if own:
                rule, first = self.make_rule(optimizer, own), 0
                self._rules.append(rule)
                for group in own:
                    self._behind.append((rule, group, first))
                    first += len(group.members)

    def rules_of(self, optimizer: Optimizer, kind: type[SomeRule]) -> list[SomeRule]:
        """The rules of a kind behind an optimizer."""
        return [
            rule for rule in self._rules if isinstance(rule, kind) and rule.optimizer is optimizer
        ]

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._rules, self._behind = [], []  # of an earlier fit

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        groups = self.find_groups(trainer, pl_module)
        self._check_restored(groups)
        self.make_rules(trainer, groups)
        if self._restored is not None:
            for rule, state in zip(self._rules, self._restored["rules"], strict=True):
                rule.load_state_dict(state)
            self._restored = None
        super().on_fit_start(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.log_density:
            counts = {group.name: _count(group) for _, group, _ in self._behind}
            kept, weights = (sum(column) for column in zip(*counts.values(), strict=True))
            shares = {f"/{name}": one / of for name, (one, of) in counts.items()}
            named = {"": kept / weights, **shares}
            pl_module.log_dict({f"learner/density{name}": share for name, share in named.items()})

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_end(trainer, pl_module)
        empty = [
            member.name
            for _, group, _ in self._behind
            for member in group.members
            if not member.parameter.any()
        ]
        if empty:
            rank_zero_warn(
                f"{type(self).__name__}: {listed(empty)} have no weight left, because the other "
                "layers of their group took all edges; nothing passes through them."
            )

    @override
    def broken(self) -> str | None:
        wrong = []
        for _, group, _ in self._behind if self.due else []:
            kept, weights = _count(group)
            if kept > group.k:
                wrong.append(f"{group.name} has {kept:,} of {weights:,} weights, not {group.k:,}")
        return listed(wrong) if wrong else None

    @override
    def places(self) -> list[Group]:
        return [
            [Place(member.owner, member.key) for member in group.members]
            for _, group, _ in self._behind
        ]

    @override
    def settled(self, group: int, values: list[Tensor]) -> list[Tensor]:
        rule, _, first = self._behind[group]
        return rule.settled(first, values) if self.due else values

    @override
    def summary(self) -> str:
        groups = [group for _, group, _ in self._behind]
        layers = {member.layer_name for group in groups for member in group.members}
        weights = sum(count_usable(group.weights, group.usable) for group in groups)
        kept = sum(group.k for group in groups)
        dense = f"; dense: {listed(self._dense)}" if self._dense else ""
        return f"{len(layers)} layers, {weights:,} -> {kept:,} weights{dense}"

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._rules:
            numbers = {group.name: group.k for _, group, _ in self._behind}
            return {"rules": [rule.state_dict() for rule in self._rules], "edges": numbers}
        return self._restored or {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Called before the optimizers exist; `on_fit_start` takes it up.
        self._restored = state_dict if "rules" in state_dict else None

    @override
    def let_go(self) -> None:
        for rule in self._rules:
            rule.detach()  # and stays, for a checkpoint that is saved after the fit
        self._restored = None

    @property
    def _graphs(self) -> list[Adjacency]:
        """The sparse layers that are graphs."""
        return [graph for _, group, _ in self._behind for graph in group.graphs]

    def _choose(self, module: nn.Module) -> Chosen:
        return WeightChoice(
            self.layers, self.exclude, self.first_dense, self.groups, self.mistake
        ).find(module)

    def _check_restored(self, groups: Sequence[SparseGroup]) -> None:
        """A run continues with the numbers of edges that it had."""
        saved = (self._restored or {}).get("edges")
        wanted = {group.name: group.k for group in groups}
        if saved is not None and saved != wanted:
            names = [name for name in {**saved, **wanted} if saved.get(name) != wanted.get(name)]
            raise self.mistake(
                f"the checkpoint was saved with {saved.get(names[0], 0):,} edges in {names[0]}, "
                f"but {wanted.get(names[0], 0):,} are asked for now; resume with the same choice "
                "of layers and edges."
            )

    def _number_of_edges(self, name: str, members: Sequence[SparseWeight]) -> int:
        group = SparseGroup(name, members, k=0)
        count = count_usable(group.weights, group.usable)
        if self.edges is not None:
            k = self.edges
        elif self.density is not None:
            k = max(1, round(self.density * count))
        elif len(group.graphs) == len(members):
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


def _count(group: SparseGroup) -> tuple[int, int]:
    """How many weights of a group are not zero, and how many there are."""
    kept = sum(int(weight.count_nonzero()) for weight in group.weights)
    return kept, sum(weight.numel() for weight in group.weights)


def _holds(optimizer: Optimizer, group: SparseGroup) -> bool:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return all(id(weight) in held for weight in group.weights)
