"""Separate branches of a compact network on a CPU, from one shared state to the next, in C.

Between modules whose branches stay separate, the state has one stream for each branch. torch's
operators pass over all streams for the expansion, the sums, the ReLU and the reduction of a module.
`branch_chain.c` does all four for a few positions before the next ones.
"""

import ctypes
import math
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from wiring_lightning.functional import c_library
from wiring_lightning.nn.branches import Branches
from wiring_lightning.nn.selection import Selection

_SOURCE = Path(__file__).with_suffix(".c")
_DTYPE = attrgetter("dtype")
_CHANNELS = 8  # the streams' channels are a multiple of it, `BLOCK` in the C code


def can_chain(blocks: Sequence[Branches]) -> bool:
    """Whether modules in a row can be computed by `branch_chain`."""
    return c_library(_SOURCE) is not None and all(
        block.out_channels % _CHANNELS == 0
        and block.has_plain_layers
        and block.spatial.weight.dtype == torch.float32
        for block in blocks
    )


def branch_chain(
    state: Tensor, blocks: Sequence[Branches], selections: Sequence[Selection]
) -> Tensor:
    """Two modules or more: the first reads one state, and the last merges its branches.

    Args:
        state: `[batch, 1, channels, height, width]`.
        blocks: the modules, in evaluation mode, for which `can_chain` is true.
        selections: the connection from each module to the next.

    Returns:
        The sum over the branches of the last module, `[batch, 1, channels, height, width]`.
    """
    weights: list[Tensor] = []
    for block in blocks:
        weights += [*block.reduction_weights(), *block.projection_weights()]
        weights += block.spatial_weights()
        weights += block.merged_weights() if block is blocks[-1] else block.expansion_weights()
    sizes = [
        number
        for block in blocks
        for number in (block.branches, block.width, block.out_channels, block.stride)
    ]
    sums = [number for selection in selections for number in selection.sums]
    factors = [blocks[0].identity_scale]
    for selection, block in zip(selections, blocks[1:], strict=True):
        factors += [*selection.factors, block.identity_scale]
    merged: Tensor = torch.ops.wiring_lightning.branch_chain(
        state.squeeze(1), weights, sizes, sums, factors
    )
    return merged.unsqueeze(1)


# One operator of torch, so that it can be compiled, and profilers and counters see it.
torch.library.define(
    "wiring_lightning::branch_chain",
    "(Tensor state, Tensor[] weights, int[] sizes, int[] sums, float[] factors) -> Tensor",
)


@torch.library.impl("wiring_lightning::branch_chain", "cpu")
def _run_chain(
    state: Tensor,
    weights: Sequence[Tensor],
    sizes: Sequence[int],
    sums: Sequence[int],
    factors: Sequence[float],
) -> Tensor:
    """All that lies between two shared states.

    Args:
        state: `[batch, channels, height, width]`, what all branches of the first module read.
        weights: of each module: reduction, projection, 3 x 3 convolution and expansion, each with
            its bias; of a projection that is not there they are empty.
        sizes: branches, width, channels and stride of each module.
        sums: of each connection, as `Selection` has them.
        factors: for each module the factor of its streams, and those of the terms of its sums.

    Returns:
        The sum over the last module's branches, `[batch, channels, height, width]`.

    Raises:
        TypeError: if the state is not in float32.
    """
    library = c_library(_SOURCE)
    assert library is not None
    if state.dtype != torch.float32:
        raise TypeError(
            f"The modules with branches compute in float32, but the layers before them give "
            f"{state.dtype}: convert what they give, or the whole network."
        )
    output = _empty_output(state, weights, sizes, sums, factors)
    weights = _as_c_reads_them(weights)
    if not _fit(state.shape[1], tuple(sizes), tuple(map(Tensor.numel, weights))):
        raise ValueError("The layers of a module with branches do not have its number of channels.")
    addresses = array("Q", map(Tensor.data_ptr, weights))  # 0 for one that is not there
    arguments = (
        ctypes.c_long(len(sizes) // 4),
        *map(ctypes.c_long, state.shape[1:]),
        *_as_arrays(tuple(sizes), tuple(sums), tuple(factors)),
        ctypes.c_void_p(addresses.buffer_info()[0]),
    )

    def run(part: Sequence[Tensor]) -> int:
        pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in part)
        failed: int = library.branch_chain(ctypes.c_long(len(part[0])), *arguments, *pointers)
        return failed

    tensors = state.contiguous(), output
    threads = min(torch.get_num_threads(), len(state))
    if threads < 2:
        failed = run(tensors) != 0
    else:  # each thread takes some of the images
        parts = zip(*(tensor.split(-(-len(state) // threads)) for tensor in tensors), strict=True)
        with ThreadPoolExecutor(threads) as pool:
            failed = any(pool.map(run, parts))
    if failed:
        raise MemoryError("The branches of a compact network do not fit into the memory.")
    return output


def _as_c_reads_them(weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """Each one's numbers one after another; asking for all of them first takes less time."""
    if all(map(Tensor.is_contiguous, weights)) and set(map(_DTYPE, weights)) == {torch.float32}:
        return weights
    return [weight.float().contiguous() for weight in weights]


@lru_cache
def _as_arrays(
    sizes: tuple[int, ...], sums: tuple[int, ...], factors: tuple[float, ...]
) -> tuple[Any, Any, Any]:
    """For C, which does not write into them; the same at every call of a network."""
    return (
        (ctypes.c_long * len(sizes))(*sizes),
        (ctypes.c_long * len(sums))(*sums),
        (ctypes.c_float * len(factors))(*factors),
    )


@lru_cache
def _fit(before: int, sizes: tuple[int, ...], given: tuple[int, ...]) -> bool:
    """Whether weights of these lengths fit the sizes: the C code reads all of each.

    Args:
        before: the channels of the state.
        sizes: of all modules.
        given: how many numbers each weight has.
    """
    fitting: list[int] = []
    for at in range(0, len(sizes), 4):
        branches, width, channels, stride = sizes[at : at + 4]
        inner = branches * width
        fitting += [inner * before, inner]
        if any(given[len(fitting) : len(fitting) + 1]):
            fitting += [before * channels, channels]
        elif (before, 1) == (channels, stride):  # no projection
            fitting += [0, 0]
        last = at + 4 == len(sizes)
        fitting += [inner * width * 9, inner]
        fitting += [inner * channels, channels if last else branches * channels]
        before = channels
    return list(given) == fitting


@torch.library.register_fake("wiring_lightning::branch_chain")  # type: ignore[untyped-decorator]
def _empty_output(
    state: Tensor, _weights: Sequence[Tensor], sizes: Sequence[int], *_: Any
) -> Tensor:
    """A tensor for the result."""
    sides = list(state.shape[2:])
    for stride in sizes[3::4]:
        sides = [(side - 1) // stride + 1 for side in sides]
    return state.new_empty(len(state), sizes[-2], *sides)


@register_flop_formula(torch.ops.wiring_lightning.branch_chain)
def _count_flops(
    state: torch.Size,
    weights: Sequence[torch.Size],
    sizes: Sequence[int],
    sums: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Two for each multiply-add of the convolutions, as torch counts its own."""
    images, _channels, *sides = state
    lengths = [shape.numel() for shape in weights[::2]]  # the others are biases
    total, streams, at = 0, 1, 0
    for index, stride in enumerate(sizes[3::4]):
        reduce, project, spatial, expand = lengths[4 * index : 4 * index + 4]
        total += reduce * math.prod(sides)
        sides = [(side - 1) // stride + 1 for side in sides]
        total += (project * streams + spatial + expand) * math.prod(sides)
        if at < len(sums):  # what the next module reads
            streams = sums[at]
            for _sum in range(streams):
                at += 1 + sums[at + 1]
            at += 2 + sums[at + 1]
    return 2 * images * total
