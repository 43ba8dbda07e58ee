"""The sums of one stage of `BlockSums`: the stacked outputs that they read, and the gradients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from wiring_lightning.functional.aggregation import products_of_pairs
from wiring_lightning.functional.spaces import Space


@dataclass
class Group:
    """What the rows of a group have in common, computed by one product for all of them.

    Args:
        first: number of the first block of the group.
        count: how many blocks the group has.
        sums: `[rows, batch, channels, height, width]`, one for each block of the group; `None` if
            they are zero.
    """

    first: int
    count: int
    sums: Tensor | None

    def __contains__(self, block: int) -> bool:
        return self.first <= block < self.first + self.count

    def of(self, block: int) -> Tensor | None:
        """The sum for one block."""
        return None if self.sums is None else self.sums[block - self.first]


@dataclass
class StageSums:
    """The inputs of one stage: the outputs that they are summed from, and their gradients.

    `stacks[r]` is `[blocks of stage r, batch, channels, height, width]` with the channels of stage
    r and the height and width of this stage. `gradients` holds the gradients of this stage's
    inputs in the same way.

    The blocks are taken in groups. One product sums for all inputs of a group what was there before
    the group began, so each block adds only the few outputs that came since. With groups of g
    among n blocks, a sum reads about `g / 2 + n / (2 g)` outputs instead of `n / 2`. The gradients
    of outputs are summed in the same way, in reverse.
    """

    stage: int
    blocks: list[int]  # those whose inputs are summed here, ascending
    stages: Sequence[int]
    stacks: dict[int, Tensor] = field(default_factory=dict)
    gradients: Tensor | None = None
    _earlier: Tensor | None = None  # what all inputs read of earlier stages
    _inputs: Group | None = None  # of the present input
    _outputs: Group | None = None  # of the output whose gradient is asked for

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
        self.group_size = group_size(len(self.blocks))

    def slot(self, block: int, like: Tensor) -> Tensor:
        """The part of the stacks for the output of a block, which is shaped `like`."""
        stage = self.stages[block]
        columns = self.columns[stage]
        if stage not in self.stacks:
            self.stacks[stage] = like.new_empty(columns.stop - columns.start, *like.shape)
        return self.stacks[stage][block - columns.start]

    def stacks_before(self, block: int) -> dict[int, Tensor]:
        """What the input of a block can be summed from: the parts of the stacks that are filled."""
        stacks = dict(self.stacks)
        if self.stage in stacks:
            stacks[self.stage] = stacks[self.stage][: block - self.columns[self.stage].start]
        return stacks

    def sum_for(self, block: int, gates: Tensor, space: Space) -> tuple[Tensor, bool]:
        """The input of a block before its ReLU, and whether its memory is its own."""
        group = self._inputs
        if group is None or block not in group:
            group = self._begin_inputs(block, gates, space)
        self._inputs = group
        if block == self.blocks[-1]:
            self._inputs = self._earlier = None
        before = group.of(block)
        assert before is not None
        if block == group.first:
            return before, False
        since = slice(group.first, block)
        own = self.columns[self.stage].start
        stack = self.stacks[self.stage][since.start - own : since.stop - own]
        return _combine(gates[block - 1, since], stack, before), True

    def _begin_inputs(self, block: int, gates: Tensor, space: Space) -> Group:
        """What a block and those after it read of the outputs that are there already."""
        count = min(self.group_size, self.blocks[-1] + 1 - block)
        rows = slice(block - 1, block - 1 + count)
        earlier = self._from_earlier(gates, space)
        if earlier is not None:
            start = block - self.blocks[0]
            earlier = earlier[start : start + count]
        own = self.columns.get(self.stage)
        if own is not None and own.start < block:
            stack = self.stacks[self.stage][: block - own.start]
            earlier = _combine(gates[rows, own.start : block], stack, earlier)
        return Group(block, count, earlier)

    def _from_earlier(self, gates: Tensor, space: Space) -> Tensor | None:
        """What all inputs read of earlier stages, whose stacks are complete."""
        stages = [stage for stage in self.columns if stage < self.stage]
        if self._earlier is not None or not stages:
            return self._earlier
        _, batch, _, *sides = self.stacks[stages[0]].shape
        rows = len(self.blocks), batch, space.channels, *sides
        total = self.stacks[stages[0]].new_zeros(rows)
        for stage in stages:
            stack = self.stacks[stage]
            weights = gates[self.rows(), self.columns[stage]].to(stack.dtype)
            # The channels of an earlier stage are the first ones of this stage.
            part = total[:, :, : stack.shape[2]].flatten(2).transpose(0, 1)
            sources = stack.flatten(2).transpose(0, 1)
            torch.baddbmm(part, weights.expand(batch, *weights.shape), sources, out=part)
        self._earlier = total
        return total

    def rows(self, first: int = 0, last: int | None = None) -> slice:
        """The rows of the gates for the blocks of this stage, from one number to another."""
        return slice(self.blocks[first] - 1, self.blocks[-1 if last is None else last])

    def gradient_slot(self, block: int, like: Tensor) -> Tensor:
        """The part of the gradients for the input of a block, which is shaped `like`."""
        row = block - self.blocks[0]
        if self.gradients is None:  # the first block of a backward pass
            self.gradients = like.new_empty(row + 1, *like.shape)
        return self.gradients[row]

    def gradient_to(self, block: int, gates: Tensor) -> Tensor | None:
        """The gradient of the output of a block of this stage from the inputs of this stage."""
        if self.gradients is None:
            return None
        group = self._outputs
        if group is None or block not in group:
            group = self._begin_outputs(block, gates)
        self._outputs = group
        after = group.of(block)
        last = group.first + group.count - 1  # the backward pass reached the group at this block
        first = max(block + 1, self.blocks[0])
        if first > last:
            return after
        start = first - self.blocks[0]
        gradients = self.gradients[start : last + 1 - self.blocks[0]]
        return _combine(gates[first - 1 : last, block], gradients, after)

    def _begin_outputs(self, block: int, gates: Tensor) -> Group:
        """What a block and those before it get from the inputs whose gradient is there already."""
        assert self.gradients is not None
        first = max(self.columns[self.stage].start, block + 1 - self.group_size)
        rows = max(0, block + 1 - self.blocks[0])  # of the gradients, the first that reads it
        sums = None
        if rows < len(self.gradients):
            weights = gates[self.rows(rows, len(self.gradients) - 1), first : block + 1].t()
            sums = _combine(weights, self.gradients[rows:])
        return Group(first, block + 1 - first, sums)

    def gradients_to_earlier(self, stage: int, gates: Tensor) -> Tensor | None:
        """The gradients of all outputs of an earlier stage from the inputs of this stage.

        A new tensor `[blocks of the earlier stage, batch, channels, height, width]` with the
        channels of the earlier stage and the height and width of this one.
        """
        if self.gradients is None:
            return None
        rows = self.rows(0, len(self.gradients) - 1)
        weights = gates[rows, self.columns[stage]].t()
        channels = self.stacks[stage].shape[2]
        return _combine(weights, self.gradients[:, :, :channels])

    def gradient_to_gates(self, gates: Tensor) -> Tensor:
        """`[blocks - 1, blocks - 1]`: the gradient in the rows of this stage, zeros elsewhere."""
        filled = torch.zeros_like(gates)
        if self.gradients is None:
            return filled
        rows = self.rows(0, len(self.gradients) - 1)
        for stage, stack in self.stacks.items():
            gradients = self.gradients[:, :, : stack.shape[2]].flatten(2).transpose(0, 1)
            sources = stack.flatten(2).transpose(0, 1)
            start = self.columns[stage].start
            columns = slice(start, start + len(stack))
            filled[rows, columns] = products_of_pairs(gradients, sources)
        return filled

    def restart(self) -> None:
        """Forget all outputs and gradients."""
        self.stacks = {}
        self.gradients = self._earlier = None
        self._inputs = self._outputs = None


def group_size(blocks: int) -> int:
    """How many of a stage's inputs share their products."""
    return max(1, round(math.sqrt(2 * blocks)))


def _combine(weights: Tensor, stack: Tensor, added: Tensor | None = None) -> Tensor:
    """Weighted sums: `[..., n]` times `[n, batch, channels, height, width]`, plus `added`."""
    weights = weights.to(stack.dtype)
    shape = *weights.shape[:-1], *stack.shape[1:]
    if weights.dim() == 1:
        columns = stack.flatten(1).t()
        if added is None:
            return torch.mv(columns, weights).view(shape)
        return torch.addmv(added.flatten(), columns, weights).view(shape)
    if stack.is_contiguous():
        rows = stack.flatten(1)
        if added is None:
            return (weights @ rows).view(shape)
        return torch.addmm(added.flatten(1), weights, rows).view(shape)
    # A slice of the channels: the features of one example are still contiguous.
    assert added is None
    by_example = stack.flatten(2).transpose(0, 1)
    products = torch.bmm(weights.expand(len(by_example), *weights.shape), by_example)
    return products.transpose(0, 1).unflatten(2, stack.shape[2:])
