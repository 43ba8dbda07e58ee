"""Which layers of a network a forward pass reaches."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def called_modules(network: nn.Module) -> Iterator[set[nn.Module]]:
    """The modules of a network that are called meanwhile; scripted ones tell nothing.

    Example:
        >>> network = nn.Sequential(nn.ReLU(), nn.Tanh())
        >>> with called_modules(network) as called:
        ...     _ = network[0](torch.ones(1))
        >>> called
        {ReLU()}
    """
    called = set[nn.Module]()
    with ExitStack() as hooks:
        for module in network.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                hook = module.register_forward_pre_hook(lambda module, _: called.add(module))
                hooks.enter_context(hook)
        yield called


def unreached_layers(network: nn.Module, called: set[nn.Module], answer: Tensor) -> list[str]:
    """The names of layers that were not called, and none of whose parameters an answer depends on.

    Args:
        network: its parameters need gradients; others count as not reached.
        called: its modules that were called.
        answer: what it gave, with its graph for the backward pass.

    Example:
        >>> network = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)])
        >>> unreached_layers(network, {network[0]}, network[2].weight.sum())
        ['1']
    """
    reached = set(_leaves(answer))
    return [
        name
        for name, module in network.named_modules()
        if module not in called
        and any(True for _ in module.parameters(recurse=False))
        and reached.isdisjoint(module.parameters(recurse=False))
    ]


def factors(node: Any) -> Iterator[Any]:
    """The parameters that one operator reads, as they are or in another shape.

    Args:
        node: the operator in the graph of a backward pass; `None` reads nothing.

    Example:
        >>> weight = nn.Parameter(torch.ones(2, 3))
        >>> [one] = factors(torch.nn.functional.linear(torch.ones(1, 3), weight).grad_fn)
        >>> one is weight
        True
    """
    for other, _ in getattr(node, "next_functions", ()):
        while other is not None and len(other.next_functions) == 1:
            other = other.next_functions[0][0]
        if hasattr(other, "variable"):
            yield other.variable


def _leaves(answer: Tensor) -> Iterator[Any]:
    """The tensors at which the graph of a backward pass ends."""
    left: list[Any] = [answer.grad_fn]
    seen = {None, answer.grad_fn}
    while left:
        node = left.pop()
        if hasattr(node, "variable"):
            yield node.variable
        following = {other for other, _ in getattr(node, "next_functions", ())} - seen
        seen |= following
        left += following
