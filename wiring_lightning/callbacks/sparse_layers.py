"""The base class of callbacks that make the weights of layers sparse."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning._checks import counted, listed
from wiring_lightning.callbacks._before_step import BeforeStep
from wiring_lightning.callbacks._best_checkpoints import warn_of_denser
from wiring_lightning.callbacks._checked_wiring import WiringError
from wiring_lightning.callbacks._copies import Group
from wiring_lightning.callbacks._denser_graphs import DenserGraphs
from wiring_lightning.callbacks._kept_arguments import came_from, plain_values, refuse_changed
from wiring_lightning.callbacks._layer_arguments import LayerArguments
from wiring_lightning.callbacks._layer_report import LayerReport, by_name, edges_of
from wiring_lightning.callbacks._saved_order import in_saved_order, names_by_rule, states_by_rule
from wiring_lightning.callbacks._weight_choice import (
    Chosen,
    SparseGroup,
    SparseWeight,
    as_patterns,
    graphs_of,
    say_emptied,
    zero_norms,
)
from wiring_lightning.callbacks.own_parameters import held_by_first_rank
from wiring_lightning.costs import LayerCost
from wiring_lightning.functional.densities import Distribution
from wiring_lightning.optim import MaskedWeights, StraightThrough, count_present, count_usable

# What keeps the weights of an optimizer sparse.
SomeRule = TypeVar("SomeRule", bound=StraightThrough | MaskedWeights)


class SparseLayers(DenserGraphs, LayerArguments, Generic[SomeRule]):
    """A callback that makes layers sparse; a subclass decides which weights stay, and when.

    At the start and at the end of a fit it prints a table of the layers: `layer_costs`.

    Args:
        density: share of the weights to keep in every layer or group, above 0 and up to 1; or
            shares by pattern, as in `layers`, of which the first that matches a layer counts.
            Layers that no pattern matches then stay dense, unless `layers` names them. Graphs
            keep their own number of edges if neither `density` nor `edges` is given.
        edges: number of weights to keep in every layer or group, instead of a density.
        layers: the sparse weights, as names of classes such as `Conv2d` (subclasses included), or
            patterns for the qualified names of modules such as `backbone.layer4.*`, or of
            parameters such as `encoder.lstm.weight_*`. Biases and norms stay dense. By default the
            graphs of the network, or all convolutions and linear layers if it has no graph. One
            string is one name or pattern.
        first_dense: whether the first of these layers stays dense.
        groups: patterns as in `layers` by the name of a group. The layers of a group share one
            number of edges, so edges can move between them. Layers in no group have their own.
        freeze_epoch: from the start of this epoch the edges stay, and only their weights learn.
        exclude: patterns as in `layers` of weights that stay dense in any case.
        log_density: whether to log, after every epoch, the share of the weights that are there as
            `learner/density`, the share of them that were not there at the last logging (or at the
            start of the fit) as `learner/changed`, and the numbers of outputs that read nothing and
            of inputs that nobody reads as `learner/dead_rows` and `learner/dead_columns`, of all
            learners that log; and each of them by layer or group: `learner/density/<name>`.
        distribution: how the density is shared out among layers. `uniform`: each has it. `erk` and
            `erdos_renyi`: small layers are denser, with or without regard to the size of kernels,
            and all together have the density (`functional.erdos_renyi_densities`). `global`: all
            layers share one number of edges, as one group.
        last_dense: whether the last of these layers stays dense.
        min_edges: how many weights every layer keeps at least, inside of a group, too.
        vectors: patterns of parameters of one axis that are sparse, too, by the name of the
            parameter or the class or name of its layer, such as `*.bias` or `BatchNorm2d`.

    Raises:
        MisconfigurationException: if a number is out of range, a pattern matches nothing, a layer
            has no weights yet, or its weight is in no optimizer or in two callbacks.
        WiringError: as for `WiringCallback`.
    """

    learns_gates = False
    has_rate = False
    masks_gradients = False  # whether absent weights get no gradient before the freeze, too

    def __init__(
        self,
        density: float | dict[str, float] | None = None,
        edges: int | None = None,
        layers: Sequence[str] | None = None,
        first_dense: bool = False,
        groups: dict[str, list[str]] | None = None,
        freeze_epoch: int | None = None,
        exclude: Sequence[str] = (),
        log_density: bool = False,
        distribution: Distribution = "uniform",
        last_dense: bool = False,
        min_edges: int = 0,
        vectors: Sequence[str] = (),
    ) -> None:
        super().__init__(freeze_epoch)
        self.density, self.edges = density, edges
        self.layers = None if layers is None else as_patterns(layers)
        self.first_dense = first_dense
        self.groups = {name: list(as_patterns(own)) for name, own in (groups or {}).items()}
        self.exclude = as_patterns(exclude)
        self.log_density = log_density
        self.distribution = distribution
        self.last_dense, self.min_edges = last_dense, min_edges
        self.vectors = as_patterns(vectors)
        self.edge_counts()  # an error if they are out of range
        self.weight_choice()
        self._rules: list[SomeRule] = []
        self._before_steps: list[BeforeStep] = []  # of the same optimizers
        # Every group with its rule, and the index of its first parameter in that rule.
        self._ruled_groups: list[tuple[SomeRule, SparseGroup, int]] = []
        self._dense: list[str] = []  # names of the layers with a weight matrix that stay dense
        self._restored: dict[str, Any] | None = None
        self._report = LayerReport(type(self).__name__)

    @abstractmethod
    def make_rule(self, optimizer: Optimizer, groups: Sequence[SparseGroup]) -> SomeRule:
        """Make the rule that keeps groups sparse, for the optimizer that holds their weights."""

    @property
    def due(self) -> bool:
        """Whether the groups must already have their final number of edges."""
        return True

    @property
    def kept_arguments(self) -> dict[str, Any]:
        """What must be the same in a run that resumes, beside layers and numbers of edges."""
        shares = bool(self.groups) or self.distribution == "global"
        return {"min_edges": self.min_edges} if shares else {}

    @property
    @override
    def frozen(self) -> bool:
        return any(rule.frozen for rule in self._rules)

    @override
    def freeze(self) -> None:
        for rule in self._rules:
            rule.freeze()
        for graph in graphs_of(self._groups):
            graph.freeze()

    @override
    def set_lr(self, lr: float) -> None:
        raise self.mistake(
            "edges learn with the learning rate of their weights; remove `gate_lr` from the phases."
        )

    def find_layers(self, module: nn.Module) -> dict[str, list[SparseWeight]]:
        """The sparse weights of a module, by the name of their group or their own."""
        return self._choose(module).groups

    def find_groups(self, trainer: Trainer, module: nn.Module) -> list[SparseGroup]:
        """The groups of a module with their numbers of edges, the same on all ranks."""
        copies = [] if trainer is None else self.find_copies(trainer, trainer.lightning_module)
        chosen = self._choose(module, copies)
        self._dense = chosen.dense
        chosen.say_frozen(type(self).__name__)
        groups = self.edge_counts().group(chosen.groups)
        for graph in graphs_of(groups):
            # DDP copies only parameters and buffers from rank 0.
            own = graph.weight if graph.absent is None else graph.absent
            graph.absent = held_by_first_rank(graph.absent, trainer, own.device)
        return groups

    def present_edges(self) -> dict[nn.Parameter, Tensor]:
        """For every sparse parameter a mask of its edges; empty before a fit."""
        return edges_of(self._ruled_groups)

    def layer_costs(
        self, trainer: Trainer, module: LightningModule, saved: bool = False
    ) -> list[LayerCost]:
        """What each layer of a network keeps, the dense ones included; see `costs.layer_costs`.

        Args:
            trainer: the trainer of the fit.
            module: the module that it trains.
            saved: whether weights that are zero count as absent, as in a checkpoint. Otherwise an
                edge that starts at zero counts.
        """
        edges: dict[nn.Parameter, Tensor] = {}
        for learner in find_sparse_learners(trainer):
            edges |= learner.present_edges()
        if saved:
            edges = {parameter: parameter != 0 for parameter in edges}
        return self._report.rows(module, self.copied, edges)

    def make_rules(self, trainer: Trainer, groups: Sequence[SparseGroup]) -> None:
        """Make a rule for every optimizer that holds the weights of a group."""
        owners = [
            (optimizer, [group for group in groups if group.is_held_by(optimizer)])
            for optimizer in trainer.optimizers
        ]
        held = [group.name for _, own in owners for group in own]
        if len(held) != len(groups):
            missing = [group.name for group in groups if held.count(group.name) != 1]
            raise self.mistake(
                f"the weights of {listed(missing)} are in no optimizer, or in two; exclude them, "
                "or give all weights of a layer or group to one optimizer."
            )
        self._detach()
        self._rules, self._ruled_groups = [], []
        for optimizer, own in owners:
            if own:
                # Its hooks come first: the rule may exchange the weights during a step.
                change = partial(self.before_step, trainer, optimizer)
                self._before_steps.append(BeforeStep(optimizer, change))
                rule, first = self.make_rule(optimizer, own), 0
                self._rules.append(rule)
                for group in own:
                    self._ruled_groups.append((rule, group, first))
                    first += len(group.members)

    def before_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Change the gradients of an optimizer, before they are clipped, for its next step."""
        for rule in self._rules:
            if rule.optimizer is optimizer and (self.masks_gradients or rule.frozen):
                rule.mask_gradients()

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        for before_step in self._before_steps:
            if before_step.optimizer is optimizer:
                before_step()

    @override
    def forget(self) -> None:
        super().forget()
        self._rules, self._ruled_groups = [], []
        self._report = LayerReport(type(self).__name__)

    @override
    def know_again(self) -> None:
        for rule in self._rules:
            rule.know_again()

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check_start(trainer, pl_module)
        groups = self.find_groups(trainer, pl_module)
        if self._restored is not None:
            given, before = self.kept_arguments, came_from(self._continues)
            refuse_changed(self._restored.get("kept", {}), given, self.mistake, before)
            self.edge_counts().check_saved(self._restored.get("edges"), groups, before)
            groups = in_saved_order(groups, self._restored.get("weights"), before)
        self.keep([group.places for group in groups], graphs_of(groups))
        self.make_rules(trainer, groups)
        self._restore()
        self._check_norms()
        super().on_fit_start(trainer, pl_module)
        if self.log_density:
            self._report.memory.start(by_name(self._groups, self.present_edges()))
        self._show_layers(trainer, pl_module, "at the start")

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._report.keep_example(batch)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_norms()
        if self.log_density:
            reports = [one._report for one in find_sparse_learners(trainer) if one.log_density]
            pl_module.log_dict(self._report.numbers(self._groups, self.present_edges(), reports))

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_end(trainer, pl_module)
        self._show_layers(trainer, pl_module, "at the end", saved=True)
        if self.due:  # otherwise no checkpoint is as sparse as asked for, which was said
            warn_of_denser(type(self).__name__, self._groups, trainer, pl_module)
        say_emptied(type(self).__name__, self._groups)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._parts is None and self._versions_at_end not in ([], (), self._versions()):
            rank_zero_warn(
                f"{type(self).__name__}: something has changed the weights since the fit, such as "
                "a test with `ckpt_path`, so no run should resume from this checkpoint."
            )

    @override
    def check(self) -> None:
        self._check_norms()
        super().check()

    @override
    def broken(self) -> str | None:
        counts = [(group, *group.count()) for group in self._groups if self.due]
        wrong = [
            f"{group.name} has {kept:,} of {weights:,} weights, not {group.k:,}"
            for group, kept, weights in counts
            if kept > group.k
        ]
        return listed(wrong) if wrong else None

    @override
    def places(self) -> list[Group]:
        return [group.places for group in self._groups]

    @override
    def settled(self, group: int, values: list[Tensor]) -> list[Tensor]:
        rule, _, first = self._ruled_groups[group]
        return rule.settled(first, values) if self.due else values

    @override
    def valid(self, group: int, values: list[Tensor]) -> bool:
        return not self.due or count_present(values) <= self._groups[group].k

    @override
    def summary(self) -> str:
        layers = {member.layer_name for group in self._groups for member in group.members}
        weights = sum(count_usable(group.weights, group.usable) for group in self._groups)
        kept = sum(group.k for group in self._groups)
        dense = f"; dense: {listed(self._dense)}" if self._dense else ""
        return f"{counted(len(layers), 'layer')}, {weights:,} -> {kept:,} weights{dense}"

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._rules:
            numbers = plain_values({group.name: group.k for group in self._groups})
            weights = {group.name: [one.name for one in group.members] for group in self._groups}
            seen = {"seen": self._report.memory.state_dict()} if self.log_density else {}
            rules = [rule.state_dict() for rule in self._rules]
            held, kept = names_by_rule(self._ruled_groups), plain_values(self.kept_arguments)
            state = {"rules": rules, "held": held, "edges": numbers, "weights": weights}
            return {**state, "kept": kept, **seen}
        return self._restored or {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict if "rules" in state_dict else None
        self._report.memory.load_state_dict(state_dict.get("seen", {}))
        # Otherwise the optimizers do not exist yet, so `on_fit_start` restores the rules.
        if self._before_steps:
            self._restore()

    @override
    def let_go(self) -> None:
        self._detach()  # `_rules` stay, for a checkpoint that is saved after the fit
        self._restored = None

    def _restore(self) -> None:
        """Give the rules the state that was loaded, if there is one."""
        if self._restored is not None:
            held = names_by_rule(self._ruled_groups)
            for rule, state in zip(self._rules, states_by_rule(self._restored, held), strict=True):
                rule.load_state_dict(state)
            self._restored = None

    def _detach(self) -> None:
        """Remove the hooks of the rules from their optimizers."""
        for watched in (*self._rules, *self._before_steps):
            watched.detach()
        self._before_steps = []

    @property
    def _groups(self) -> list[SparseGroup]:
        return [group for _, group, _ in self._ruled_groups]

    def _check_norms(self) -> None:
        if lost := zero_norms(self._groups):
            raise WiringError(f"{type(self).__name__}: {lost}")

    def _show_layers(
        self, trainer: Trainer, module: LightningModule, when: str, saved: bool = False
    ) -> None:
        """Print the table of the layers, once for all learners."""
        if self is find_sparse_learners(trainer)[-1]:
            self._report.count(trainer, module)
            self._report.show(self.layer_costs(trainer, module, saved), when)

    def _choose(self, module: nn.Module, copies: Sequence[nn.Module] = ()) -> Chosen:
        return self.weight_choice().find(module, copies)


def find_sparse_learners(trainer: Trainer) -> list[SparseLayers[Any]]:
    """The callbacks of a trainer that make layers sparse."""
    return [one for one in list[Any](trainer.callbacks) if isinstance(one, SparseLayers)]
