"""Separate branches of a compact network on a CPU, from one shared state to the next, in C.

Between modules whose branches stay separate, the state has one stream for each branch. torch's
operators pass over all streams for the expansion, the sums, the ReLU and the reduction of a module.
`branch_chain.c` does all four for a few positions before the next ones.
"""

import ctypes
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from wiring_lightning.functional import c_library
from wiring_lightning.nn.branches import Branches
from wiring_lightning.nn.selection import Selection

_SOURCE = Path(__file__).with_suffix(".c")
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
    first, last = blocks[0], blocks[-1]
    weights = [*first.spatial_weights()]
    for block, following in pairwise(blocks):
        weights += [*block.expansion_weights(), *following.reduction_weights()]
        weights += [*following.projection_weights(), *following.spatial_weights()]
    weights += last.merged_weights()
    sizes = [
        number
        for block in blocks
        for number in (block.branches, block.width, block.out_channels, block.stride)
    ]
    sums = [number for selection in selections for number in selection.sums]
    factors = [first.identity_scale]
    for selection, block in zip(selections, blocks[1:], strict=True):
        factors += [*selection.factors, block.identity_scale]
    narrow, shared = first.reduced(state.squeeze(1)), first.identity(state).squeeze(1)
    merged: Tensor = torch.ops.wiring_lightning.branch_chain(
        narrow, shared, weights, sizes, sums, factors
    )
    return merged.unsqueeze(1)


# One operator of torch, so that it can be compiled, and profilers and counters see it.
torch.library.define(
    "wiring_lightning::branch_chain",
    "(Tensor narrow, Tensor shared, Tensor[] weights, int[] sizes, int[] sums, float[] factors) "
    "-> Tensor",
)


@torch.library.impl("wiring_lightning::branch_chain", "cpu")
def _run_chain(
    narrow: Tensor,
    shared: Tensor,
    weights: Sequence[Tensor],
    sizes: Sequence[int],
    sums: Sequence[int],
    factors: Sequence[float],
) -> Tensor:
    """All that lies between two shared states.

    Args:
        narrow: `[batch, branches * width, height, width]`, what the first module's 3 x 3
            convolutions read.
        shared: `[batch, channels, height, width]`, the stream of all branches of the first module.
        weights: of the first module, and of each connection, as `branch_chain.c` lists them; one
            that is not there is empty.
        sizes: branches, width, channels and stride of each module.
        sums: of each connection, as `Selection` has them.
        factors: for each module the factor of its streams, and those of the terms of its sums.

    Returns:
        The sum over the last module's branches, `[batch, channels, height, width]`.
    """
    library = c_library(_SOURCE)
    assert library is not None
    output = _empty_output(narrow, shared, weights, sizes, sums, factors)
    weights = [weight.to(narrow.dtype).contiguous() for weight in weights]
    fits = narrow.shape[1] == sizes[0] * sizes[1] and shared.shape[1] == sizes[2]
    if not fits or [weight.numel() for weight in weights] != _numbers_of_weights(weights, sizes):
        raise ValueError("The layers of a module with branches do not have its number of channels.")
    arguments = (
        ctypes.c_long(len(sizes) // 4),
        *map(ctypes.c_long, narrow.shape[2:]),
        (ctypes.c_long * len(sizes))(*sizes),
        (ctypes.c_long * len(sums))(*sums),
        (ctypes.c_float * len(factors))(*factors),
        (ctypes.c_void_p * len(weights))(*(w.data_ptr() if w.numel() else None for w in weights)),
    )

    def run(part: Sequence[Tensor]) -> int:
        pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in part)
        failed: int = library.branch_chain(ctypes.c_long(len(part[0])), *arguments, *pointers)
        return failed

    # Each thread takes some of the images.
    size = max(1, -(-len(narrow) // torch.get_num_threads()))
    tensors = narrow.contiguous(), shared.contiguous(), output
    parts = list(zip(*(tensor.split(size) for tensor in tensors), strict=True))
    if len(parts) == 1:
        failed = run(parts[0]) != 0
    else:
        with ThreadPoolExecutor(len(parts)) as pool:
            failed = any(pool.map(run, parts))
    if failed:
        raise MemoryError("The branches of a compact network do not fit into the memory.")
    return output


def _numbers_of_weights(weights: Sequence[Tensor], sizes: Sequence[int]) -> list[int]:
    """How many numbers each weight has, if it fits the sizes: the C code reads all of them."""
    numbers: list[int] = []
    before = 0  # channels
    for at in range(0, len(sizes), 4):
        branches, width, channels, _stride = sizes[at : at + 4]
        inner = branches * width
        if at:
            given = weights[len(numbers) + 2].numel()  # of the projection, which may be empty
            projection = [before * channels, channels] if given else [0, 0]
            numbers += [inner * before, inner, *projection]
        numbers += [inner * width * 9, inner]
        last = at + 4 == len(sizes)
        numbers += [inner * channels, channels if last else branches * channels]
        before = channels
    return numbers


@torch.library.register_fake("wiring_lightning::branch_chain")  # type: ignore[untyped-decorator]
def _empty_output(
    narrow: Tensor, _shared: Tensor, _weights: Sequence[Tensor], sizes: Sequence[int], *_: Any
) -> Tensor:
    """A tensor for the result."""
    sides = list(narrow.shape[2:])
    for stride in sizes[3::4]:
        sides = [(side - 1) // stride + 1 for side in sides]
    return narrow.new_empty(len(narrow), sizes[-2], *sides)


@register_flop_formula(torch.ops.wiring_lightning.branch_chain)
def _count_flops(
    narrow: torch.Size,
    _shared: torch.Size,
    weights: Sequence[torch.Size],
    sizes: Sequence[int],
    sums: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Two for each multiply-add of the convolutions, as torch counts its own."""
    images, _channels, *sides = narrow
    spatial, *others = [shape.numel() for shape in weights[::2]]  # the others are biases
    positions = []
    for stride in sizes[3::4]:
        sides = [(side - 1) // stride + 1 for side in sides]
        positions.append(math.prod(sides))
    total, at = spatial * positions[0] + others[-1] * positions[-1], 0
    for index, here, after in zip(range(0, len(others), 4), positions, positions[1:], strict=False):
        expand, reduce, project, spatial = others[index : index + 4]
        streams = sums[at]
        total += (expand + reduce) * here + (project * streams + spatial) * after
        for _sum in range(streams):
            at += 1 + sums[at + 1]
        at += 2 + sums[at + 1]
    return 2 * images * total
