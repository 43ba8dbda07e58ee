"""The k largest magnitudes of many sets of tensors, on accelerators."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of a number
# Of sets with a tensor of so many entries, each tensor has two kernels of its own. Smaller sets are
# put into one tensor, which takes two more passes over them, but a kernel for all.
_LARGE = 2**18


@torch.no_grad()
def keep_largest_of_sets(
    values: Sequence[Sequence[Tensor]],
    kept: Sequence[Sequence[Tensor]],
    usable: Sequence[Sequence[Tensor | None]],
    numbers: Sequence[int],
) -> None:
    """Copy the largest magnitudes of every set, and write zeros elsewhere; the host never waits.

    For accelerators: sets of as many entries share their kernels. Of equal magnitudes those are
    kept that `torch.topk` takes; in CUDA's kernels those with the lowest index. NaN entries are
    kept only if a set has too few numbers.

    Args:
        values: for each set its tensors; all have one dtype and one device.
        kept: for each set the tensors to write into, of the same shapes.
        usable: for each tensor of a set a mask of the entries that can be kept, `None` for all.
        numbers: for each set how many entries to keep, at most as many as it has.

    Example:
        >>> values, kept = torch.tensor([0.5, -2.0, 1.0]), torch.empty(3)
        >>> keep_largest_of_sets([[values]], [[kept]], [[None]], [2])
        >>> kept
        tensor([ 0., -2.,  1.])
    """
    alike: dict[tuple[int, int], list[int]] = {}
    for index, (tensors, number) in enumerate(zip(values, numbers, strict=True)):
        alike.setdefault((sum(map(Tensor.numel, tensors)), number), []).append(index)
    first = values[0][0]
    base, zero = _lowest_key(first), first.new_zeros(())
    for (_, number), indices in alike.items():
        inside = [tensor for index in indices for tensor in values[index]]
        outside = [tensor for index in indices for tensor in kept[index]]
        masks = [mask for index in indices for mask in usable[index]]
        together = max(map(Tensor.numel, inside)) < _LARGE
        parts = [torch.cat([part.reshape(-1) for part in inside])] if together else inside
        outputs = [torch.empty_like(parts[0])] if together else outside
        keys = _keys(parts, base)
        _exclude(keys.split([part.numel() for part in inside]), masks)
        chosen = _largest(keys.view(len(indices), -1), number).split([p.numel() for p in parts])
        for part, marked, output in zip(parts, chosen, outputs, strict=True):
            torch.where(marked.view(part.shape), part, zero, out=output)
        if together:
            own = outputs[0].split([part.numel() for part in inside])
            shaped = [part.view(like.shape) for part, like in zip(own, outside, strict=True)]
            torch._foreach_copy_(outside, shaped)


def _lowest_key(like: Tensor) -> Tensor:
    """The key of a zero. Keys are this integer plus twice the bits of a number.

    Doubling drops the sign, and the bits of positive numbers are ordered as the numbers are. The
    key of infinity is nearly the largest integer. NaN has higher bits than infinity, so its keys
    wrap around and become the lowest.
    """
    integer = _INTEGERS[like.element_size()]
    infinity = torch.tensor(math.inf, dtype=like.dtype, device="cpu").view(integer).item()
    highest = torch.iinfo(integer).max - 1
    return torch.full((), highest - 2 * int(infinity), dtype=integer, device=like.device)


def _keys(parts: Sequence[Tensor], base: Tensor) -> Tensor:
    """For each entry an integer that is larger for a larger magnitude."""
    keys = base.new_empty(sum(map(Tensor.numel, parts)))
    for part, own in zip(parts, keys.split([part.numel() for part in parts]), strict=True):
        torch.add(base, part.reshape(-1).view(base.dtype), alpha=2, out=own)
    return keys


def _exclude(keys: Sequence[Tensor], usable: Sequence[Tensor | None]) -> None:
    """Give the entries that cannot be kept the lowest keys."""
    for own, mask in zip(keys, usable, strict=True):
        if mask is not None:
            own.masked_fill_(~mask.reshape(-1), torch.iinfo(own.dtype).min)


def _largest(keys: Tensor, k: int) -> Tensor:
    """Mark the k largest keys of each row; the rows become one."""
    chosen = torch.zeros_like(keys, dtype=torch.bool)
    return chosen.scatter_(1, keys.topk(k, sorted=False).indices, True).view(-1)
