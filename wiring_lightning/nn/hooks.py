"""Whether a module may be computed without calling it, or another may take its place."""

from typing import TypeVar

from torch import nn

T = TypeVar("T", bound=nn.Module)
# Where torch keeps what is called with a module, and in which way.
_HOOKS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks",
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_backward_pre_hooks",
    "_backward_hooks",
)  # fmt: skip


def computes_as(kind: type[nn.Module], *modules: nn.Module) -> bool:
    """Whether modules compute what a class does, and nobody waits for their calls.

    Otherwise a faster way that does not call them would be wrong: a subclass may compute something
    else, a hook may record or change what goes in and out, and the older functions of
    `torch.nn.utils`, such as `prune` and `spectral_norm`, compute the weight in one.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> computes_as(nn.Linear, layer)
        True
        >>> _ = layer.register_forward_hook(lambda *_: None)
        >>> computes_as(nn.Linear, layer)
        False
    """
    # Plain loops, since a small network is asked at each of its calls.
    for module in modules:
        if not isinstance(module, kind) or has_hooks(module) or _changes(kind, module):
            return False
    return True


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has a hook; those inside of it do not count.

    Example:
        >>> has_hooks(nn.Linear(2, 2))
        False
    """
    # `len`, since the compiler of torch 2.11 cannot ask whether these are empty.
    return (
        len(module._forward_hooks) > 0
        or len(module._forward_pre_hooks) > 0
        or len(module._backward_hooks) > 0
        or len(module._backward_pre_hooks) > 0
    )


def in_place_of(module: nn.Module, new: T, *kinds: type[nn.Module]) -> T:
    """Let a new module take the place of one that it computes the same as, with the hooks of that.

    Args:
        module: the one that is replaced.
        new: what is called in its place.
        kinds: the classes whose computation is that of `new`; if not given, the one that says how
            `module` is compacted. So a subclass with a `forward` and a `compact` of its own may
            call that of its base class.

    Raises:
        ValueError: if the module has a `forward` of its own.

    Example:
        >>> import torch
        >>> relu = nn.ReLU()
        >>> _ = relu.register_forward_hook(lambda _module, _inputs, output: 2 * output)
        >>> in_place_of(relu, nn.Threshold(0.0, 0.0), nn.ReLU)(torch.ones(1))
        tensor([2.])
    """
    kinds = kinds or tuple(k for k in type(module).__mro__ if "compact" in vars(k))[:1]
    if all(_changes(kind, module) for kind in kinds):
        raise ValueError(
            f"{type(module).__name__} has a forward of its own, which compact() would leave out: "
            "give the network a compact() that includes it."
        )
    for name in _HOOKS:
        getattr(new, name).update(getattr(module, name))
    new._is_full_backward_hook = module._is_full_backward_hook
    return new


def _changes(kind: type[nn.Module], module: nn.Module) -> bool:
    """Whether a subclass, or the module itself, has another computation than the class."""
    if type(module) is not kind and any(
        getattr(type(module), name, None) is not getattr(kind, name, None) for name in _COMPUTATIONS
    ):
        return True
    own = vars(module)
    return "forward" in own or "__call__" in own or "_conv_forward" in own


_COMPUTATIONS = "__call__", "forward", "_conv_forward"  # the last is what torch's convolutions call
