"""The sums of `BlockSums` from plain operations, which compilers and exporters can follow."""

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from wiring_lightning.functional._running_sums import RunningSum
from wiring_lightning.functional._stage_sums import group_size
from wiring_lightning.functional.autocast import without_autocast
from wiring_lightning.functional.block_inputs import BlockInputs
from wiring_lightning.functional.spaces import Space, lift


@dataclass(frozen=True)
class _Stack:
    """Outputs of consecutive blocks in one tensor, at the positions that are still read.

    Args:
        first: number of the first block.
        space: the channels of the outputs, and the reduction of what is left of them.
        outputs: `[blocks, batch, channels, height, width]`.
    """

    first: int
    space: Space
    outputs: Tensor

    def at(self, reduction: int) -> "_Stack":
        """Every n-th row and column, as stages of that reduction read them."""
        space = self.space._replace(reduction=reduction)
        if space == self.space:
            return self
        return _Stack(self.first, space, lift(self.outputs, self.space, space).contiguous())

    def summed(self, gates: Tensor, space: Space) -> Tensor:
        """The part of these outputs in the sums of some inputs, `[rows, *shape of an input]`."""
        columns = gates[:, self.first : self.first + len(self.outputs)]
        sums = columns.to(self.outputs.dtype) @ self.outputs.flatten(1)
        return lift(sums.view(len(gates), *self.outputs.shape[1:]), self.space, space)


class PlainBlockSums:
    """The sums of `BlockSums` from plain operations, for `torch.compile`, export and tests.

    The inputs are taken in groups, as in `BlockSums`: one product for each stack of outputs that
    were there before the group, and one term for each output since. A ResNet-110 has 1,431
    connections, and compilers take long for a term for each.
    """

    def __init__(self, gates: Tensor, inputs: BlockInputs) -> None:
        self.gates = gates
        self.inputs = inputs
        self.residuals, self.identities = RunningSum(), RunningSum()
        self._gated = [j for j in range(1, len(inputs.stages)) if inputs.gated(j)]
        self._stacks: list[_Stack] = []
        self._recent: list[tuple[Space, Tensor]] = []  # the outputs that are in no stack
        self._group = range(0)  # inputs that share their products
        self._before: Tensor | None = None  # for each of the group, the sum over the stacks

    def enter(self, state: Tensor) -> Tensor:
        """Take the input of the first block; use what is returned from here on."""
        self.state = state
        return state

    def store(self, block: int, residual: Tensor) -> None:
        """Keep the residual of a block, to which the block's input is the identity."""
        inputs, space = self.inputs, self.inputs.space(block)
        identity = lift(self.state, inputs.origins[block], space)
        self.residuals.add(residual, space)
        self.identities.add(identity, space)
        reader = next((j for j in self._gated if j > block), None)
        if reader is not None:
            read = space._replace(reduction=inputs.origins[reader].reduction)
            parts = lift(residual, space, read), lift(identity, space, read)
            self._recent.append((read, torch.add(*parts, alpha=inputs.scale)))

    def gather(self, block: int) -> Tensor:
        """The input of a block, after its ReLU."""
        inputs, origin = self.inputs, self.inputs.origins[block]
        if inputs.gated(block):
            with without_autocast(self.gates.device):
                total = self._weighted(block)
        else:
            total = self.residuals.within(origin)
        if share := inputs.share(block):
            total = total + self.identities.within(origin) * share
        self.state = functional.relu(total)
        return self.state

    def _weighted(self, block: int) -> Tensor:
        """The sum of all earlier outputs, each times its gate."""
        if block not in self._group:
            self._begin_group(block)
        assert self._before is not None
        total = self._before[block - self._group.start]
        for k, (space, output) in enumerate(self._recent, start=self._group.start):
            gate = self.gates[block - 1, k].to(output.dtype)
            total = total + gate * lift(output, space, self.inputs.origins[block])
        return total

    def _begin_group(self, block: int) -> None:
        """For some inputs from a block's on: the sums over all outputs that are there already."""
        origin = self.inputs.origins[block]
        self._stack_recent(block)
        self._stacks = [stack.at(origin.reduction) for stack in self._stacks]
        alike = [j for j in self._gated if self.inputs.origins[j] == origin]
        self._group = range(block, min(alike[-1] + 1, block + group_size(len(alike))))
        gates = self.gates[block - 1 : self._group.stop - 1]
        self._before = reduce(torch.add, [stack.summed(gates, origin) for stack in self._stacks])

    def _stack_recent(self, block: int) -> None:
        """Stack the outputs of the blocks before this one that are in no stack yet."""
        first = block - len(self._recent)
        spaces = [space for space, _ in self._recent]
        for space in dict.fromkeys(spaces):  # in order
            outputs = [output for own, output in self._recent if own == space]
            self._stacks.append(_Stack(first, space, torch.stack(outputs)))
            first += len(outputs)
        self._recent = []

    def close(self) -> None:
        """Nothing to do: the outputs are freed with this object."""
