"""Copies of networks in which nothing is computed of other tensors: plain parameters."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import wraps
from itertools import chain
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from wiring_lightning.nn.as_usual import as_usual

T = TypeVar("T", bound=nn.Module)
P = ParamSpec("P")
R = TypeVar("R")
_CONTAINERS = Mapping, list, tuple, set, frozenset, deque


def with_plain_weights(network: T) -> T:
    """The network, or a copy if it holds what is computed of other tensors.

    Weights are computed by parametrizations, such as the spectral norm and weight norm of
    `torch.nn.utils.parametrizations`, by the older functions of that name in `torch.nn.utils`, and
    by `torch.nn.utils.prune`. In the copy they are parameters with the values that evaluation mode
    computes now; so channels can be selected, scaled and written like any others.

    A network may also keep a tensor of its last training step, such as an activation that a loss
    reads. In the copy it is detached: torch's `deepcopy` refuses it as it is.

    Example:
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))
        >>> plain = with_plain_weights(layer)
        >>> sorted(dict(plain.named_parameters())), torch.equal(plain.weight, layer.weight)
        (['bias', 'weight'], True)
        >>> with_plain_weights(plain) is plain
        True
    """
    computed = dict(_computed_tensors(network))
    if not computed and not any(_computes_weights(part) for part in network.modules()):
        return network
    return make_weights_plain(deepcopy(network, computed))


@torch.no_grad()
def make_weights_plain(network: T) -> T:
    """As `with_plain_weights`, in place."""
    # Children first: what a parametrization reads may be computed itself.
    for part in reversed(list(network.modules())):
        if parametrize.is_parametrized(part):
            _remove_parametrizations(part)
        # The last hook may compute what an earlier one reads.
        for hook in reversed(_hooks(part)):
            _remove_hook(part, hook)
    return network


def of_plain_weights(
    method: Callable[Concatenate[T, P], R],
) -> Callable[Concatenate[T, P], R]:
    """Decorate a method, such as `compact`, so that its `self` has plain weights.

    What it gives can learn and has the precision of the network, wherever it is called.
    """

    @wraps(method)
    def called(network: T, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with as_usual(network):
            return method(with_plain_weights(network), *args, **kwargs)

    return called


def _computes_weights(part: nn.Module) -> bool:
    return parametrize.is_parametrized(part) or bool(_hooks(part))


def _hooks(part: nn.Module) -> list[Any]:
    """The hooks of a module that compute a weight before each call."""
    kinds = WeightNorm, SpectralNorm, prune.BasePruningMethod
    return [hook for hook in part._forward_pre_hooks.values() if isinstance(hook, kinds)]


def _computed_tensors(network: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """A memo for `deepcopy`, which refuses tensors that were computed with gradients."""
    left: list[Any] = [vars(part) for part in network.modules()]
    seen = set[int]()
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            if not value.is_leaf:
                yield id(value), value.detach().clone()
        elif isinstance(value, _CONTAINERS) and id(value) not in seen:
            seen.add(id(value))  # a list may hold itself
            left += chain(*value.items()) if isinstance(value, Mapping) else value


def _remove_parametrizations(part: Any) -> None:
    """Replace parametrizations by what they compute: a parameter, or a buffer if they have none."""
    computed = {}
    for name, parametrization in part.parametrizations.items():
        parametrization.eval()  # torch's spectral norm takes a step in training
        learning = [parameter.requires_grad for parameter in parametrization.parameters()]
        computed[name] = getattr(part, name).detach().clone(), learning
    # Not by `remove_parametrizations`: it changes the class, which copies have in common.
    part.__class__ = parametrize.type_before_parametrizations(part)
    del part.parametrizations
    for name, (value, learning) in computed.items():
        if learning:
            setattr(part, name, nn.Parameter(value, any(learning)))
        else:
            part.register_buffer(name, value)


def _remove_hook(part: Any, hook: Any) -> None:
    """Make the weight that a hook computes a parameter, and remove the hook."""
    name = hook._tensor_name if isinstance(hook, prune.BasePruningMethod) else hook.name
    learning = _untie(part, f"{name}_")
    if isinstance(hook, WeightNorm):
        remove_weight_norm(part, name)
    elif isinstance(hook, SpectralNorm):
        remove_spectral_norm(part, name)
    else:
        prune.remove(part, name)
    # Set, not registered: recurrent layers keep a list of what is set.
    setattr(part, name, nn.Parameter(getattr(part, name).detach().clone(), any(learning)))


def _untie(part: nn.Module, prefix: str) -> list[bool]:
    """Give a layer its own copies of some parameters, and return which of them learn.

    Torch writes the computed weight into them, and other layers may share them.
    """
    own = [item for item in part.named_parameters(recurse=False) if item[0].startswith(prefix)]
    for name, parameter in own:
        setattr(part, name, nn.Parameter(parameter.detach().clone(), parameter.requires_grad))
    return [parameter.requires_grad for _, parameter in own]
