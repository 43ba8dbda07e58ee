"""The k largest magnitudes of many weights, exactly, without sorting them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wiring_lightning.functional.threshold_band import Group, Part, keep_within_bands

_SMALLEST = 1e-15  # below this threshold, squares could vanish from a norm
_NARROWEST, _WIDEST = 4e-4, 0.5  # half widths of the band around a threshold


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
            if not _not_within_bands([Selection(self, [numbers], [kept])]):
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
        keep_largest([Selection(self, weights, kept, never)])

    def _band(self, widening: float) -> tuple[float, float]:
        """Where the threshold is expected."""
        assert self.threshold is not None
        width = min(_WIDEST, widening * self.width)
        expected = self.threshold * self._pace
        return expected * (1 - width), expected * (1 + width)

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
            self.width = min(_WIDEST, max(5 * missed, 0.7 * self.width, _NARROWEST))
            self._pace = min(max(moved, 0.8), 1.25)
        self.threshold = threshold if _SMALLEST < threshold < math.inf else None


@dataclass(eq=False)
class Selection:
    """What is kept of several tensors whose entries compete with each other.

    Args:
        largest: how many, and where their threshold was.
        weights: tensors of any shape.
        kept: a tensor of the same shape for each, which is written.
        never: for each a mask of entries that are not kept, or `None`.
    """

    largest: LargestMagnitudes
    weights: Sequence[Tensor]
    kept: Sequence[Tensor]
    never: Sequence[Tensor | None] = ()

    def __post_init__(self) -> None:
        self.never = self.never or [None] * len(self.weights)

    def group(self, widening: float) -> Group | None:
        """For a search near the last threshold; `None` if there is none, or for odd tensors."""
        columns = zip(self.weights, self.kept, self.never, strict=True)
        parts = [part for column in columns if (part := Part.of(*column)) is not None]
        if self.largest.threshold is None or len(parts) < len(self.weights):
            return None
        low, high = self.largest._band(widening)
        if (dtype := parts[0].weights.dtype).itemsize < 4:
            # So coarse that a bound has to be one of its numbers.
            low, high = torch.tensor([low, high], dtype=dtype).tolist()
        return Group(parts, self.largest.k, low, high)

    def start_over(self) -> None:
        """Keep without knowing anything."""
        flat = [
            (w if mask is None else w.masked_fill(mask, torch.nan)).reshape(-1)
            for w, mask in zip(self.weights, self.never, strict=True)
        ]
        marked = self.largest._anywhere(torch.cat(flat).abs())
        sizes = [weight.numel() for weight in self.weights]
        for w, into, mark in zip(self.weights, self.kept, marked.split(sizes), strict=True):
            into.copy_(torch.where(mark.view(w.shape), w, 0))


@torch.no_grad()
def keep_largest(selections: Sequence[Selection]) -> None:
    """Let every selection keep its k largest entries, and write zeros elsewhere.

    The same as `LargestMagnitudes.keep` for each of them, but with fewer, larger operations.

    Args:
        selections: any number.

    Raises:
        ValueError: if a selection has fewer entries than it should keep.

    Example:
        >>> first, second = torch.tensor([0.1, -0.9, 0.3]), torch.tensor([0.2, 0.4])
        >>> kept = [torch.empty(3), torch.empty(2)]
        >>> keep_largest([
        ...     Selection(LargestMagnitudes(2), [first], kept[:1]),
        ...     Selection(LargestMagnitudes(1), [second], kept[1:]),
        ... ])
        >>> [[round(value, 1) for value in each.tolist()] for each in kept]
        [[0.0, -0.9, 0.3], [0.0, 0.4]]
    """
    for selection in _not_within_bands(selections):
        selection.start_over()


def _not_within_bands(selections: Sequence[Selection]) -> list[Selection]:
    """Keep near the last thresholds; the selections whose threshold has moved too far."""
    left = list(selections)
    for widening in (1.0, 8.0):
        alike: dict[tuple[torch.dtype, torch.device], list[tuple[Selection, Group]]] = {}
        for selection in left:
            if group := selection.group(widening):
                weights = group.parts[0].weights
                alike.setdefault((weights.dtype, weights.device), []).append((selection, group))
        done = set()
        for pairs in alike.values():
            thresholds = keep_within_bands([group for _, group in pairs])
            for (selection, _), threshold in zip(pairs, thresholds, strict=True):
                if threshold is not None:
                    selection.largest._remember(threshold)
                    done.add(selection)
        left = [selection for selection in left if selection not in done]
    return left
