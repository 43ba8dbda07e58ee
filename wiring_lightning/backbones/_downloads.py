"""Networks of other libraries with the settings of pretrained weights, and without the weights."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_left_out: ContextVar[bool] = ContextVar("left_out", default=False)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Networks of timm and torchvision get first values of their own in place of pretrained ones.

    They are otherwise as with these weights. The libraries derive other arguments from them that no
    `state_dict` shows, such as `transform_input` of Inception or the `eps` of batch norms, so a
    network that gets the weights of a checkpoint must be told of them, too.
    """
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


@contextmanager
def loading(**steps: tuple[Any, Callable[..., Any]]) -> Iterator[None]:
    """While a library builds a network, its steps of loading weights, or others in their place.

    Args:
        steps: by the name of each step the class or module that has it, and what takes its place
            inside of `without_downloads`.
    """
    if not _left_out.get():
        yield
        return
    before = {name: getattr(owner, name) for name, (owner, _) in steps.items()}
    for name, (owner, step) in steps.items():
        setattr(owner, name, step)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # about these weights
            yield
    finally:
        for name, (owner, _) in steps.items():
            setattr(owner, name, before[name])
