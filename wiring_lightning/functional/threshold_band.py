"""Keeping the largest entries of many tensors when it is known about where each threshold is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional

# Entries that are worked on together on a CPU: what is computed from them stays in the cache.
_CHUNK = 2**18
_LONGEST_ROW = 64
# By how much the square of a row's norm may miss a whole number through rounding.
_TOLERANCE = 1e-4


class Part:
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

    @classmethod
    def of(cls, weight: Tensor, kept: Tensor, never: Tensor | None) -> "Part | None":
        """A tensor as it lies in memory; `None` if it has gaps, or lies otherwise than `kept`."""
        steps = weight.stride()
        axes = sorted(range(weight.dim()), key=lambda axis: -steps[axis])
        ordered = [tensor.detach().permute(axes) for tensor in (weight, kept)]
        if not all(tensor.is_contiguous() for tensor in ordered):
            return None
        flat, into = (tensor.view(-1) for tensor in ordered)
        mask = None if never is None else never.permute(axes).reshape(-1)
        if weight.is_contiguous():
            return cls(flat, into, mask)
        lengths = [1, *weight.shape[:0:-1]]
        strides = torch.tensor(lengths).cumprod(0).flip(0).tolist()
        return cls(flat, into, mask, ordered[0].shape, [strides[axis] for axis in axes])

    def shrink(self, low: float, high: float, row: int) -> Tensor:
        """Keep all above `low`; for every whole row the sum of `min(|kept| / high, 1) ** 2`.

        Three passes over what the cache holds, each one of the fastest there are.
        """
        count = len(self.weights)
        size = min(_CHUNK, count) if self.weights.device.type == "cpu" else count
        dtype = torch.promote_types(self.weights.dtype, torch.float32)
        norms = self.weights.new_empty(count // row, dtype=dtype)
        scratch = self.weights.new_empty(size)
        for start in range(0, count, max(size, 1)):
            chunk = slice(start, start + size)
            kept = torch.hardshrink(self.weights[chunk], low, out=self.kept[chunk])
            if self.never is not None:
                kept.masked_fill_(self.never[chunk], 0)
            into = norms[start // row : (start + size) // row]
            limited = torch.clamp(kept, -high, high, out=scratch[: len(kept)])
            rows = limited[: len(into) * row].view(-1, row)
            torch.linalg.vector_norm(rows, dim=1, dtype=dtype, out=into)
        return norms.div_(high).square_()

    def gather(self, rows: Tensor, row: int) -> Tensor:
        """What is kept in some of the whole rows, and in the rest that fills no row."""
        rest = len(self.kept) % row
        whole = self.kept[: len(self.kept) - rest].view(-1, row)
        values = whole.index_select(0, rows).view(-1)
        return torch.cat([values, self.kept[-rest:]]) if rest else values

    def logical(self, index: Tensor) -> Tensor:
        """From places in memory to indices."""
        if not self.strides:
            return index
        axes = torch.unravel_index(index, self.shape)
        terms = [axis * stride for axis, stride in zip(axes, self.strides, strict=True)]
        return torch.stack(terms).sum(0)


@dataclass(eq=False)
class Group:
    """Tensors whose entries compete for k places.

    Args:
        parts: the tensors.
        k: number of places.
        low: what is not larger is out.
        high: what is not smaller is in.

    Attributes:
        row: how many entries are looked at as one: so few that all of them together cannot miss a
            whole entry. The sum of their squares then says how many there are, and whether one of
            them lies between `low` and `high`.
    """

    parts: Sequence[Part]
    k: int
    low: float
    high: float
    row: int = field(init=False)

    def __post_init__(self) -> None:
        missed = max(1e-9, 1 - (self.low / self.high) ** 2)
        self.row = min(_LONGEST_ROW, 2 ** int(math.log2(max(1, 0.9 / missed))))


def keep_within_bands(groups: Sequence[Group]) -> list[float | None]:
    """Write the k largest entries of every group, and zeros elsewhere.

    Entries above a group's band are in, entries below are out, and only the few inside are sorted.
    What can be done for all groups at once is, because many small calls cost more than one large
    one. Of equal magnitudes the one with the lower index wins.

    Args:
        groups: of one dtype, on one device.

    Returns:
        For every group the magnitude of the smallest entry that it keeps; `None` if that is not
        inside its band, and then what was written is of no use.
    """
    parts = [part for group in groups for part in group.parts]
    owners = [group for group in groups for _ in group.parts]
    sure, rows = _look_at_rows(parts, owners)
    gathered = [p.gather(r, g.row) for p, g, r in zip(parts, owners, rows, strict=True)]
    sizes = [len(values) for values in gathered]
    values = torch.cat(gathered).abs_()
    pieces = zip(values.split(sizes), owners, strict=True)
    above = torch.cat([piece >= group.high for piece, group in pieces])
    sure += torch.stack([piece.count_nonzero() for piece in above.split(sizes)])
    inside = ((values > 0) & ~above).nonzero().flatten()
    ends = torch.searchsorted(inside, _starts(sizes, inside.device))
    table = torch.stack([sure, ends.diff()], 1).tolist()
    if len(values) and values.amax().isnan():
        return [None] * len(groups)

    counts = [int(count) for _, count in table]
    places = _places(inside, sizes, parts, owners, rows)
    columns = zip(table, places.split(counts), values[inside].split(counts), strict=True)
    first, staying, thresholds = 0, [], []
    for group in groups:
        numbers, where, magnitudes = zip(*islice(columns, len(group.parts)), strict=True)
        missing = group.k - int(sum(number for number, _ in numbers))
        order, ranked = _rank(group.parts, where, magnitudes)
        possible = 1 <= missing <= len(order)
        thresholds.append(ranked[missing - 1] if possible else values.new_zeros(()))
        staying.append(order[: max(0, missing)] + first)
        first += len(order)
    _drop(torch.cat(staying), places, counts, parts)
    return [
        # What was taken for as large as `high` must surely be above the threshold.
        smallest if 0 < smallest < group.high * (1 - _TOLERANCE) else None
        for group, smallest in zip(groups, torch.stack(thresholds).tolist(), strict=True)
    ]


def _look_at_rows(
    parts: Sequence[Part], owners: Sequence[Group]
) -> tuple[Tensor, Sequence[Tensor]]:
    """Shrink; for every part how many entries are surely in, and the rows to look at closely.

    The number is that of all other rows.
    """
    squares = [p.shrink(g.low, g.high, g.row) for p, g in zip(parts, owners, strict=True)]
    lengths = [len(square) for square in squares]
    joined = torch.cat(squares)
    whole = joined.round()
    unclear = ~((joined - whole).abs_() <= _TOLERANCE)  # also what is not a number
    whole.masked_fill_(unclear, 0)
    sure = torch.stack([each.sum(dtype=torch.float64) for each in whole.split(lengths)])
    rows = unclear.nonzero().flatten()
    starts = _starts(lengths, joined.device)
    cuts = torch.searchsorted(rows, starts[1:-1]).tolist()
    pieces = zip(rows.tensor_split(cuts), starts.tolist(), strict=False)
    return sure, [piece - start for piece, start in pieces]


def _places(
    inside: Tensor,
    sizes: Sequence[int],
    parts: Sequence[Part],
    owners: Sequence[Group],
    rows: Sequence[Tensor],
) -> Tensor:
    """Where entries lie in the memory of their part, from where they lie among the gathered."""
    device = inside.device
    starts = _starts(sizes, device)
    part = torch.bucketize(inside, starts[1:], right=True)
    offset = inside - starts[part]
    # The rest of a part was gathered after its rows, as if it were its last row.
    rests = torch.tensor([len(p.kept) // g.row for p, g in zip(parts, owners, strict=True)])
    pairs = zip(rows, rests.to(device).split(1), strict=True)
    known = torch.cat([piece for pair in pairs for piece in pair])
    first = _starts([len(each) + 1 for each in rows], device)
    length = torch.tensor([group.row for group in owners], device=device)[part]
    return known[first[part] + offset // length] * length + offset % length


def _rank(
    parts: Sequence[Part], places: Sequence[Tensor], magnitudes: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """How to sort the entries of a band, the largest first, then by index; and the sorted band."""
    values = torch.cat(list(magnitudes)) if len(magnitudes) > 1 else magnitudes[0]
    if not any(part.strides for part in parts):
        ranked = values.sort(descending=True, stable=True)
        return ranked.indices, ranked.values
    order = _in_logical_order(parts, places)
    ranked = values[order].sort(descending=True, stable=True)
    return order[ranked.indices], ranked.values


def _in_logical_order(parts: Sequence[Part], places: Sequence[Tensor]) -> Tensor:
    """How to sort entries of several parts by their index."""
    offset, index = 0, []
    for part, place in zip(parts, places, strict=True):
        index.append(offset + part.logical(place))
        offset += len(part.kept)
    return torch.cat(index).argsort()


def _drop(staying: Tensor, places: Tensor, counts: Sequence[int], parts: Sequence[Part]) -> None:
    """Write zeros over all entries of the bands that do not stay.

    Args:
        staying: which of all these entries stay.
        places: where each of them is in its part.
        counts: how many of them each part has.
        parts: what is written.
    """
    dropped = torch.ones_like(places, dtype=torch.bool).index_fill_(0, staying, False)
    before = functional.pad(dropped.cumsum(0), (1, 0))
    lengths = before[_starts(counts, places.device)].diff().tolist()
    for part, zeros in zip(parts, places[dropped].split(lengths), strict=True):
        part.kept.index_fill_(0, zeros, 0)


def _starts(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Where pieces of these lengths start, one after another, and where the last one ends."""
    return torch.tensor([0, *lengths], device=device).cumsum(0)
