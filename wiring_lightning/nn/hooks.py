"""Whether a module may be computed without calling it."""

import torch
from torch import nn


def computes_as(kind: type[nn.Module], *modules: nn.Module) -> bool:
    """Whether modules compute what a class does, and nobody waits for their calls.

    Otherwise a faster way that does not call them would be wrong: a subclass may compute something
    else, a hook may record or change what goes in and out, and the older functions of
    `torch.nn.utils`, such as `prune` and `spectral_norm`, compute the weight in one. While
    compiling, hooks are not looked at.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> computes_as(nn.Linear, layer)
        True
        >>> _ = layer.register_forward_hook(lambda *_: None)
        >>> computes_as(nn.Linear, layer)
        False
    """
    if not all(isinstance(module, kind) for module in modules):
        return False
    return torch.compiler.is_compiling() or all(
        type(module).forward is kind.forward
        and "forward" not in vars(module)
        and not has_hooks(module)
        for module in modules
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has a hook; those inside of it do not count.

    Example:
        >>> has_hooks(nn.Linear(2, 2))
        False
    """
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
