"""Which nodes are on an active path from the input to the output."""

from collections.abc import Sequence

import numpy
import torch
from torch import Tensor


def reach(marked: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Mark every node that can be reached from a marked one; works in place.

    Args:
        marked: `[nodes]` bool, changed in place.
        source: `[edges]` where each edge comes from.
        target: `[edges]` where it leads to.

    Example:
        >>> marked = torch.tensor([True, False, False])
        >>> reach(marked, source=torch.tensor([0]), target=torch.tensor([1]))
        tensor([ True,  True, False])
    """
    while True:
        news = target[marked[source] & ~marked[target]]
        if len(news) == 0:
            return marked
        marked[news] = True


def live_in_one(nodes: int, source: Tensor, target: Tensor, active: Tensor) -> Tensor:
    """`[nodes]` live nodes of one architecture, from its active edges `[1, edges]`.

    It is fast for one graph with many edges, `live_in_many` for many samples of a small graph.
    """
    source, target = source[active[0]], target[active[0]]
    ends = torch.zeros(2, nodes, dtype=torch.bool, device="cpu")
    ends[0, 0] = ends[1, -1] = True
    return reach(ends[0], source, target) & reach(ends[1], target, source)


def live_in_many(nodes: int, source: Tensor, target: Tensor, active: Tensor) -> Tensor:
    """`[samples, nodes]` live nodes of each sample, from active edges `[samples, edges]`."""
    samples, last, packed = len(active), nodes - 1, _pack(active)
    everyone, rest = (1 << samples) - 1, [0] * last
    reached = _spread([everyone, *rest], source, target, packed)
    # The same from the output backward: nodes are numbered from the end, and edges turned around.
    needed = _spread([everyone, *rest], last - target, last - source, packed)[::-1]
    live = [before & behind for before, behind in zip(reached, needed, strict=True)]
    return _unpack(live, samples)


def _spread(marked: list[int], source: Tensor, target: Tensor, active: Sequence[int]) -> list[int]:
    """As `reach`, for all samples of a batch at once.

    A mark of a node is an integer whose bit b says whether sample b reaches it; the integer of an
    edge says in which samples it is active. One pass over the edges, sorted by their source, is
    enough without cycles; the second one finds nothing new.
    """
    order = source.argsort()
    edges = [active[edge] for edge in order.tolist()]
    steps = list(zip(source[order].tolist(), target[order].tolist(), edges, strict=True))
    found = True
    while found:
        found = False
        for start, end, edge in steps:
            before = marked[end]
            after = before | (marked[start] & edge)
            if after != before:
                marked[end] = after
                found = True
    return marked


def _pack(mask: Tensor) -> list[int]:
    """`[samples, n]` bool as n integers with one bit for each sample."""
    packed = numpy.packbits(mask.T.numpy(), axis=1, bitorder="little")
    width, data = packed.shape[1], packed.tobytes()
    columns = (data[width * column : width * (column + 1)] for column in range(len(packed)))
    return [int.from_bytes(column, "little") for column in columns]


def _unpack(columns: Sequence[int], samples: int) -> Tensor:
    """The reverse of `_pack`."""
    width = (samples + 7) // 8
    data = b"".join(column.to_bytes(width, "little") for column in columns)
    packed = numpy.frombuffer(data, numpy.uint8).reshape(len(columns), width)
    bits = numpy.unpackbits(packed, axis=1, count=samples, bitorder="little")
    return torch.from_numpy(bits).bool().T.contiguous()
