"""Separate branches of a compact network, computed image by image on a CPU.

Between modules whose branches stay separate, the state has one stream per branch. Four steps pass
over it: expansion, the sum of each target's sources, ReLU, and reduction. All four are applied to
one image before the next one, in memory that is still in the cache. The narrow bottlenecks between
them are convolved for several images at once, which takes less time for each.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from wiring_lightning.nn.branches import Branches
from wiring_lightning.nn.gate import Selection


def merged_chain(
    state: Tensor, blocks: Sequence[Branches], selections: Sequence[Selection]
) -> Tensor:
    """Modules in a row: the first reads one state, and the last merges its branches.

    Results between the modules are written over, so this works only without gradients.

    Args:
        state: `[batch, 1, channels, height, width]`.
        blocks: the modules.
        selections: the connection from each module to the next.

    Returns:
        The sum over the branches of the last module, `[batch, 1, channels, height, width]`.
    """
    first, last = blocks[0], blocks[-1]
    hidden = first.bottleneck(first.reduce(state.squeeze(1)))
    identity = first.identity(state).to(hidden.dtype)
    if len(blocks) == 1:
        return first.merged(hidden, identity)
    capacity = max(block.branches for block in blocks)
    images = [_with_room(image.expand(first.branches, -1, -1, -1), capacity) for image in identity]
    for block, selection, following in zip(blocks, selections, blocks[1:], strict=False):
        hidden = following.bottleneck(_connect(images, hidden, block, selection, following))
        if following.projection is not None:
            for number, image in enumerate(images):
                projected = following.identity(image[None, : following.branches]).squeeze(0)
                full = len(projected) == capacity
                images[number] = projected if full else _with_room(projected, capacity)
    summed = torch.stack([image[: last.branches].sum(0, keepdim=True) for image in images])
    return last.merged(hidden, summed)


def _with_room(branches: Tensor, capacity: int) -> Tensor:
    """A copy of what all branches of an image hold, with memory for more branches."""
    copy = branches.new_empty(capacity, *branches.shape[1:])
    copy[: len(branches)] = branches
    return copy


def _connect(
    images: list[Tensor],
    hidden: Tensor,
    block: Branches,
    selection: Selection,
    following: Branches,
) -> Tensor:
    """From the bottlenecks of one module to what the branches of the next one read.

    Args:
        images: the identities, `[capacity, channels, height, width]` for each image. They are
            replaced by the inputs of the next module's branches.
        hidden: the bottlenecks of all branches, `[batch, branches * width, height, width]`.
        block: the module.
        selection: the connection between the modules.
        following: the next module.

    Returns:
        The reductions of the next module's branches, shaped like `hidden`.
    """
    weight, expanded = block.expansion(hidden)
    reduce, narrow = following.reduce, following.reduce.matrices.to(hidden.dtype)
    shape = len(hidden), following.branches, following.width, *hidden.shape[2:]
    reduced = hidden.new_empty(shape)
    spare = torch.empty_like(images[0])
    for number, image in enumerate(images):
        outputs = image[: block.branches].flatten(2)
        part = expanded[number].flatten(2)
        torch.baddbmm(outputs, weight, part, beta=block.identity_scale, out=outputs)
        inputs = spare[: following.branches].flatten(2)
        selection.of_one(outputs.flatten(1), out=inputs.flatten(1)).relu_()
        torch.bmm(narrow, inputs, out=reduced[number].flatten(2))
        # What was read last is still in the cache, so the next image is summed into its memory.
        images[number], spare = spare, image
    if reduce.bias is not None:
        reduced += reduce.bias.view(*reduced.shape[1:3], 1, 1)
    return reduced.flatten(1, 2)
