"""Evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module gets its own mode back, such as a frozen norm.

    Example:
        >>> network = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(4).eval())
        >>> with evaluating(network):
        ...     network[0].training
        False
        >>> [module.training for module in network.modules()]
        [True, True, False]
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
