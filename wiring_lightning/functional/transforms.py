"""Whether torch computes derivatives forwards, or batches what a function does."""

import torch
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether `torch.func` transforms what is computed, or tangents are carried along.

    An operator of one's own knows neither, and `torch.no_grad` does not switch them off.

    Example:
        >>> is_transformed()
        False
        >>> with forward_ad.dual_level():
        ...     is_transformed()
        True
    """
    if torch.compiler.is_compiling():
        return False
    level: int = forward_ad._current_level
    return level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None
