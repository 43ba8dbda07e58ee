"""A network applied to a few examples at a time, so that its data stay in the cache of a CPU."""

from collections.abc import Callable

import torch
from torch import Tensor

# Bytes of the largest state of a part, so that it stays in the cache of one core.
_PART_BYTES = 2 * 2**20


def examples_per_part(bytes_per_example: int) -> int:
    """How many examples with states of this size are computed at a time.

    Example:
        >>> examples_per_part(2**20), examples_per_part(2**30)
        (2, 1)
    """
    return max(1, _PART_BYTES // max(1, bytes_per_example))


def apply_in_parts(function: Callable[[Tensor], Tensor], images: Tensor, size: int) -> Tensor:
    """Apply a function that treats examples alone to `size` of them at a time, on a CPU.

    On other devices, with gradients, and while a graph is traced, compiled or exported, the whole
    batch is computed at once.

    Args:
        function: `[batch, ...]` -> `[batch, ...]`; no example may change the result of another.
        images: `[batch, ...]`.
        size: examples of a part.

    Example:
        >>> with torch.no_grad():
        ...     apply_in_parts(lambda part: part + len(part), torch.zeros(5), size=2)
        tensor([2., 2., 2., 2., 1.])
    """
    whole = (
        images.device.type != "cpu"
        or torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined]
        or len(images) <= size
    )
    if whole:
        return function(images)
    return torch.cat([function(part) for part in images.split(size)])
