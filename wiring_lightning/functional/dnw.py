"""The k largest magnitudes of many weights, which are the edges of a network (DNW, Section 2.2)."""

import math
from collections.abc import Sequence
from itertools import repeat

import torch
from torch import Tensor

Usable = Sequence[Tensor | None]

# Entries that are worked on together: what one pass over them writes, the next finds in the cache.
_CHUNK = 2**17
_ROW = 64  # entries that are looked at one by one only if one of them is not zero
_NARROWEST, _WIDEST = 5e-4, 0.5  # half widths of the band around a threshold
_SMALLEST = 1e-30  # a smaller threshold has no band: its ends would be rounded to zero


@torch.no_grad()
def mask_largest(weights: Sequence[Tensor], k: int, usable: Usable = ()) -> list[Tensor]:
    """Mark the k entries of largest magnitude among all entries of several tensors.

    Of equal magnitudes the one with the lower index wins; indices count through all tensors, in the
    logical order of each, whatever its memory format.

    Args:
        weights: tensors of any shape. Entries that are not a number are never marked.
        k: how many to mark.
        usable: for each tensor a mask of the entries that can be marked, or `None` for all.

    Raises:
        ValueError: if fewer than `k` entries can be marked. Other devices than the CPU do not wait
            to find out, and mark fewer.

    Example:
        >>> mask_largest([torch.tensor([0.1, -0.9]), torch.tensor([0.3])], 2)
        [tensor([False,  True]), tensor([True])]
    """
    magnitudes = [
        (weight if mask is None else weight.masked_fill(~mask, torch.nan)).reshape(-1).abs()
        for weight, mask in zip(weights, usable or repeat(None, len(weights)), strict=True)
    ]
    chosen, _ = _choose(torch.cat(magnitudes).nan_to_num_(nan=-1.0, posinf=math.inf), k)
    parts = chosen.split([len(part) for part in magnitudes])
    return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


class LargestMagnitudes:
    """Keeps the k largest magnitudes of tensors that change little from one call to the next.

    The choice is always that of `mask_largest`. On a CPU it is found near the last threshold: what
    lies clearly above is kept, and only the thin band around it is ranked. If the threshold has
    left the band, all entries are ranked again.

    Args:
        k: how many entries to keep.

    Raises:
        ValueError: if `k` is negative.

    Example:
        >>> largest, kept = LargestMagnitudes(2), torch.empty(4)
        >>> largest.keep([torch.tensor([0.5, -1.0, 0.25, 0.125])], [kept])
        >>> kept
        tensor([ 0.5000, -1.0000,  0.0000,  0.0000])
    """

    def __init__(self, k: int) -> None:
        if k < 0:
            raise ValueError(f"k must not be negative, got {k}.")
        self.k = k
        self._threshold: float | None = None
        self._width = 0.02  # half width of the band, as a share of the threshold

    @torch.no_grad()
    def keep(self, weights: Sequence[Tensor], kept: Sequence[Tensor], usable: Usable = ()) -> None:
        """Copy the k largest entries into `kept`, a tensor for each, and write zeros elsewhere.

        Other arguments and errors are those of `mask_largest`.
        """
        if self._threshold is not None and self._keep_near(self._threshold, weights, kept, usable):
            return
        masks = mask_largest(weights, self.k, usable)
        for weight, target, mask in zip(weights, kept, masks, strict=True):
            target.copy_(torch.where(mask, weight, 0))
        if self.k and weights[0].device.type == "cpu":
            marked = [weight[mask] for weight, mask in zip(weights, masks, strict=True)]
            self._remember(float(torch.cat(marked).abs().min()))

    def _keep_near(
        self, threshold: float, weights: Sequence[Tensor], kept: Sequence[Tensor], usable: Usable
    ) -> bool:
        """Keep what is above the band, and of its inside what is missing; false if that fails."""
        low, high = threshold * (1 - self._width), threshold * (1 + self._width)
        scratch, marks = weights[0].new_empty(2, _CHUNK)
        above, inside, pieces = 0.0, list[Tensor](), list[tuple[Tensor, Tensor]]()
        for weight, target, mask in zip(
            weights, kept, usable or repeat(None, len(weights)), strict=True
        ):
            flat = target.view(-1) if target.is_contiguous() else target.new_empty(target.numel())
            chunks = zip(weight.reshape(-1).split(_CHUNK), flat.split(_CHUNK), strict=True)
            excluded = None if mask is None else (~mask).reshape(-1).split(_CHUNK)
            found = []
            for number, (source, into) in enumerate(chunks):
                torch.hardshrink(source, low, out=into)  # zeros up to `low`
                if excluded is not None:
                    into.masked_fill_(excluded[number], 0)
                part, mark = scratch[: len(into)], marks[: len(into)]
                torch.hardshrink(into, high, out=part)
                above += float(torch.sign(part, out=mark).abs_().sum(dtype=torch.float32))
                torch.sub(into, part, out=part).abs_()  # zeros outside the band
                places = _nonzero(part)
                inside.append(part[places])
                found.append(places + number * _CHUNK)
            pieces.append((flat, torch.cat(found)))
        magnitudes, missing = torch.cat(inside), self.k - int(above)
        # Infinite numbers, and those that are none, are no numbers after the subtraction.
        if magnitudes.isnan().any() or not 0 <= missing <= len(magnitudes):
            return False
        chosen, level = _choose(magnitudes, missing)
        dropped = (~chosen).split([len(where) for _, where in pieces])
        for (flat, where), drop, target in zip(pieces, dropped, kept, strict=True):
            flat.index_fill_(0, where[drop], 0)
            if not target.is_contiguous():
                target.copy_(flat.view(target.shape))
        self._remember(float(level) if missing else high)
        return True

    def _remember(self, threshold: float) -> None:
        """Expect the next threshold here, within several times the distance that this one moved."""
        if self._threshold is not None:
            moved = abs(threshold / self._threshold - 1)
            self._width = min(_WIDEST, max(4 * moved, 0.7 * self._width, _NARROWEST))
        self._threshold = threshold if _SMALLEST < threshold < math.inf else None


def _choose(magnitudes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mark the k largest of `[n]` numbers, negative ones never; also the smallest one marked."""
    if k > len(magnitudes):
        raise ValueError(f"k = {k} weights were asked for, but there are {len(magnitudes)}.")
    if k == 0:
        return torch.zeros_like(magnitudes, dtype=torch.bool), magnitudes.new_zeros(())
    level = magnitudes.topk(k, sorted=False).values.amin()
    if level.device.type == "cpu" and level < 0:
        raise ValueError(f"fewer than k = {k} weights are numbers; has the loss diverged?")
    chosen, equal = magnitudes > level, magnitudes == level
    first = equal.cumsum(0) <= k - chosen.sum()
    return (chosen | (equal & first)) & (magnitudes >= 0), level


def _nonzero(values: Tensor) -> Tensor:
    """Places of the few entries of `[n]` numbers, none negative, that are not zero."""
    if len(values) % _ROW:
        return values.nonzero().flatten()
    rows = values.view(-1, _ROW)
    some = rows.amax(1).nonzero().flatten()
    row, column = rows[some].nonzero().unbind(1)
    return some[row] * _ROW + column
