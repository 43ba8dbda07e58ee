"""The k largest magnitudes of many weights, exactly, without sorting them."""

import math

import torch
from torch import Tensor

# Entries that are looked at together on a CPU: what is computed from them stays in the cache.
_CHUNK = 2**19


class LargestMagnitudes:
    """Marks the k entries of largest magnitude; remembers the threshold from call to call.

    While a network trains, the k-th largest magnitude moves little from one step to the next. So
    entries well above the last threshold are in, entries well below are out, and only the thin band
    around it is sorted. If the threshold has left the band, the call starts over with all entries:
    the answer is exact in any case. Of equal magnitudes the one with the lower index wins.

    Args:
        k: how many entries to mark.

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
        # Relative half width of the band; follows how far the threshold moves.
        self.width = 0.02

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
        if self.k == 0:
            return torch.zeros_like(weights, dtype=torch.bool)
        marked = None if self.threshold is None else self._near(weights)
        return self._anywhere(weights.abs()) if marked is None else marked

    def _near(self, weights: Tensor) -> Tensor | None:
        """Mark with the help of the last threshold; `None` if it has moved too far."""
        assert self.threshold is not None
        high = self.threshold * (1 + self.width)
        low = self.threshold * (1 - self.width)
        marked = torch.empty_like(weights, dtype=torch.bool)
        size = _CHUNK if weights.device.type == "cpu" else max(1, len(weights))
        missing, bands = self.k, []
        for start in range(0, len(weights), size):
            magnitudes = weights[start : start + size].abs()
            above = torch.gt(magnitudes, high, out=marked[start : start + size])
            missing -= int(torch.count_nonzero(above))
            bands.append(((magnitudes >= low) ^ above).nonzero().flatten() + start)
        band = torch.cat(bands)
        if not 1 <= missing <= len(band):
            return None
        self._mark_best(weights[band].abs(), band, missing, marked)
        return marked

    def _anywhere(self, magnitudes: Tensor) -> Tensor:
        """Mark without knowing anything."""
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

    def _mark_best(self, magnitudes: Tensor, band: Tensor, count: int, marked: Tensor) -> None:
        """Mark the `count` largest entries of the band."""
        ordered = magnitudes.sort(descending=True, stable=True)
        marked[band[ordered.indices[:count]]] = True
        self._remember(float(ordered.values[count - 1]))

    def _remember(self, threshold: float) -> None:
        if self.threshold is not None:
            moved = abs(threshold / self.threshold - 1)
            self.width = min(0.5, max(4 * moved, 0.9 * self.width, 1e-4))
        self.threshold = threshold if 0 < threshold < math.inf else None
