"""Which weights of a network are sparse: by class, or by name of module or parameter."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NoReturn, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from wiring_lightning.nn import Adjacency, Gate, find_adjacencies
from wiring_lightning.optim import EdgeSet

# Layers whose weights are chosen if nobody says which; their subclasses, too.
_USUAL = ("Conv1d", "Conv2d", "Conv3d", "Linear", "Conv1D")  # the last one is that of transformers


@dataclass(frozen=True, eq=False)
class SparseWeight:
    """A parameter that connects inputs to outputs: it has at least two axes.

    Args:
        name: how users call it, such as `"body.1.weight"`, however it is computed.
        layer: the layer that it belongs to.
        owner: the module that holds the parameter; of a parametrized layer it is another one.
        key: name of the parameter in its owner.
    """

    name: str
    layer: nn.Module
    owner: nn.Module
    key: str

    @property
    def parameter(self) -> nn.Parameter:
        """What the optimizer updates."""
        return cast(nn.Parameter, getattr(self.owner, self.key))

    @property
    def layer_name(self) -> str:
        """The qualified name of its layer."""
        return self.name.rpartition(".")[0]

    @property
    def usable(self) -> Tensor | None:
        """A mask of the entries that can be an edge; `None`: all of them."""
        graph = self.graph
        return None if graph is None or graph.rank_all else graph.usable

    @property
    def graph(self) -> Adjacency | None:
        """The layer, if it is a graph and knows of its edges."""
        return self.layer if isinstance(self.layer, Adjacency) else None

    def matches(self, pattern: str) -> bool:
        """Whether a pattern is a class of its layer, or fits the name of the layer or parameter."""
        classes = {kind.__name__ for kind in type(self.layer).__mro__}
        return pattern in classes or any(
            fnmatchcase(name, pattern) for name in (self.layer_name, self.name)
        )


@dataclass(frozen=True, eq=False)
class SparseGroup:
    """Weights that share one number of edges.

    Args:
        name: of the group, or of its only layer or parameter.
        members: the weights.
        k: the number of edges.
    """

    name: str
    members: Sequence[SparseWeight]
    k: int

    @property
    def weights(self) -> list[Tensor]:
        """The parameters."""
        return [member.parameter for member in self.members]

    @property
    def usable(self) -> list[Tensor | None]:
        """For each parameter a mask of the entries that can be an edge; `None`: all of them."""
        return [member.usable for member in self.members]

    @property
    def graphs(self) -> list[Adjacency]:
        """Those of the layers that are a graph."""
        return [member.graph for member in self.members if member.graph is not None]

    def take_absent(self) -> list[Tensor | None]:
        """What the absent entries of graphs start from; each graph returns it once."""
        return [
            None if member.graph is None else member.graph.take_absent() for member in self.members
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


@dataclass(frozen=True)
class WeightChoice:
    """What a user says about the weights that are sparse.

    A pattern is the name of a class, which stands for its subclasses, too, such as `Conv2d`; or
    fits the name of a module, such as `backbone.layer4.*`, whose matrices it chooses; or that of a
    parameter, such as `encoder.lstm.weight_hh_l0`.

    Args:
        layers: patterns of what is sparse. If not given, the graphs of the network, or all of its
            convolutions and linear layers if it has no graph.
        exclude: patterns of what stays dense in any case.
        first_dense: whether the first of the chosen layers stays dense.
        groups: patterns by the name of a group; the weights of a group share a number of edges.
        fail: makes the error of a sentence.
    """

    layers: tuple[str, ...] | None
    exclude: tuple[str, ...]
    first_dense: bool
    groups: dict[str, list[str]]
    fail: Callable[[str], Exception]

    def find(self, module: nn.Module, copies: Sequence[nn.Module] = ()) -> "Chosen":
        """The chosen weights of a module, by the name of their group or their own.

        Args:
            module: the network.
            copies: parts of it that are copies of others, such as moving averages, left out.

        Raises:
            Exception: as made by `fail`, if a pattern matches nothing or a layer cannot be sparse.
        """
        matrices = list(_matrices(module, copies))
        chosen = self._matching(matrices, [*self._patterns(module), *self._grouped])
        left_out = self._matching(matrices, self.exclude)
        self._check_patterns(module, matrices)
        names = {weight.name for weight in left_out}
        sparse = [weight for weight in chosen if weight.name not in names]
        if self.first_dense and sparse:
            sparse = [weight for weight in sparse if weight.layer is not sparse[0].layer]
        frozen = [weight for weight in sparse if not weight.parameter.requires_grad]
        sparse = [weight for weight in sparse if weight.parameter.requires_grad]
        self._check_layers(sparse)
        if not sparse:
            self._refuse_nothing(module, frozen)
        found: dict[str, list[SparseWeight]] = {}
        count: dict[str, int] = {}
        for weight in sparse:
            count[weight.layer_name] = count.get(weight.layer_name, 0) + 1
        for weight in sparse:
            own = weight.layer_name if count[weight.layer_name] == 1 else weight.name
            found.setdefault(self._group_of(weight) or own, []).append(weight)
        here = {weight.name for weight in sparse}
        dense = [weight.layer_name for weight in matrices if weight.name not in here]
        return Chosen(found, list(dict.fromkeys(dense)), [weight.name for weight in frozen])

    @property
    def _grouped(self) -> list[str]:
        return [pattern for group in self.groups.values() for pattern in group]

    def _patterns(self, module: nn.Module) -> Sequence[str]:
        if self.layers is not None:
            return self.layers
        return ("Adjacency",) if find_adjacencies(module) else _USUAL

    def _group_of(self, weight: SparseWeight) -> str | None:
        for group, patterns in self.groups.items():
            if any(weight.matches(pattern) for pattern in patterns):
                return group
        return None

    @staticmethod
    def _matching(weights: Sequence[SparseWeight], patterns: Sequence[str]) -> list[SparseWeight]:
        return [weight for weight in weights if any(map(weight.matches, patterns))]

    def _check_patterns(self, module: nn.Module, matrices: Sequence[SparseWeight]) -> None:
        """A pattern that matches nothing is a mistake."""
        given = {"layers": self.layers or (), "exclude": self.exclude, "groups": self._grouped}
        for option, patterns in given.items():
            for pattern in patterns:
                if not any(weight.matches(pattern) for weight in matrices):
                    examples = ", ".join(weight.layer_name for weight in matrices[:3])
                    raise self.fail(
                        f"found no layer to make sparse in {type(module).__name__}: none with a "
                        f"matrix of weights is of a class or has a name that matches {pattern} (in "
                        f"`{option}`); there are {examples or 'none'}."
                    )

    def _check_layers(self, sparse: Sequence[SparseWeight]) -> None:
        """Layers that have no weights yet, or whose weights cannot be exchanged."""
        lazy = [w.name for w in sparse if isinstance(w.parameter, UninitializedParameter)]
        if lazy:
            raise self.fail(
                f"{listed(lazy)} have no values yet, because their layers are lazy: run a batch "
                "through the network before the fit."
            )
        scripted = [w.name for w in sparse if isinstance(w.owner, torch.jit.ScriptModule)]
        if scripted:
            raise self.fail(
                f"{listed(scripted)} belong to TorchScript modules, whose weights cannot be "
                "exchanged: use the modules that they were made from."
            )

    def _refuse_nothing(self, module: nn.Module, frozen: Sequence[SparseWeight]) -> NoReturn:
        reason = "it has no such layer"
        if frozen:
            reason = f"{listed([w.name for w in frozen])} do not learn (requires_grad is false)"
        elif self.first_dense:
            reason = "beside the first layer, which stays dense, there is none"
        raise self.fail(f"found no layer to make sparse in {type(module).__name__}: {reason}.")


@dataclass(frozen=True)
class Chosen:
    """What a choice has found.

    Args:
        groups: weights by the name of their group or their own.
        dense: names of the layers with a matrix that stay dense.
        frozen: names of weights that were chosen but do not learn, and stay as they are.
    """

    groups: dict[str, list[SparseWeight]]
    dense: list[str]
    frozen: list[str]


def _matrices(module: nn.Module, copies: Sequence[nn.Module]) -> Iterator[SparseWeight]:
    """Every parameter with at least two axes, once, however many modules share it."""
    seen = {id(parameter) for copy in copies for parameter in copy.parameters()}
    modules = dict(module.named_modules())
    for path, owner in modules.items():
        if isinstance(owner, Gate):
            continue
        for key, parameter in owner.named_parameters(recurse=False):
            lazy = isinstance(parameter, UninitializedParameter)
            matrix = lazy or parameter.dim() >= 2
            if id(parameter) in seen or not matrix or key.startswith("bias"):
                continue
            layer_path, known = _known_name(path, key)
            layer = modules[layer_path]
            if not lazy and not _is_whole(layer, known, parameter):
                continue
            seen.add(id(parameter))
            clean = ".".join(part for part in layer_path.split(".") if part != "_orig_mod")
            yield SparseWeight(f"{clean}.{known}" if clean else known, layer, owner, key)


def _known_name(path: str, key: str) -> tuple[str, str]:
    """The layer and the name by which users know a parameter, however it is parametrized."""
    before, parametrized, known = path.rpartition(".parametrizations.")
    if parametrized:
        return before, known
    if path.startswith("parametrizations."):
        return "", path.removeprefix("parametrizations.")
    for suffix in ("_v", "_g", "_orig"):  # of the older weight norm and spectral norm
        if key.endswith(f"weight{suffix}"):
            return path, key.removesuffix(suffix)
    return path, key


def _is_whole(layer: nn.Module, known: str, parameter: Tensor) -> bool:
    """Whether a parameter has an entry for every weight; the magnitudes of weight norm have not."""
    weight = getattr(layer, known, parameter)
    return isinstance(weight, Tensor) and weight.shape == parameter.shape


def listed(names: Sequence[str]) -> str:
    """Some names in words, not too many of them."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
