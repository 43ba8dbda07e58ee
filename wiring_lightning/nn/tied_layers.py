"""Layers that share parameters."""

from torch import nn


def tied_layers(network: nn.Module) -> set[nn.Module]:
    """The modules that share a parameter with another one; their containers do not count.

    Example:
        >>> network = nn.Sequential(nn.Embedding(9, 4), nn.ReLU(), nn.Linear(4, 9))
        >>> network[2].weight = network[0].weight
        >>> sorted(type(layer).__name__ for layer in tied_layers(network))
        ['Embedding', 'Linear']
    """
    owners: dict[nn.Parameter, list[nn.Module]] = {}
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, []).append(module)
    return {module for modules in owners.values() if modules[1:] for module in modules}
