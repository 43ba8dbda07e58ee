"""A network applied to a few examples at a time, so that its data stay in the cache of a CPU."""

from collections.abc import Callable

import torch
from torch import Tensor

# Bytes of the largest state of a part: convolutions of a few examples at once take less time for
# each, and the state of a module stays in the cache that all cores share.
_PART_BYTES = 2**23


def examples_per_part(bytes_per_example: int) -> int:
    """How many examples with states of this size are computed at a time.

    Example:
        >>> examples_per_part(2**21), examples_per_part(2**30)
        (4, 1)
    """
    return max(1, _PART_BYTES // max(1, bytes_per_example))


def may_split(images: Tensor) -> bool:
    """Whether a batch can be computed in parts: on a CPU, without gradients or a graph.

    Example:
        >>> may_split(torch.zeros(1))  # gradients are enabled
        False
    """
    return (
        images.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and len(images) > 0
    )


def apply_in_parts(function: Callable[[Tensor], Tensor], images: Tensor, size: int) -> Tensor:
    """Apply a function that treats examples alone to `size` of them at a time.

    Where `may_split` says no, the whole batch is computed at once.

    Args:
        function: `[batch, ...]` -> `[batch, ...]`; no example may change the result of another.
        images: `[batch, ...]`.
        size: examples of a part.

    Example:
        >>> with torch.no_grad():
        ...     apply_in_parts(lambda part: part + len(part), torch.zeros(5), size=2)
        tensor([2., 2., 2., 2., 1.])
    """
    if len(images) <= size or not may_split(images):
        return function(images)
    return torch.cat([function(part) for part in images.split(size)])
