"""The weights of a network that can be sparse, and how each of them connects channels."""

from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from wiring_lightning.nn.adjacency import Adjacency
from wiring_lightning.nn.gate import Gate

# Layers whose inputs are the first axis of their weight. `Conv1D` is that of some transformers.
INPUTS_FIRST = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Conv1D")


@dataclass(frozen=True, eq=False)
class SparseWeight:
    """A parameter that can be sparse: with two axes or more, or of one axis if asked for.

    Args:
        name: its name without parametrizations, such as `"body.1.weight"`.
        layer: the layer that it belongs to.
        owner: the module that holds the parameter; not the layer if that is parametrized.
        key: name of the parameter in `owner`.
    """

    name: str
    layer: nn.Module
    owner: nn.Module
    key: str

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that the optimizer updates."""
        return cast(nn.Parameter, getattr(self.owner, self.key))

    @property
    def layer_name(self) -> str:
        """The qualified name of its layer."""
        return self.name.rpartition(".")[0]

    @property
    def is_vector(self) -> bool:
        """Whether the parameter has one axis, as biases and the scales of norms have."""
        return not isinstance(self.parameter, UninitializedParameter) and self.parameter.dim() == 1

    @property
    def usable(self) -> Tensor | None:
        """A mask of the entries that can be an edge, or `None` for all.

        A graph has one, and so has a parameter that `torch.nn.utils.prune` has pruned.
        """
        graph = self.graph
        if graph is not None:
            return None if graph.rank_all else graph.usable
        pruned = self.key.removesuffix("_orig") + "_mask"
        mask = getattr(self.owner, pruned, None) if self.key.endswith("_orig") else None
        return mask != 0 if isinstance(mask, Tensor) else None

    @property
    def graph(self) -> Adjacency | None:
        """The layer, if it is a graph."""
        return self.layer if isinstance(self.layer, Adjacency) else None

    @property
    def divides_by_zero(self) -> bool:
        """Whether its layer divides a part of it by a norm, and that part has no weight.

        Weight norm does so with every row, spectral norm with the whole weight.
        """
        own = self.name.rpartition(".")[2]
        if self.key == own:
            return False
        other = "original0" if self.key == "original1" else f"{own}_g"
        shape = getattr(self.owner, other, self.parameter.new_empty(())).shape
        if not (self.parameter.detach() != 0).sum_to_size(shape).eq(0).any():
            return False
        # The older weight norm computes the weight in the next forward pass only.
        return self.key.endswith("_v") or bool(getattr(self.layer, own).isnan().any())

    @property
    def fills_zeros(self) -> bool:
        """Whether its layer computes a weight that is not zero where the parameter is.

        The parametrization `orthogonal` does, and those that add something. Weight norm and
        spectral norm keep zeros.
        """
        if not isinstance(self.owner, parametrize.ParametrizationList):
            return False
        trial = self.parameter.detach().clone(memory_format=torch.contiguous_format)
        trial.view(-1)[::2] = 0
        try:
            computed = self._computed_of(trial)
        except Exception:  # of any kind: it is not ours, and may refuse the trial
            return False
        return bool((computed[trial == 0].abs() > 0).any())  # NaN, as of a norm of zero, is neither

    @property
    def present(self) -> Tensor:
        """A mask of the entries that are there: the parameter is not zero.

        If zeros of the parameter are filled, it is what the layer computes that is not zero.
        """
        parameter = self.parameter.detach()
        return (self._computed_of(parameter) if self.fills_zeros else parameter) != 0

    @torch.no_grad()
    def _computed_of(self, values: Tensor) -> Tensor:
        """The weight that parametrizations compute of other values, in evaluation mode."""
        trial = deepcopy(self.owner).eval()
        getattr(trial, self.key).data = values
        computed: Tensor = trial()
        return computed

    def matches(self, *patterns: str) -> bool:
        """Whether a pattern is a class of the layer, or matches the layer's or parameter's name.

        A base class means the weight that it defines, and not what a subclass adds, as adapters of
        low rank do. The layer's own class means all of its matrices.
        """
        kinds = type(self.layer).__mro__ if self._is_inherited else (type(self.layer),)
        classes = {kind.__name__ for kind in kinds}
        names = (self.layer_name, self.name)
        return any(
            pattern in classes or any(fnmatchcase(name, pattern) for name in names)
            for pattern in patterns
        )

    @property
    def _is_inherited(self) -> bool:
        """Whether a base class of the layer may have defined the parameter."""
        named_weight = self.name.rpartition(".")[2] == "weight"
        return named_weight or self.is_vector or not hasattr(self.layer, "weight")

    @property
    def inputs_first(self) -> bool:
        """Whether the inputs are the first axis, and not the second."""
        return any(kind.__name__ in INPUTS_FIRST for kind in type(self.layer).__mro__)

    @property
    def groups(self) -> int:
        """How many parts of its layer connect only their own inputs with their own outputs."""
        groups = getattr(self.layer, "groups", 1)
        # Otherwise it is a layer of its own kind.
        return groups if isinstance(groups, int) and len(self.parameter) % groups == 0 else 1

    def channels(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        """`[outputs]` and `[inputs]` masks of the channels that have some of these entries."""
        parts = edges.flatten(2).any(2) if edges.dim() > 2 else edges
        # [groups, channels of the first axis, channels of the second axis]
        parts = parts.view(self.groups, -1, parts.shape[1])
        first, second = parts.any(2).flatten(), parts.any(1).flatten()
        return (second, first) if self.inputs_first else (first, second)


def own_names(weights: Sequence[SparseWeight]) -> list[str]:
    """For each weight the name of its layer, or its own if others of them have the same layer.

    Example:
        >>> own_names([weight for weight in find_weights(nn.LSTM(3, 2)) if not weight.is_vector])
        ['weight_ih_l0', 'weight_hh_l0']
    """
    in_layer = Counter(weight.layer_name for weight in weights)
    return [w.layer_name if in_layer[w.layer_name] == 1 else w.name for w in weights]


def find_dead(weight: SparseWeight, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Which outputs of a layer read nothing, and which inputs nobody reads.

    Args:
        weight: with two axes or more.
        edges: a mask of the entries that are there, of the weight's shape.

    Returns:
        `[outputs]` and `[inputs]`, on the device of the mask. Of a graph, channels that could not
        have an edge do not count.

    Example:
        >>> import torch
        >>> layer = nn.Conv2d(4, 6, 1, groups=2)
        >>> edges = torch.ones(6, 2, 1, 1, dtype=torch.bool)
        >>> edges[0], edges[3:, 1] = False, False
        >>> rows, columns = find_dead(next(find_weights(layer)), edges)
        >>> rows.nonzero().tolist(), columns.nonzero().tolist()
        ([[0]], [[3]])
    """
    rows, columns = (~present for present in weight.channels(edges))
    if weight.usable is not None:
        for dead, possible in zip((rows, columns), weight.channels(weight.usable), strict=True):
            dead &= possible
    return rows, columns


def find_weights(
    module: nn.Module, copies: Sequence[nn.Module] = (), tied: bool = False
) -> Iterator[SparseWeight]:
    """Every parameter that can be sparse, once, even if several modules share it.

    Args:
        module: the network.
        copies: submodules that copy others, such as an average; theirs are left out.
        tied: whether a parameter that several modules share comes once for each name of them.

    Example:
        >>> [weight.name for weight in find_weights(nn.Sequential(nn.Linear(4, 3), nn.LSTM(3, 2)))]
        ['0.weight', '0.bias', '1.weight_ih_l0', '1.weight_hh_l0', '1.bias_ih_l0', '1.bias_hh_l0']
    """
    seen = {id(parameter) for copy in copies for parameter in copy.parameters()}
    modules = dict(module.named_modules(remove_duplicate=not tied))
    for path, owner in modules.items():
        if isinstance(owner, Gate):
            continue
        for key, parameter in owner.named_parameters(recurse=False):
            lazy = isinstance(parameter, UninitializedParameter)
            if id(parameter) in seen or not (lazy or parameter.dim()):
                continue
            if key.startswith("bias") and (lazy or parameter.dim() >= 2):
                continue
            layer_path, name = _layer_and_name(path, key)
            layer = modules[layer_path]
            if not lazy and not _has_shape_of_weight(layer, name, parameter):
                continue
            if not tied:
                seen.add(id(parameter))
            clean = ".".join(part for part in layer_path.split(".") if part != "_orig_mod")
            yield SparseWeight(f"{clean}.{name}" if clean else name, layer, owner, key)


def _layer_and_name(path: str, key: str) -> tuple[str, str]:
    """The path of a parameter's layer and its name there, without parametrizations."""
    layer, parametrized, name = path.rpartition(".parametrizations.")
    if parametrized:
        return layer, name
    if path.startswith("parametrizations."):
        return "", path.removeprefix("parametrizations.")
    for suffix in ("_v", "_g", "_orig"):  # of torch's older weight norm and spectral norm
        if key.endswith(f"weight{suffix}"):
            return path, key.removesuffix(suffix)
    return path, key


def _has_shape_of_weight(layer: nn.Module, name: str, parameter: Tensor) -> bool:
    """Whether a parameter has an entry for every weight, unlike the magnitudes of weight norm."""
    weight = getattr(layer, name, parameter)
    return isinstance(weight, Tensor) and weight.shape == parameter.shape
