"""What an optimizer remembers of a parameter."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def states_of(optimizer: Optimizer, parameter: Tensor) -> Iterator[tuple[str, Any]]:
    """The states of a parameter, with their names: of an optimizer, and of those that it wraps.

    Lookahead and others keep another optimizer, or a list of them, and have no momentum themselves.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> wrapper = torch.optim.Optimizer([weight], {})
        >>> wrapper.base = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        >>> weight.grad = torch.ones(2)
        >>> wrapper.base.step()
        >>> [(name, value.tolist()) for name, value in states_of(wrapper, weight)]
        [('momentum_buffer', [1.0, 1.0])]
    """
    # Two optimizers may share one dictionary.
    states = {id(one.state): one.state for one in with_wrapped(optimizer)}
    for state in states.values():
        yield from state.get(parameter, {}).items()


def with_wrapped(optimizer: Optimizer) -> list[Optimizer]:
    """An optimizer and all that it holds in its attributes or in lists there, each once."""
    found: list[Optimizer] = []
    _add_wrapped(optimizer, found)
    return found


def _add_wrapped(optimizer: Optimizer, found: list[Optimizer]) -> None:
    if not any(optimizer is one for one in found):
        found.append(optimizer)
        for value in vars(optimizer).values():
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, Optimizer):
                    _add_wrapped(one, found)
