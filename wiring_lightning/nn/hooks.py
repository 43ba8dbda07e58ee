"""Whether a module may be computed without calling it."""

from torch import nn


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


def _changes(kind: type[nn.Module], module: nn.Module) -> bool:
    """Whether a subclass, or the module itself, has another computation than the class."""
    if type(module) is not kind and any(
        getattr(type(module), name, None) is not getattr(kind, name, None) for name in _COMPUTATIONS
    ):
        return True
    own = vars(module)
    return "forward" in own or "__call__" in own or "_conv_forward" in own


_COMPUTATIONS = "__call__", "forward", "_conv_forward"  # the last is what torch's convolutions call
