"""Compiling the network of a task."""

import inspect
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

Compile = bool | dict[str, Any] | str
"""Whether to compile; or the arguments of `torch.compile`, or its mode."""


def compile_network(network: nn.Module, choice: Compile) -> dict[str, Any] | None:
    """Compile a network with `torch.compile`, in place: names in its `state_dict` do not change.

    Args:
        network: the network.
        choice: `True`, a mapping of arguments of `torch.compile`, or a name for its `mode`. With
            `False` nothing happens.

    Returns:
        The arguments of `torch.compile`, or `None` if the network is not compiled.

    Raises:
        MisconfigurationException: if `torch.compile` knows no such argument, mode, option or
            backend.

    Example:
        >>> compile_network(nn.Linear(2, 2), "reduce-overhead")
        {'mode': 'reduce-overhead'}
        >>> compile_network(nn.Linear(2, 2), {"mod": "reduce-overhead"})
        Traceback (most recent call last):
        lightning.fabric.utilities.exceptions.MisconfigurationException: compile has no key 'mod'...
    """
    if choice is False:
        return None
    arguments = _arguments(choice)
    try:
        network.compile(**arguments)
    except (RuntimeError, TypeError) as error:
        # For an unknown option torch lists the hundreds that there are.
        reason = str(error).partition(", known options are")[0].splitlines()[0].rstrip(".")
        raise MisconfigurationException(
            f"compile={choice!r} is refused by torch.compile: {reason}."
        ) from error
    return arguments


def _arguments(choice: Compile) -> dict[str, Any]:
    """What to call `torch.compile` with."""
    if choice is True:
        return {}
    if isinstance(choice, str):
        choice = {"mode": choice}
    if not isinstance(choice, dict):
        raise MisconfigurationException(
            "compile must be true, false, a mode of torch.compile, or a mapping of its arguments, "
            f"got {choice!r}."
        )
    known = [name for name in inspect.signature(torch.compile).parameters if name != "model"]
    for key in choice:
        if key not in known:
            raise MisconfigurationException(
                f"compile has no key {key!r}: the arguments of torch.compile are "
                f"{', '.join(known)}."
            )
    for key, extra in {"fullgraph": "", "disable": "", "dynamic": " or null"}.items():
        value = choice.get(key, False)
        if not isinstance(value, bool) and not (extra and value is None):
            raise MisconfigurationException(
                f"{key} of compile must be true or false{extra}, got {value!r}."
            )
    if choice.get("mode") == "":  # torch takes it for none
        raise MisconfigurationException("mode of compile is empty: name one, or leave it out.")
    backend = choice.get("backend")
    if isinstance(backend, str) and backend not in torch.compiler.list_backends(()):
        raise MisconfigurationException(
            f"torch.compile has no backend {backend!r}: there are "
            f"{', '.join(torch.compiler.list_backends())}."
        )
    return dict(choice)
