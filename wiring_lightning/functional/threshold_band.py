"""Keeping the largest entries of many tensors when it is known about where each threshold is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import torch
from torch import Tensor
from torch.nn import functional

# Entries that are worked on together on a CPU: what is computed from them stays in the cache.
_CHUNK = 2**17
_LONGEST_ROW = 128
# Rows that are shorter are prepared for one search only: the norms of many short rows take up as
# much memory as the weights.
_SHORTEST_KEPT_ROW = 16
# Rows that are summed up together: their number of entries is exact in float32.
_BLOCK = 256
# By how much the sum of a row's squares may miss a whole number and still counts as one, and by how
# much, relative to it, an entry that was counted as a whole one may be smaller: half as much, and
# half of what rounding in a row can do.
_TOLERANCE = 1e-5
_MARGIN = 4e-5


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
        self.size = len(weights)

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

    def logical(self, index: Tensor) -> Tensor:
        """From places in memory to indices."""
        if not self.strides:
            return index
        axes = torch.unravel_index(index, self.shape)
        terms = [axis * stride for axis, stride in zip(axes, self.strides, strict=True)]
        return torch.stack(terms).sum(0)


@dataclass(frozen=True)
class Band:
    """Where the threshold between the k largest entries of a group and the others is expected.

    Args:
        k: number of entries that are kept.
        low: what is not larger is out.
        high: what is not smaller is in; larger than `low`.
    """

    k: int
    low: float
    high: float

    @property
    def row(self) -> int:
        """How many entries are looked at as one.

        So few that all of them together cannot miss a whole entry: the sum of their squares then
        says how many there are, and whether one of them lies between `low` and `high`. And so few
        that most rows have none there, for those are looked at entry by entry.
        """
        width = (self.high - self.low) / (self.high + self.low)
        missed = 1 - (self.low / self.high) ** 2
        longest = min(_LONGEST_ROW, 0.9 / missed, 2.5 / math.sqrt(width))
        return 2 ** int(math.log2(max(1, longest)))


class BandSearch:
    """Writes the k largest entries of every group of tensors, and zeros elsewhere.

    Entries above a group's band are in, entries below are out, and only the few inside are ranked.
    What can be done for all groups at once is, because many small calls cost more than one large
    one, and what follows from where the tensors lie is prepared once for many searches.

    Args:
        groups: tensors of one dtype, on one device; those of a group compete with each other. Of
            equal magnitudes the one with the lower index wins.
    """

    def __init__(self, groups: Sequence[Sequence[Part]]) -> None:
        self._parts = [part for group in groups for part in group]
        self._sizes = [len(group) for group in groups]
        weights = self._parts[0].weights
        self._group = torch.arange(len(groups), device=weights.device).repeat_interleave(
            torch.tensor(self._sizes, device=weights.device)
        )
        offsets = [accumulate((part.size for part in group), initial=0) for group in groups]
        firsts = [list(offset)[:-1] for offset in offsets]
        self._first = torch.tensor(list(chain(*firsts)), device=weights.device)
        self._rows: dict[tuple[int, int], _Rows] = {}
        longest = max(part.size for part in self._parts)
        on_cpu = weights.device.type == "cpu"
        self._scratch = weights.new_empty(min(_CHUNK, longest) if on_cpu else longest)

    def keep(self, bands: Sequence[Band]) -> list[float | None]:
        """Write what the bands of this moment say.

        Args:
            bands: one for every group.

        Returns:
            For every group the magnitude of the smallest entry that it keeps; `None` if that is not
            inside its band, and then what was written is of no use.
        """
        owners = [band for band, size in zip(bands, self._sizes, strict=True) for _ in range(size)]
        parts = [self._in_rows(index, band.row) for index, band in enumerate(owners)]
        near = _near(parts, owners)
        levels = self._levels(near, [band.k for band in bands])
        self._drop(near, ~self._staying(near, levels))
        return [
            # What was taken for as large as `high` must surely be above the threshold.
            smallest if 0 < smallest < band.high * (1 - _MARGIN) else None
            for band, smallest in zip(bands, levels.smallest.tolist(), strict=True)
        ]

    def _in_rows(self, index: int, length: int) -> "_Rows":
        rows = self._rows.get((index, length))
        if rows is None:
            rows = _Rows(self._parts[index], length, self._scratch)
            if length >= _SHORTEST_KEPT_ROW:
                self._rows[index, length] = rows
        return rows

    def _levels(self, near: "_Near", numbers: Sequence[int]) -> "_Levels":
        """Where the thresholds are."""
        known = torch.stack([near.sure, near.owner.bincount(minlength=len(self._parts)).double()])
        totals = known.new_zeros(2, len(numbers)).index_add_(1, self._group, known)
        sure, counts = totals.tolist()
        counts = [int(count) for count in counts]
        missing = [
            0 if math.isnan(above) else k - int(above)
            for k, above in zip(numbers, sure, strict=True)
        ]
        none = near.magnitudes.new_zeros(())
        smallest = [
            piece.topk(rank, sorted=False).values.amin() if 1 <= rank <= count else none
            for piece, count, rank in zip(
                near.magnitudes.split(counts), counts, missing, strict=True
            )
        ]
        return _Levels(torch.stack(smallest), torch.tensor(missing, device=none.device))

    def _staying(self, near: "_Near", levels: "_Levels") -> Tensor:
        """Mark the entries inside the bands that are kept: of equal ones those of lowest index."""
        group = self._group[near.owner]
        level = levels.smallest[group]
        staying = near.magnitudes > level
        room = levels.missing - group[staying].bincount(minlength=len(levels.missing))
        equal = (near.magnitudes == level).nonzero().flatten()
        equal = equal[self._index(near, equal).argsort()]
        order = group[equal].argsort(stable=True)
        equal = equal[order]
        group = group[equal]
        starts = functional.pad(group.bincount(minlength=len(room)).cumsum(0), (1, 0))
        rank = torch.arange(len(equal), device=equal.device) - starts[group]
        return staying.index_fill_(0, equal[rank < room[group]], True)

    def _index(self, near: "_Near", entries: Tensor) -> Tensor:
        """Of some entries the indices, counted through all parts of their group."""
        owner, index = near.owner[entries], near.places[entries]
        for number, part in enumerate(self._parts):
            if part.strides:
                mine = owner == number
                index[mine] = part.logical(index[mine])
        return index + self._first[owner]

    def _drop(self, near: "_Near", dropped: Tensor) -> None:
        """Write zeros over entries inside the bands."""
        counts = near.owner[dropped].bincount(minlength=len(self._parts)).tolist()
        for part, zeros in zip(self._parts, near.places[dropped].split(counts), strict=True):
            part.kept.index_fill_(0, zeros, 0)


class _Rows:
    """A part cut into rows, and into chunks that the cache holds.

    Args:
        part: the part.
        length: entries of a row. What is left at the end is a shorter row.
        scratch: as much memory as one chunk needs.

    Attributes:
        length: entries of a row.
        count: how many rows there are, the shorter one among them.
        whole: `[rows, length]` what is kept, but for the shorter row.
        shorter: entries of the shorter row, or 0.
        norms: `[blocks, _BLOCK]` of every row the norm of `min(|kept|, high)`; zeros at the end.
    """

    def __init__(self, part: Part, length: int, scratch: Tensor) -> None:
        self.length = length
        whole, self.shorter = divmod(part.size, length)
        self.count = whole + (self.shorter > 0)
        self.whole = part.kept[: whole * length].view(whole, length)
        self._rest = part.kept[whole * length :]
        dtype = torch.promote_types(part.kept.dtype, torch.float32)
        self.norms = part.kept.new_zeros(-(-self.count // _BLOCK), _BLOCK, dtype=dtype)
        self._last = self.norms.view(-1)[whole : self.count]
        self._chunks = []
        for start in range(0, part.size, max(1, len(scratch))):
            chunk = slice(start, start + len(scratch))
            kept = part.kept[chunk]
            never = None if part.never is None else part.never[chunk]
            limited = scratch[: len(kept)]
            rows = limited[: len(kept) // length * length].view(-1, length)
            norms = self.norms.view(-1)[start // length :][: len(rows)]
            self._chunks.append((part.weights[chunk], kept, never, limited, rows, norms))

    def shrink(self, low: float, high: float) -> None:
        """Keep all above `low`, and write the norms.

        Three passes over what the cache holds, each one of the fastest there are.
        """
        dtype = self.norms.dtype
        for weights, kept, never, limited, rows, norms in self._chunks:
            torch.hardshrink(weights, low, out=kept)
            if never is not None:
                kept.masked_fill_(never, 0)
            torch.clamp(kept, -high, high, out=limited)
            torch.linalg.vector_norm(rows, dim=1, dtype=dtype, out=norms)
        if self.shorter:
            limited = self._rest.clamp(-high, high).view(1, -1)
            torch.linalg.vector_norm(limited, dim=1, dtype=dtype, out=self._last)

    def inside(self, rows: Tensor, high: float, values: Tensor) -> None:
        """Write the entries of some rows; zeros in place of those from `high`.

        Args:
            rows: which, in ascending order; the shorter one is always among them.
            high: the upper end of the band.
            values: `[size_of(number of rows)]` where they are written.
        """
        whole = values
        if self.shorter:
            values[-self.shorter :] = self._rest
            rows, whole = rows[:-1], values[: -self.shorter]
        torch.index_select(self.whole, 0, rows, out=whole.view(-1, self.length))
        # The gradient of a clamp is zero where it clamps: one pass for two comparisons.
        torch.ops.aten.hardtanh_backward.grad_input(values, values, -high, high, grad_input=values)

    def size_of(self, rows: int) -> int:
        """How many entries some rows have, the shorter one among them."""
        return rows * self.length - (self.length - self.shorter if self.shorter else 0)


@dataclass(frozen=True)
class _Near:
    """What is known once every part has been looked at.

    Args:
        sure: `[parts]` how many entries of each part are as large as its band's `high`.
        owner: `[n]` the parts of the entries inside the bands, in ascending order.
        places: `[n]` where these entries lie in the memory of their part.
        magnitudes: `[n]` how large they are.
    """

    sure: Tensor
    owner: Tensor
    places: Tensor
    magnitudes: Tensor


@dataclass(frozen=True)
class _Levels:
    """The thresholds of all groups.

    Args:
        smallest: `[groups]` the magnitude of the smallest entry that is kept, or 0.
        missing: `[groups]` how many entries inside the band are kept.
    """

    smallest: Tensor
    missing: Tensor


def _near(parts: Sequence[_Rows], owners: Sequence[Band]) -> _Near:
    """Keep all above `low`, and find what lies inside the bands."""
    for part, band in zip(parts, owners, strict=True):
        part.shrink(band.low, band.high)
    blocks = [len(part.norms) for part in parts]
    norms = torch.cat([part.norms for part in parts])
    block_owner = torch.arange(len(parts), device=norms.device).repeat_interleave(
        torch.tensor(blocks, device=norms.device), output_size=len(norms)
    )
    highs = norms.new_tensor([band.high for band in owners])
    squares = norms.div_(highs[block_owner].unsqueeze(1)).square_().view(-1)
    # A whole number ends up between 0 and twice the tolerance above itself.
    whole = squares.add_(_TOLERANCE).floor()
    missed = squares.sub_(whole)
    starts = _starts([_BLOCK * count for count in blocks], norms.device)
    rows, own, counts = _unclear_rows(missed > 2 * _TOLERANCE, parts, starts)
    found, entries, magnitudes = _inside(parts, owners, own, counts.tolist())

    owner = torch.bucketize(found, entries[1:], right=True)
    offset = found - entries[owner]
    length = found.new_tensor([part.length for part in parts])[owner]
    row = functional.pad(counts.cumsum(0), (1, 0))[owner] + offset // length
    places = own[row] * length + offset % length

    # Without what is inside its band, the sum of these rows is whole, too.
    inside = torch.zeros_like(rows, dtype=squares.dtype)
    inside.index_add_(0, row, (magnitudes / highs[owner]).square_())
    rest = (whole[rows] + missed[rows] - _TOLERANCE - inside).round_()
    sums = whole.index_copy_(0, rows, rest).view(-1, _BLOCK).sum(1).double()
    sure = sums.new_zeros(len(parts)).index_add_(0, block_owner, sums)
    return _Near(sure, owner, places, magnitudes)


def _unclear_rows(
    unclear: Tensor, parts: Sequence[_Rows], starts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows to look at entry by entry, those that are shorter among them.

    Args:
        unclear: `[rows]` marks them, part after part; is changed.
        parts: the parts.
        starts: `[parts + 1]` where the rows of each part start.

    Returns:
        Which of all rows, which of the rows of their part, and `[parts]` how many.
    """
    ends = [part.count - 1 if part.shorter else -1 for part in parts]
    if max(ends) >= 0:
        last = torch.tensor(ends, device=unclear.device)
        unclear.index_fill_(0, (starts[:-1] + last)[last >= 0], True)
    rows = unclear.nonzero().flatten()
    counts = torch.searchsorted(rows, starts).diff()
    own = rows - starts[:-1].repeat_interleave(counts, output_size=len(rows))
    return rows, own, counts


def _inside(
    parts: Sequence[_Rows], owners: Sequence[Band], rows: Tensor, counts: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """What lies inside the bands in some rows, `counts` of each part.

    Returns:
        Where among the entries of all these rows, where those of each part start, and `[n]` the
        magnitudes of what was found.
    """
    sizes = [part.size_of(count) for part, count in zip(parts, counts, strict=True)]
    values = parts[0].whole.new_empty(sum(sizes))
    pieces = zip(parts, owners, rows.split(counts), values.split(sizes), strict=True)
    for part, band, some, into in pieces:
        part.inside(some, band.high, into)
    found = values.nonzero().flatten()
    return found, _starts(sizes, found.device), values[found].abs_()


def _starts(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Where pieces of these lengths start, one after another, and where the last one ends."""
    return torch.tensor(list(accumulate(lengths, initial=0)), device=device)
