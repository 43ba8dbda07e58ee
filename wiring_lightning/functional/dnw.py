"""The k largest magnitudes of many weights, exactly, without sorting them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wiring_lightning.functional.threshold_band import Band, BandSearch, Part

_SMALLEST = 1e-15  # below this threshold, squares could vanish from a norm
_NARROWEST, _WIDEST = 1e-4, 0.5  # half widths of the band around a threshold


class LargestMagnitudes:
    """Keeps the k entries of largest magnitude; remembers the threshold from call to call.

    While a network trains, the k-th largest magnitude moves little from one step to the next. So
    entries well above the last threshold are in, entries well below are out, and only the thin band
    around it is ranked. If the threshold has left a wider band, too, the call starts over with all
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
            if not JointSelection([Selection(self, [numbers], [kept])]).keep_near():
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
        JointSelection([Selection(self, weights, kept, never)]).keep()

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
            self._pace = min(max(moved**0.9, 0.8), 1.25)  # a little less than the last step
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

    @cached_property
    def parts(self) -> list[Part]:
        """The tensors as they lie in memory; none if one of them lies oddly."""
        columns = zip(self.weights, self.kept, self.never, strict=True)
        parts = [part for column in columns if (part := Part.of(*column)) is not None]
        return parts if len(parts) == len(self.weights) else []

    def band(self, widening: float) -> Band:
        """Where the threshold is expected."""
        low, high = self.largest._band(widening)
        if (dtype := self.weights[0].dtype).itemsize < 4:
            # So coarse that a bound has to be one of its numbers, and the threshold between them.
            coarse = torch.finfo(dtype).eps
            bounds = [low * (1 - coarse), high * (1 + coarse)]
            low, high = torch.tensor(bounds, dtype=dtype).tolist()
        return Band(self.largest.k, low, high)

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


class JointSelection:
    """Lets many selections keep their k largest entries, with few, large operations.

    Make it once for as long as the tensors stay where they are, and call it after every change.

    Args:
        selections: any number.

    Example:
        >>> first, second = torch.tensor([0.1, -0.9, 0.3]), torch.tensor([0.2, 0.4])
        >>> kept = [torch.empty(3), torch.empty(2)]
        >>> joint = JointSelection([
        ...     Selection(LargestMagnitudes(2), [first], kept[:1]),
        ...     Selection(LargestMagnitudes(1), [second], kept[1:]),
        ... ])
        >>> joint.keep()
        >>> [[round(value, 1) for value in each.tolist()] for each in kept]
        [[0.0, -0.9, 0.3], [0.0, 0.4]]
    """

    def __init__(self, selections: Sequence[Selection]) -> None:
        self._selections = list(selections)
        self._searches: dict[tuple[Selection, ...], BandSearch] = {}

    @torch.no_grad()
    def keep(self) -> None:
        """Write the largest entries of every selection, and zeros elsewhere.

        Raises:
            ValueError: if a selection has fewer entries than it should keep.
        """
        for selection in self.keep_near():
            selection.start_over()

    def keep_near(self) -> list[Selection]:
        """Keep near the last thresholds; the selections whose threshold has moved too far."""
        left = self._selections
        for widening in (1.0, 8.0):
            done = set()
            for alike in _alike(left):
                # Only the first search is the same one again and again.
                search = self._prepared(alike) if widening == 1 else _search(alike)
                thresholds = search.keep([selection.band(widening) for selection in alike])
                for selection, threshold in zip(alike, thresholds, strict=True):
                    if threshold is not None:
                        selection.largest._remember(threshold)
                        done.add(selection)
            left = [selection for selection in left if selection not in done]
        return left

    def _prepared(self, selections: tuple[Selection, ...]) -> BandSearch:
        if selections not in self._searches:
            self._searches[selections] = _search(selections)
        return self._searches[selections]


def _search(selections: Sequence[Selection]) -> BandSearch:
    return BandSearch([selection.parts for selection in selections])


def _alike(selections: Sequence[Selection]) -> list[tuple[Selection, ...]]:
    """Those that know a threshold, by type and device."""
    alike: dict[tuple[torch.dtype, torch.device], list[Selection]] = {}
    for selection in selections:
        if selection.largest.threshold is not None and selection.parts:
            weights = selection.parts[0].weights
            alike.setdefault((weights.dtype, weights.device), []).append(selection)
    return [tuple(each) for each in alike.values()]
