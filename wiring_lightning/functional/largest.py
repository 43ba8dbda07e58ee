"""The k largest magnitudes of many weights, exactly, without sorting them."""

import math
from collections.abc import Sequence
from itertools import repeat

import torch
from torch import Tensor

# Entries that are looked at together on a CPU: what is computed from them stays in the cache.
_CHUNK = 2**17
# Entries of a chunk that are looked at as one when few of them matter, by their norm.
_ROW = 64
_SMALLEST = 1e-15  # below this threshold, squares could vanish from a norm


class LargestMagnitudes:
    """Keeps the k entries of largest magnitude; remembers the threshold from call to call.

    While a network trains, the k-th largest magnitude moves little from one step to the next. So
    entries well above the last threshold are in, entries well below are out, and only the thin band
    around it is sorted. If the threshold has left a wider band, too, the call starts over with all
    entries: the answer is exact in any case. Of equal magnitudes the one with the lower index wins.

    Args:
        k: how many entries to keep.

    Raises:
        ValueError: if `k` is negative.

    Example:
        >>> largest = LargestMagnitudes(2)
        >>> largest(torch.tensor([0.1, -0.9, 0.3, 0.2])).tolist()
        [False, True, True, False]
    """

    def __init__(self, k: int) -> None:
        if k < 0:
            raise ValueError(f"k must not be negative, got {k}.")
        self.k = k
        self.threshold: float | None = None
        # Relative half width of the band; follows how far the threshold is from where it was
        # expected, which is where another step like the last one leads.
        self.width = 0.02
        self._pace = 1.0

    def __call__(self, weights: Tensor) -> Tensor:
        """Mark entries of a flat tensor.

        Args:
            weights: `[n]`; entries that are NaN are never marked.

        Returns:
            `[n]` booleans with exactly `k` true entries.

        Raises:
            ValueError: if fewer than `k` entries can be marked.
        """
        weights = weights.detach()
        if self.threshold is not None:
            numbers = weights.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)
            kept = torch.empty_like(numbers)
            if self._near([_Part(numbers, kept, None)]):
                return kept != 0  # the threshold is above zero
        return self._anywhere(weights.abs())

    @torch.no_grad()
    def keep(
        self,
        weights: Sequence[Tensor],
        kept: Sequence[Tensor],
        never: Sequence[Tensor | None] = (),
    ) -> None:
        """Copy the k largest of all entries of several tensors, and write zeros elsewhere.

        Indices count in logical order, so that channels_last breaks ties like the contiguous
        layout.

        Args:
            weights: tensors of any shape.
            kept: a tensor of the same shape for each, which is written.
            never: for each a mask of entries that are not kept, or `None`.

        Raises:
            ValueError: if fewer than `k` entries can be kept.
        """
        masks = never or [None] * len(weights)
        if self.threshold is not None:
            columns = zip(weights, kept, masks, strict=True)
            parts = [part for column in columns if (part := _in_order_of_memory(*column))]
            if len(parts) == len(weights) and self._near(parts):
                return
        flat = [
            (w if mask is None else w.masked_fill(mask, torch.nan)).reshape(-1)
            for w, mask in zip(weights, masks, strict=True)
        ]
        marked = self._anywhere(torch.cat(flat).abs())
        sizes = [weight.numel() for weight in weights]
        for w, into, mark in zip(weights, kept, marked.split(sizes), strict=True):
            into.copy_(torch.where(mark.view(w.shape), w, 0))

    def _near(self, parts: Sequence["_Part"]) -> bool:
        """Keep with the help of the last threshold; `False` if it has moved too far."""
        return any(self._within(parts, min(0.5, factor * self.width)) for factor in (1, 8))

    def _within(self, parts: Sequence["_Part"], width: float) -> bool:
        """Keep if the threshold is in a band of this width around where it is expected."""
        assert self.threshold is not None
        high = self.threshold * self._pace * (1 + width)
        low = self.threshold * self._pace * (1 - width)
        numbers, bands = zip(*(part.split(high, low) for part in parts), strict=True)
        number = float(torch.stack(numbers).sum())
        values = torch.cat([part.kept[band] for part, band in zip(parts, bands, strict=True)]).abs()
        if not math.isfinite(number) or bool(values.isnan().any()):
            return False
        missing = self.k - (int(number) - len(values))
        if not 1 <= missing <= len(values):
            return False
        order = self._in_logical_order(parts, bands)
        ranked = values[order].sort(descending=True, stable=True)
        self._remember(float(ranked.values[missing - 1]))
        dropped = torch.ones_like(values, dtype=torch.bool)
        dropped[order[ranked.indices[:missing]]] = False
        sizes = [len(band) for band in bands]
        for part, band, drop in zip(parts, bands, dropped.split(sizes), strict=True):
            part.kept[band[drop]] = 0
        return True

    @staticmethod
    def _in_logical_order(parts: Sequence["_Part"], bands: Sequence[Tensor]) -> Tensor:
        """How to sort the entries of all bands by their index."""
        if not any(part.strides for part in parts):
            return torch.arange(sum(map(len, bands)), device=bands[0].device)
        offset, index = 0, []
        for part, band in zip(parts, bands, strict=True):
            index.append(offset + part.logical(band))
            offset += len(part.kept)
        return torch.cat(index).argsort()

    def _anywhere(self, magnitudes: Tensor) -> Tensor:
        """Mark without knowing anything."""
        if self.k == 0:
            return torch.zeros_like(magnitudes, dtype=torch.bool)
        usable = magnitudes.nan_to_num(nan=-1.0)
        if self.k > len(usable):
            raise ValueError(f"k = {self.k} weights were asked for, but there are {len(usable)}.")
        threshold = usable.topk(self.k, sorted=False).values.min()
        if threshold < 0:
            raise ValueError(f"fewer than k = {self.k} weights are numbers; has the loss diverged?")
        marked = usable > threshold
        missing = self.k - int(torch.count_nonzero(marked))
        band = (usable == threshold).nonzero().flatten()
        marked[band[:missing]] = True
        self._remember(float(threshold))
        return marked

    def _remember(self, threshold: float) -> None:
        if self.threshold is not None:
            moved = threshold / self.threshold
            missed = abs(moved / self._pace - 1)
            self.width = min(0.5, max(5 * missed, 0.7 * self.width, 1e-4))
            self._pace = min(max(moved, 0.8), 1.25)
        self.threshold = threshold if _SMALLEST < threshold < math.inf else None


class _Part:
    """One tensor in the order of its memory, and where its result is written.

    Args:
        weights: `[n]`.
        kept: `[n]` the result.
        never: `[n]` entries that are not kept, or `None`.
        shape: lengths of the axes in the order of memory.
        strides: how far the index moves along each of these axes; none if it is that of memory.
    """

    def __init__(
        self,
        weights: Tensor,
        kept: Tensor,
        never: Tensor | None,
        shape: Sequence[int] = (),
        strides: Sequence[int] = (),
    ) -> None:
        self.weights = weights
        self.kept = kept
        self.never = never
        self.shape = tuple(shape)
        self.strides = tuple(strides)

    def split(self, high: float, low: float) -> tuple[Tensor, Tensor]:
        """Keep all above `low`; how many they are, and where those are that are below `high`.

        Shrinking is what a CPU does fastest: numbers in, numbers out, no branches and no booleans.
        """
        count = max(1, len(self.weights))
        size = min(_CHUNK, count) if self.weights.device.type == "cpu" else count
        masks = repeat(None) if self.never is None else self.never.split(size)
        scratch = self.weights.new_empty(size)
        numbers, norms = [], []
        for weights, kept, never in zip(
            self.weights.split(size), self.kept.split(size), masks, strict=False
        ):
            torch.hardshrink(weights, low, out=kept)
            if never is not None:
                kept.masked_fill_(never, 0)
            other = scratch[: len(kept)]
            numbers.append(_number(kept, other))
            norms += _norms_of_rows(_only_below(high, kept, other))
        rows = torch.cat(norms).nonzero().flatten()
        return torch.stack(numbers).sum(dtype=torch.float64), self._inside(rows, high)

    def _inside(self, rows: Tensor, high: float) -> Tensor:
        """Where in some rows of what is kept the values are below a bound."""
        count = len(self.kept)
        rest = count % _ROW
        last = count // _ROW  # a row that is not whole, if there is a rest
        whole = rows[rows < last]
        values = self.kept[: count - rest].view(-1, _ROW)[whole]
        row, column = _only_below(high, values, values).nonzero(as_tuple=True)
        index = whole[row] * _ROW + column
        if not rest or len(whole) == len(rows):
            return index
        tail = self.kept[count - rest :].clone()
        tail = _only_below(high, tail, tail).nonzero().flatten()
        return torch.cat([index, tail + (count - rest)])

    def logical(self, index: Tensor) -> Tensor:
        """From places in memory to indices."""
        if not self.strides:
            return index
        axes = torch.unravel_index(index, self.shape)
        terms = [axis * stride for axis, stride in zip(axes, self.strides, strict=True)]
        return torch.stack(terms).sum(0)


def _in_order_of_memory(weight: Tensor, kept: Tensor, never: Tensor | None) -> _Part | None:
    """A tensor without gaps as it lies in memory; `None` for one with gaps."""
    steps = weight.stride()
    axes = sorted(range(weight.dim()), key=lambda axis: -steps[axis])
    ordered = [tensor.detach().permute(axes) for tensor in (weight, kept)]
    if not all(tensor.is_contiguous() for tensor in ordered):
        return None
    flat, into = (tensor.view(-1) for tensor in ordered)
    mask = None if never is None else never.permute(axes).reshape(-1)
    if weight.is_contiguous():
        return _Part(flat, into, mask)
    lengths = [1, *weight.shape[:0:-1]]
    strides = torch.tensor(lengths).cumprod(0).flip(0).tolist()
    return _Part(flat, into, mask, ordered[0].shape, [strides[axis] for axis in axes])


def _only_below(high: float, values: Tensor, into: Tensor) -> Tensor:
    """Values whose magnitude is below a bound, and zeros elsewhere."""
    torch.ops.aten.hardtanh_backward(values, values, -high, high, grad_input=into)
    return into


def _number(values: Tensor, scratch: Tensor) -> Tensor:
    """How many of a chunk's values are not zero; NaN if one is NaN."""
    if values.dtype not in (torch.float32, torch.float64) or values.device.type != "cpu":
        return values.count_nonzero()
    signs = torch.sign(values, out=scratch)
    return signs.dot(signs)  # exact: a sum of ones, fewer than 2 ** 24


def _norms_of_rows(values: Tensor) -> list[Tensor]:
    """Zero for rows of zeros; the last row may be shorter."""
    whole = len(values) // _ROW * _ROW
    norms = [torch.linalg.vector_norm(values[:whole].view(-1, _ROW), dim=1)]
    if whole < len(values):
        norms.append(torch.linalg.vector_norm(values[whole:]).view(1))
    return norms
