"""What masks leave of weights and gradients."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def keep_masked(values: list[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
    """Set the entries outside of the masks to zero; if nothing changes, return the same list."""
    kept = [
        value if mask is None else torch.where(mask.to(value.device), value, 0)
        for value, mask in zip(values, masks, strict=True)
    ]
    return values if all(map(torch.equal, values, kept)) else kept


@torch.no_grad()
def mask_gradients(weights: Sequence[Tensor], masks: Sequence[Tensor | None]) -> None:
    """Set the gradients of entries outside of the masks to zero.

    Args:
        weights: parameters; those without a gradient are skipped.
        masks: for each parameter a mask of the entries whose gradient stays, or `None` for all.
    """
    for weight, mask in zip(weights, masks, strict=True):
        if weight.grad is not None and weight.grad.is_sparse and mask is not None:
            weight.grad.mul_(mask)  # of an embedding; torch has no other way
    dense = [None if w.grad is None or w.grad.is_sparse else w.grad for w in weights]
    copy_masked(dense, masks, dense)


@torch.no_grad()
def copy_masked(
    values: Sequence[Tensor | None], masks: Sequence[Tensor | None], into: Sequence[Tensor | None]
) -> None:
    """Copy entries inside of masks, and write zeros elsewhere, also where a value is no number.

    What lacks a value or a mask is skipped.
    """
    zeros: dict[Any, Tensor] = {}  # made once for each device: that is a kernel of its own
    for value, mask, target in zip(values, masks, into, strict=True):
        if value is not None and mask is not None:
            key = value.device, value.dtype
            zeros[key] = zero = zeros[key] if key in zeros else value.new_zeros(())
            torch.where(mask, value, zero, out=target)
