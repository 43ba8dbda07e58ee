"""The k largest magnitudes of many weights, which are the edges of a network (DNW, Section 2.2)."""

import math
from collections.abc import Sequence
from itertools import repeat

import torch
from torch import Tensor

Usable = Sequence[Tensor | None]

# Entries per chunk, so that scratch memory stays small. Of 2**17 to 2**21, larger ones were faster
# on two cores (38 to 30 ms for 11 million weights), and no slower on one.
_CHUNK = 2**20
_ROW = 64  # `_nonzero` skips rows of this length that hold zeros only
_NARROWEST, _WIDEST = 5e-4, 0.5  # limits of the band's half width, relative to the threshold
_SMALLEST = 1e-30  # below this threshold the ends of the band would be rounded to zero


@torch.no_grad()
def mask_largest(
    weights: Sequence[Tensor], k: int, usable: Usable = (), least: int = 0
) -> list[Tensor]:
    """Mark the k entries of largest magnitude among all entries of several tensors.

    Of equal magnitudes the one with the lower index wins. Indices count through all tensors in
    logical order, whatever their memory format.

    Args:
        weights: tensors of any shape. NaN entries are never marked.
        k: how many to mark.
        usable: for each tensor a mask of the entries that can be marked, or `None` for all.
        least: how many entries of every tensor are marked first, its own largest, as long as `k`
            is enough for all of them.

    Raises:
        ValueError: if fewer than `k` entries can be marked. Only the CPU checks for NaN entries;
            other devices, which would have to synchronize, mark fewer.

    Example:
        >>> mask_largest([torch.tensor([0.1, -0.9]), torch.tensor([0.3])], 2)
        [tensor([False,  True]), tensor([True])]
    """
    magnitudes = [
        (weight if mask is None else weight.masked_fill(~mask, torch.nan)).reshape(-1).abs()
        for weight, mask in zip(weights, usable or repeat(None, len(weights)), strict=True)
    ]
    if least and len(magnitudes) > 1:
        magnitudes = [_favour(part, least) for part in magnitudes]
    chosen, _ = _choose(torch.cat(magnitudes).nan_to_num_(nan=-1.0, posinf=math.inf), k)
    parts = chosen.split([len(part) for part in magnitudes])
    return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


def _favour(magnitudes: Tensor, least: int) -> Tensor:
    """Make the largest of `[n]` magnitudes infinite, so that they are marked first."""
    best = magnitudes.nan_to_num(nan=-1.0, posinf=math.inf).topk(min(least, len(magnitudes)))
    # Entries that cannot be marked stay what they are.
    found = torch.where(best.values >= 0, math.inf, torch.nan)
    return magnitudes.scatter(0, best.indices, found.to(magnitudes.dtype))


class LargestMagnitudes:
    """Keeps the k largest magnitudes of tensors that change little from one call to the next.

    The result is always that of `mask_largest`. On a CPU a call starts from the last threshold:
    magnitudes above a narrow band around it are kept, and only those inside the band are ranked.
    If the new threshold is outside the band, all entries are ranked.

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
        """Copy the k largest entries of `weights` into `kept`, and write zeros elsewhere.

        `kept` has a tensor of the same shape for each weight; the rest is as for `mask_largest`.
        """
        alike = len({weight.dtype for weight in weights}) == 1  # all of them share the band
        near = self._threshold if alike and not weights[0].is_complex() else None
        if near is not None and self._keep_near(near, weights, kept, usable):
            return
        masks = mask_largest(weights, self.k, usable)
        for weight, target, mask in zip(weights, kept, masks, strict=True):
            target.copy_(torch.where(mask, weight, 0))
        if self.k and weights[0].device.type == "cpu":
            marked = [weight[mask] for weight, mask in zip(weights, masks, strict=True)]
            self._set_band(float(torch.cat(marked).abs().min()))

    def _keep_near(
        self, threshold: float, weights: Sequence[Tensor], kept: Sequence[Tensor], usable: Usable
    ) -> bool:
        """Keep all magnitudes above a band around the threshold, and the largest in it.

        Returns:
            Whether these are the k largest; otherwise the new threshold is outside the band, and
            `kept` holds nothing of use.
        """
        low, high = threshold * (1 - self._width), threshold * (1 + self._width)
        longest = min(_CHUNK, max(weight.numel() for weight in weights))
        scratch, signs = weights[0].new_empty(2, longest)
        above, in_band, outputs = 0.0, list[Tensor](), list[tuple[Tensor, Tensor]]()
        for weight, target, mask in zip(
            weights, kept, usable or repeat(None, len(weights)), strict=True
        ):
            flat = target.view(-1) if target.is_contiguous() else target.new_empty(target.numel())
            chunks = zip(weight.reshape(-1).split(_CHUNK), flat.split(_CHUNK), strict=True)
            excluded = None if mask is None else (~mask).reshape(-1).split(_CHUNK)
            indices = []
            for number, (source, output) in enumerate(chunks):
                torch.hardshrink(source, low, out=output)  # zeros up to `low`
                if excluded is not None:
                    output.masked_fill_(excluded[number], 0)
                part, sign = scratch[: len(output)], signs[: len(output)]
                torch.hardshrink(output, high, out=part)
                above += float(torch.sign(part, out=sign).abs_().sum(dtype=torch.float32))
                torch.sub(output, part, out=part).abs_()  # zeros outside the band
                index = _nonzero(part)
                in_band.append(part[index])
                indices.append(index + number * _CHUNK)
            outputs.append((flat, torch.cat(indices)))
        magnitudes, missing = torch.cat(in_band), self.k - int(above)
        # The subtraction turns infinite entries into NaN; NaN entries stay NaN.
        if magnitudes.isnan().any() or not 0 <= missing <= len(magnitudes):
            return False
        chosen, smallest = _choose(magnitudes, missing)
        dropped = (~chosen).split([len(index) for _, index in outputs])
        for (flat, index), drop, target in zip(outputs, dropped, kept, strict=True):
            flat.index_fill_(0, index[drop], 0)
            if not target.is_contiguous():
                target.copy_(flat.view(target.shape))
        self._set_band(float(smallest) if missing else high)
        return True

    def _set_band(self, threshold: float) -> None:
        """Put the next band around a threshold, several times as wide as the threshold moved."""
        if self._threshold is not None:
            moved = abs(threshold / self._threshold - 1)
            self._width = min(_WIDEST, max(4 * moved, 0.7 * self._width, _NARROWEST))
        self._threshold = threshold if _SMALLEST < threshold < math.inf else None


def _choose(magnitudes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mark the k largest of `[n]` numbers, never a negative one; also return the smallest marked.

    Of equal numbers the first ones are marked.
    """
    if k > len(magnitudes):
        raise ValueError(f"k = {k} weights were asked for, but there are {len(magnitudes)}.")
    if k == 0:
        return torch.zeros_like(magnitudes, dtype=torch.bool), magnitudes.new_zeros(())
    smallest = magnitudes.topk(k, sorted=False).values.amin()
    if smallest.device.type == "cpu" and smallest < 0:
        raise ValueError(
            f"fewer than k = {k} weights are numbers; has the loss diverged, or has weight norm a "
            "row without weights?"
        )
    larger, equal = magnitudes > smallest, magnitudes == smallest
    first = equal.cumsum(0) <= k - larger.sum()
    return (larger | (equal & first)) & (magnitudes >= 0), smallest


def _nonzero(values: Tensor) -> Tensor:
    """Indices of the non-zero entries of `[n]` numbers, none negative, if they are few."""
    if len(values) % _ROW:
        return values.nonzero().flatten()
    rows = values.view(-1, _ROW)
    used = rows.amax(1).nonzero().flatten()
    row, column = rows[used].nonzero().unbind(1)
    return used[row] * _ROW + column
