"""Whether someone waits for the call of a module."""

import torch
from torch import nn


def has_hooks(*modules: nn.Module) -> bool:
    """Whether any of some modules, or of those inside of them, has a hook.

    A faster way that computes what a module would, without calling it, is not for modules with
    hooks: these record or change what goes in and out, and the older functions of `torch.nn.utils`,
    such as `prune` and `spectral_norm`, compute the weight in one. While compiling it is false.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> has_hooks(layer)
        False
        >>> _ = layer.register_forward_hook(lambda *_: None)
        >>> has_hooks(nn.Sequential(layer))
        True
    """
    if torch.compiler.is_compiling():
        return False
    return any(
        part._forward_hooks
        or part._forward_pre_hooks
        or part._backward_hooks
        or part._backward_pre_hooks
        for module in modules
        for part in module.modules()
    )
