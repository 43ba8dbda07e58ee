"""Separate branches of a compact network, computed image by image on a CPU if images are large.

Between modules whose branches stay separate, the state has one stream per branch. Four steps pass
over it: expansion, the sum of each target's sources, ReLU, and reduction. All four are applied to
one image before the next one, in memory that is still in the cache. The narrow bottlenecks between
them are convolved for several images at once, which takes less time for each.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from wiring_lightning.nn.branches import Branches
from wiring_lightning.nn.selection import Selection


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
    streams = _Streams(identity, _numbers(blocks, *identity.shape[-2:]))
    for block, selection, following in zip(blocks, selections, blocks[1:], strict=False):
        reduced = streams.connect(hidden, block, selection, following)
        hidden = following.bottleneck(reduced)
        if following.projection is not None:
            streams.project(following)
    return last.merged(hidden, streams.summed())


def _numbers(blocks: Sequence[Branches], height: int, width: int) -> int:
    """How many numbers the streams of one image have at most, from the first module's output on."""
    most = 0
    for block, following in pairwise(blocks):
        branches = max(block.branches, following.branches)
        most = max(most, branches * block.out_channels * height * width)
        height, width = -(-height // following.stride), -(-width // following.stride)
    return max(most, blocks[-1].branches * blocks[-1].out_channels * height * width)


class _Streams:
    """The state of a chain: for each image `[branches, channels, height, width]`.

    There is one piece of memory for each image, and a spare one. What is computed from one piece
    is written to the spare one, which was used last and is still in the cache; they change roles.

    Args:
        identity: `[batch, 1, channels, height, width]`, what all branches of the first module add.
        numbers: the length of each piece.
    """

    def __init__(self, identity: Tensor, numbers: int) -> None:
        self._pieces = list(identity.new_empty(len(identity) + 1, numbers))
        # The streams of each image, as a part of its piece: at first one that all branches share.
        self._images = list(identity)

    def connect(
        self, hidden: Tensor, block: Branches, selection: Selection, following: Branches
    ) -> Tensor:
        """From the bottlenecks of one module to what the next one's bottlenecks read.

        Args:
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
        for number, part in enumerate(expanded):
            shape = block.branches, block.out_channels, *part.shape[2:]
            outputs = self._part(number, shape).flatten(2)
            identity = self._images[number].flatten(2).expand_as(outputs)
            torch.baddbmm(identity, weight, part.flatten(2), beta=block.identity_scale, out=outputs)
            inputs = self._select(number, selection, outputs.view(shape))
            torch.bmm(narrow, inputs.flatten(2), out=reduced[number].flatten(2))
            self._images[number] = inputs
        if reduce.bias is not None:
            reduced += reduce.bias.view(*reduced.shape[1:3], 1, 1)
        return reduced.flatten(1, 2)

    def _select(self, number: int, selection: Selection, outputs: Tensor) -> Tensor:
        """The rectified sums that the next module's branches read, for one image."""
        shape = selection.targets, *outputs.shape[1:]
        if selection.in_order:
            outputs.relu_()
            inputs = self._part(number, shape)
            selection.repeat(inputs.flatten(1))
            return inputs
        inputs = self._part(-1, shape)
        selection.of_one(outputs.flatten(1), out=inputs.flatten(1)).relu_()
        self._swap(number)
        return inputs

    def project(self, block: Branches) -> None:
        """Replace the streams by a module's projections of them."""
        height, width = self._images[0].shape[-2:]
        sides = -(-height // block.stride), -(-width // block.stride)
        for number, image in enumerate(self._images):
            room = self._part(-1, (len(image), block.out_channels, *sides))
            self._images[number] = block.identity(image[None], room)[0]
            if self._images[number].data_ptr() == room.data_ptr():
                self._swap(number)

    def summed(self) -> Tensor:
        """The sum of all streams of each image, `[batch, 1, channels, height, width]`."""
        return torch.stack([image.sum(0, keepdim=True) for image in self._images])

    def _part(self, number: int, shape: Sequence[int]) -> Tensor:
        return self._pieces[number][: torch.Size(shape).numel()].view(shape)

    def _swap(self, number: int) -> None:
        pieces = self._pieces
        pieces[number], pieces[-1] = pieces[-1], pieces[number]
