"""Modules of a network replaced by others."""

from collections.abc import Mapping

from torch import nn


def replace_modules(network: nn.Module, others: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The network with other modules in the place of some of its own.

    A module that has several places is replaced at each of them. The network itself is changed,
    but if it is one of those that are replaced, the other one is returned.

    Example:
        >>> layer = nn.ReLU()
        >>> replace_modules(nn.Sequential(layer, nn.Tanh(), layer), {layer: nn.GELU()})
        Sequential(
          (0): GELU(approximate='none')
          (1): Tanh()
          (2): GELU(approximate='none')
        )
    """
    if network in others:
        return others[network]
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if module in others:
            network.set_submodule(name, others[module])
    return network
