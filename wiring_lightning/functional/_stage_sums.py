"""The sums of one stage of `BlockSums`: the stacked outputs that they read, and the gradients."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from wiring_lightning.functional.aggregation import products_of_pairs
from wiring_lightning.functional.spaces import Space


@dataclass
class StageSums:
    """The inputs of one stage: the outputs that they are summed from, and their gradients.

    `stacks[r]` is `[blocks of stage r, batch, channels, height, width]` with the channels of stage
    r and the height and width of this stage. `gradients` holds the gradients of this stage's
    inputs in the same way.
    """

    stage: int
    blocks: list[int]  # those whose inputs are summed here, ascending
    stages: Sequence[int]
    stacks: dict[int, Tensor] = field(default_factory=dict)
    from_earlier: dict[int, Tensor] = field(default_factory=dict)  # sums by earlier stage
    gradients: Tensor | None = None

    def __post_init__(self) -> None:
        # The blocks of one stage are consecutive, so its columns are a slice.
        ends = [0]
        for k, (stage, following) in enumerate(pairwise([*self.stages, -1])):
            if stage != following:
                ends.append(k + 1)
        self.columns = {
            self.stages[start]: slice(start, end)
            for start, end in pairwise(ends)
            if self.stages[start] <= self.stage
        }

    def rows(self, first: int = 0) -> slice:
        """The rows of the gates for the blocks of this stage, from number `first` on."""
        return slice(self.blocks[first] - 1, self.blocks[-1])

    def slot(self, block: int, like: Tensor) -> Tensor:
        """The part of the stacks for the output of a block, which is shaped `like`."""
        stage = self.stages[block]
        columns = self.columns[stage]
        if stage not in self.stacks:
            self.stacks[stage] = like.new_empty(columns.stop - columns.start, *like.shape)
        return self.stacks[stage][block - columns.start]

    def sum_for(self, block: int, gates: Tensor, space: Space) -> Tensor:
        """The input of a block before its ReLU."""
        own = self.columns.get(self.stage)
        if own is None or own.start >= block:
            like = next(iter(self.stacks.values()))
            shape = (like.shape[1], space.channels, *like.shape[3:])
            total = like.new_zeros(shape)
        else:
            stack = self.stacks[self.stage][: block - own.start]
            total = _combine(gates[block - 1, own.start : block], stack)
        row = self.blocks.index(block)
        for stage, columns in self.columns.items():
            if stage == self.stage:
                continue
            if stage not in self.from_earlier:  # for all rows at once: the stack is complete
                weights = gates[self.rows(), columns]
                self.from_earlier[stage] = _combine(weights, self.stacks[stage])
            part = self.from_earlier[stage][row]
            total[:, : part.shape[1]].add_(part)
        return total

    def gradient_to(self, block: int, gates: Tensor) -> Tensor | None:
        """The gradient of the output of a block of this stage from the inputs of this stage."""
        first = bisect_right(self.blocks, block)
        if self.gradients is None or first == len(self.blocks):
            return None
        return _combine(gates[self.rows(first), block], self.gradients[first:])

    def gradients_to_earlier(self, stage: int, gates: Tensor) -> Tensor | None:
        """The gradients of all outputs of an earlier stage from the inputs of this stage.

        A new tensor `[blocks of the earlier stage, batch, channels, height, width]` with the
        channels of the earlier stage and the height and width of this one.
        """
        if self.gradients is None:
            return None
        weights = gates[self.rows(), self.columns[stage]].t()
        channels = self.stacks[stage].shape[2]
        return _combine(weights, self.gradients[:, :, :channels])

    def gradient_to_gates(self, gates: Tensor) -> Tensor:
        """`[blocks - 1, blocks - 1]`: the gradient in the rows of this stage, zeros elsewhere."""
        filled = torch.zeros_like(gates)
        if self.gradients is None:
            return filled
        for stage, stack in self.stacks.items():
            gradients = self.gradients[:, :, : stack.shape[2]].flatten(2).transpose(0, 1)
            sources = stack.flatten(2).transpose(0, 1)
            filled[self.rows(), self.columns[stage]] = products_of_pairs(gradients, sources)
        return filled

    def clear(self) -> None:
        self.stacks, self.from_earlier = {}, {}
        self.gradients = None


def _combine(weights: Tensor, stack: Tensor) -> Tensor:
    """Weighted sums: `[..., n]` times `[n, batch, channels, height, width]`."""
    weights = weights.to(stack.dtype)
    if weights.dim() == 1:
        return torch.mv(stack.flatten(1).t(), weights).view(stack.shape[1:])
    if stack.is_contiguous():
        return (weights @ stack.flatten(1)).view(-1, *stack.shape[1:])
    # A slice of the channels: the features of one example are still contiguous.
    by_example = stack.flatten(2).transpose(0, 1)
    products = torch.bmm(weights.expand(len(by_example), *weights.shape), by_example)
    return products.transpose(0, 1).unflatten(2, stack.shape[2:])
