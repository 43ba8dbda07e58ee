"""Hooks that see each step of an optimizer once."""

from collections.abc import Callable
from functools import wraps
from inspect import currentframe
from types import FrameType, MethodType
from typing import Any

from torch.optim import Optimizer

# What a hook before a step gets and may replace: the arguments of `step`.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Before = Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], Arguments | None]
After = Callable[..., Any]


class StepHooks:
    """Calls functions before and after every step of an optimizer, once for each step.

    An optimizer may call `super().step()` in its own `step`. If torch has seen an optimizer of the
    parent class before, it calls step hooks for both. Only those of the outermost call count here.
    A step that raises an error is forgotten; `after` is not called for it.

    Args:
        optimizer: the optimizer.
        before: a step pre-hook, as `Optimizer.register_step_pre_hook` takes it.
        after: a step post-hook, as `Optimizer.register_step_post_hook` takes it.

    Example:
        >>> import torch
        >>> class Mine(torch.optim.SGD):
        ...     def step(self, closure=None):
        ...         return super().step(closure)
        >>> plain = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
        >>> mine = Mine([torch.nn.Parameter(torch.ones(1))])
        >>> hooks = StepHooks(mine, after=lambda *_: print("one step"))
        >>> mine.step()
        one step
    """

    def __init__(
        self, optimizer: Optimizer, before: Before | None = None, after: After | None = None
    ) -> None:
        self._before, self._after = before, after
        # The frame in which torch runs the present step. A number of open calls would not do: it
        # would stay too high after an error inside of a step.
        self._call: FrameType | None = None
        _call_hooks_in(optimizer)
        self._handles = [
            optimizer.register_step_pre_hook(self._enter),
            optimizer.register_step_post_hook(self._leave),
        ]

    def remove(self) -> None:
        """Remove the hooks from the optimizer."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._call = [], None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_call": None}  # a copy is in no step, and frames cannot be saved

    def _enter(
        self, optimizer: Optimizer, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Arguments | None:
        call = _caller()
        if self._call is not None and _is_inside(call, self._call):
            return None
        self._call = call
        return None if self._before is None else self._before(optimizer, arguments, keywords)

    def _leave(self, *arguments: Any) -> None:
        if self._call is None or _caller() is not self._call:
            return
        self._call = None
        if self._after is not None:
            self._after(*arguments)


def around_gradients(
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    after: Callable[[], None],
    before: Callable[[], None] | None = None,
) -> Arguments:
    """Call functions before and after each computation of gradients by the closure of a step.

    Without a closure the gradients are complete, so `after` is called at once.

    Args:
        arguments: those of the step, of which the first is the optimizer itself.
        keywords: its other arguments.
        after: called with complete gradients.
        before: called before the closure.

    Returns:
        The arguments that take the place of these.
    """
    closure = keywords.get("closure", arguments[1] if len(arguments) > 1 else None)
    if closure is None:
        after()
        return arguments, keywords

    def wrapped() -> Any:
        if before is not None:
            before()
        result = closure()
        after()
        return result

    return arguments[:1], {**keywords, "closure": wrapped}


def _call_hooks_in(optimizer: Optimizer) -> None:
    """Let `step` call hooks from the first step on, also if torch does not know the optimizer yet.

    A class that does not call `Optimizer.__init__`, such as a wrapper of another optimizer, gets
    hooks with its first `zero_grad` only, and never if a schedule has wrapped its `step` before.
    """
    inner = optimizer.step
    if getattr(inner, "hooked", False):
        return

    @wraps(inner)
    def step(_: Optimizer, *arguments: Any, **keywords: Any) -> Any:
        return inner(*arguments, **keywords)

    hooked = Optimizer.profile_hook_step(step)
    hooked.hooked = True  # type: ignore[attr-defined]
    optimizer.step = MethodType(hooked, optimizer)  # type: ignore[method-assign]


def _caller() -> FrameType | None:
    """The frame that called the function that calls this."""
    frame = currentframe()
    method = None if frame is None else frame.f_back
    return None if method is None else method.f_back


def _is_inside(frame: FrameType | None, outer: FrameType) -> bool:
    """Whether a frame was called, directly or through others, by another one."""
    while frame is not None and frame is not outer:
        frame = frame.f_back
    return frame is not None
