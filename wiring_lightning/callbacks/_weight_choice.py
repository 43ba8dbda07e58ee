"""Choose the sparse weights of a network by class, or by the name of a module or parameter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NoReturn

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from wiring_lightning._checks import listed
from wiring_lightning.callbacks._copies import Group, Place
from wiring_lightning.nn import Adjacency, find_adjacencies
from wiring_lightning.nn.weights import SparseWeight as SparseWeight, find_weights, own_names
from wiring_lightning.optim import EdgeSet, count_present, parameters_of

# The default choice, with subclasses. `Conv1D` is the linear layer of some transformers.
_DEFAULT_LAYERS = (
    "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
    "Linear", "Conv1D",
)  # fmt: skip

# Weights, their number, which can be there, initial values of absent ones, and the least number.
EdgeFields = tuple[list[Tensor], int, list[Tensor | None], list[Tensor | None], int]


@dataclass(frozen=True, eq=False)
class SparseGroup:
    """Weights that share one number of edges.

    Args:
        name: name of the group, or of its only layer or parameter.
        members: the weights.
        k: the number of edges.
        least: how many of them every member has at least.
    """

    name: str
    members: Sequence[SparseWeight]
    k: int
    least: int = 0

    @property
    def weights(self) -> list[Tensor]:
        """The parameters."""
        return [member.parameter for member in self.members]

    @property
    def places(self) -> Group:
        """Where the parameters are."""
        return [Place(member.owner, member.key) for member in self.members]

    @property
    def usable(self) -> list[Tensor | None]:
        """For each parameter a mask of the entries that can be an edge, or `None` for all."""
        return [member.usable for member in self.members]

    @property
    def graphs(self) -> list[Adjacency]:
        """The layers that are graphs."""
        return [member.graph for member in self.members if member.graph is not None]

    def take_absent(self) -> list[Tensor | None]:
        """For each graph the initial weights of its absent entries, once; otherwise `None`."""
        return [
            None if member.graph is None else member.graph.take_absent() for member in self.members
        ]

    @torch.no_grad()
    def fill_in(self) -> None:
        """Make the graphs complete: every possible edge gets its initial weight."""
        for weight, absent in zip(self.weights, self.take_absent(), strict=True):
            if absent is not None:
                weight.add_(absent)

    @property
    def emptied(self) -> list[str]:
        """Names of the weights of which the others of the group have left nothing."""
        return [
            member.name
            for member in self.members
            if len(self.members) > 1 and not member.parameter.any()
        ]

    def count(self) -> tuple[int, int]:
        """The number of weights that are not zero, and of all weights."""
        return count_present(self.weights), sum(weight.numel() for weight in self.weights)

    def is_held_by(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer has all of the weights."""
        held = {id(parameter) for parameter in parameters_of(optimizer)}
        return all(id(weight) in held for weight in self.weights)

    def edge_set(self) -> EdgeSet:
        """The group as an `optim.EdgeSet`."""
        return EdgeSet(*self.edge_fields())

    def edge_fields(self) -> EdgeFields:
        """The first arguments of `optim.EdgeSet` and of its subclasses, with `take_absent`."""
        return self.weights, self.k, self.usable, self.take_absent(), self.least


def graphs_of(groups: Sequence[SparseGroup]) -> list[Adjacency]:
    """The layers of some groups that are graphs."""
    return [graph for group in groups for graph in group.graphs]


@dataclass(frozen=True)
class WeightChoice:
    """The user's choice of sparse weights.

    A pattern is one of three things: the name of a class, such as `Conv2d`, which includes its
    subclasses; a pattern for the names of modules, such as `backbone.layer4.*`; or a pattern for
    the names of parameters, such as `encoder.lstm.weight_hh_l0`. Of subclasses only the weight that
    the named class defines is meant. A weight that several layers share is chosen, or excluded, if
    a pattern matches one of them.

    Args:
        layers: patterns of sparse layers. If not given, the graphs of the network, or all of its
            convolutions and linear layers if it has no graph.
        exclude: patterns of layers that stay dense in any case.
        first_dense: whether the first of the chosen layers stays dense.
        groups: patterns by the name of a group; the weights of a group share a number of edges.
        fail: makes an exception from a message.
        last_dense: whether the last of the chosen layers stays dense.
        vectors: patterns of parameters of one axis, such as biases, that are sparse, too.
        together: whether all that is chosen shares one number of edges, as the group `all`.

    Raises:
        Exception: of `fail`, if there are groups, although all is one.
    """

    layers: tuple[str, ...] | None
    exclude: tuple[str, ...]
    first_dense: bool
    groups: dict[str, list[str]]
    fail: Callable[[str], Exception]
    last_dense: bool = False
    vectors: tuple[str, ...] = ()
    together: bool = False

    def __post_init__(self) -> None:
        if self.together and self.groups:
            raise self.fail("distribution=global is one group of all layers; remove `groups`.")

    def find(self, module: nn.Module, copies: Sequence[nn.Module] = ()) -> "Chosen":
        """The chosen weights of a module, without those of submodules that copy others.

        Raises:
            Exception: of `fail`, if a pattern matches nothing, a weight cannot be sparse, or none
                is left.
        """
        # A weight that modules share is in this list once for each of them.
        everything = list(find_weights(module, copies, tied=True))
        matrices = [weight for weight in everything if not weight.is_vector]
        vectors = [weight for weight in everything if weight.is_vector]
        self._check_patterns(module, matrices, vectors)
        chosen = self._select(module, matrices, vectors)
        sparse = [weight for weight in chosen if weight.parameter.requires_grad]
        frozen = [weight.name for weight in chosen if weight not in sparse]
        self._check_layers(sparse)
        if not sparse:
            self._raise_none_left(module, matrices, frozen)
        groups: dict[str, list[SparseWeight]] = {}
        for weight, own_name in zip(sparse, own_names(sparse), strict=True):
            name = "all" if self.together else self._group_of(weight, everything)
            groups.setdefault(own_name if name is None else name, []).append(weight)
        dense = dict.fromkeys(w.layer_name for w in _once(_without(sparse, matrices)))
        return Chosen(groups, list(dense), frozen)

    def _select(
        self,
        module: nn.Module,
        matrices: Sequence[SparseWeight],
        vectors: Sequence[SparseWeight],
    ) -> list[SparseWeight]:
        """The weights that the patterns choose, each once; those of one axis come last."""
        layers = self.layers
        if layers is None:
            layers = ("Adjacency",) if find_adjacencies(module) else _DEFAULT_LAYERS
        wanted = [*layers, *chain(*self.groups.values())]
        kept_dense = [w for w in (*matrices, *vectors) if w.matches(*self.exclude)]
        chosen = _without(kept_dense, [w for w in matrices if w.matches(*wanted)])
        ends = chosen[:1] * self.first_dense + chosen[-1:] * self.last_dense
        layers_at_ends = [w for w in matrices if any(w.layer is end.layer for end in ends)]
        chosen = _without(layers_at_ends, chosen)
        chosen += _without(kept_dense, [w for w in vectors if w.matches(*self.vectors)])
        return _once(chosen)

    def _group_of(self, weight: SparseWeight, everything: Sequence[SparseWeight]) -> str | None:
        """The first group whose patterns match a weight, in any of the layers that share it."""
        if not self.groups:
            return None
        same = [other for other in everything if other.parameter is weight.parameter]
        fitting = (name for name, own in self.groups.items() if any(w.matches(*own) for w in same))
        return next(fitting, None)

    def _check_patterns(
        self,
        module: nn.Module,
        matrices: Sequence[SparseWeight],
        vectors: Sequence[SparseWeight],
    ) -> None:
        """Raise an error if a pattern matches nothing."""
        grouped = list(chain(*self.groups.values()))
        either = [*matrices, *(w for w in vectors if w.matches(*self.vectors))]
        given = {
            "layers": (self.layers or (), matrices),
            "exclude": (self.exclude, either),
            "groups": (grouped, matrices),
        }
        for option, (patterns, weights) in given.items():
            for pattern in patterns:
                if not any(weight.matches(pattern) for weight in weights):
                    examples = ", ".join(weight.layer_name for weight in matrices[:3])
                    raise self.fail(
                        f"found no layer to make sparse in {type(module).__name__}: no layer with "
                        f"a weight matrix has a class or name that matches {pattern} (in "
                        f"`{option}`); there are {examples or 'none'}."
                    )
        for pattern in self.vectors:
            if not any(weight.matches(pattern) for weight in vectors):
                examples = ", ".join(weight.name for weight in vectors[:3])
                raise self.fail(
                    f"no parameter of one axis in {type(module).__name__} has a name, or a layer "
                    f"of a class or name, that matches {pattern} (in `vectors`); there are "
                    f"{examples or 'none'}."
                )

    def _check_layers(self, sparse: Sequence[SparseWeight]) -> None:
        """Raise an error for layers without weights, or whose weights cannot be replaced."""
        lazy = [w.name for w in sparse if isinstance(w.parameter, UninitializedParameter)]
        if lazy:
            raise self.fail(
                f"{listed(lazy)} have no values yet, because their layers are lazy: run a batch "
                "through the network before the fit."
            )
        self._refuse_scripted(sparse)

    def _refuse_scripted(self, weights: Sequence[SparseWeight]) -> None:
        """Raise an error for weights that TorchScript holds."""
        scripted = [w.name for w in weights if isinstance(w.owner, torch.jit.ScriptModule)]
        if scripted:
            raise self.fail(
                f"{listed(scripted)} belong to TorchScript modules, whose weights cannot be "
                "exchanged: use the modules that they were made from."
            )

    def _raise_none_left(
        self, module: nn.Module, matrices: Sequence[SparseWeight], frozen: Sequence[str]
    ) -> NoReturn:
        """Raise the error for a choice of which nothing is left, with the reason."""
        if not frozen:
            self._refuse_scripted(matrices)  # their classes have other names, so no default fits
        reason = "it has no such layer"
        if frozen:
            reason = f"{listed(frozen)} do not learn (requires_grad is false)"
        elif self.first_dense or self.last_dense:
            end = "first" if self.first_dense else "last"
            end = "first and the last" if self.first_dense and self.last_dense else end
            reason = f"beside the {end} layer, which stays dense, there is none"
        raise self.fail(f"found no layer to make sparse in {type(module).__name__}: {reason}.")


@dataclass(frozen=True)
class Chosen:
    """The result of a choice.

    Args:
        groups: weights by the name of their group or their own.
        dense: names of the other layers with a weight matrix.
        frozen: names of weights that were chosen, but stay as they are because they do not learn.
    """

    groups: dict[str, list[SparseWeight]]
    dense: list[str]
    frozen: list[str]

    def say_frozen(self, learner: str) -> None:
        """Warn of the weights that do not learn, and of those that no layer has sparse."""
        if self.frozen:
            rank_zero_warn(
                f"{learner}: {listed(self.frozen)} stay as they are, because they do not learn "
                "(requires_grad is false)."
            )
        members = chain.from_iterable(self.groups.values())
        if filled := [member.name for member in members if member.fills_zeros]:
            rank_zero_warn(
                f"{learner}: {listed(filled)} will be sparse as parameters, but their "
                "parametrization computes dense weights of them, which save nothing: exclude the "
                "layers, or remove the parametrization before the fit."
            )


def _without(
    left_out: Sequence[SparseWeight], weights: Sequence[SparseWeight]
) -> list[SparseWeight]:
    """The weights whose parameter is none of some others."""
    parameters = {id(weight.parameter) for weight in left_out}
    return [weight for weight in weights if id(weight.parameter) not in parameters]


def _once(weights: Sequence[SparseWeight]) -> list[SparseWeight]:
    """The first weight of every parameter."""
    return list({id(weight.parameter): weight for weight in reversed(weights)}.values())[::-1]


def as_patterns(given: Sequence[str]) -> tuple[str, ...]:
    """Patterns as a tuple; one string is one pattern, not one for each of its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def say_emptied(learner: str, groups: Sequence[SparseGroup]) -> None:
    """Warn of the weights of which the others of their group have left nothing."""
    if empty := [name for group in groups for name in group.emptied]:
        rank_zero_warn(
            f"{learner}: {listed(empty)} have no weight left, because the other layers of their "
            "group took all edges; nothing passes through them."
        )


def zero_norms(groups: Sequence[SparseGroup]) -> str | None:
    """Which weights are divided by a norm of zero, in words; `None` if there are none."""
    members = chain.from_iterable(group.members for group in groups)
    lost = [member.name for member in members if member.divides_by_zero]
    if not lost:
        return None
    return (
        f"{listed(lost)} have a row without weights, whose norm, by which weight norm or spectral "
        "norm divides, is zero: keep more weights, exclude the layer, or remove its norm before "
        "the fit."
    )
