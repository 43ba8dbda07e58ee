"""Gated sums over all earlier blocks of a network, which store each output once."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.functional.aggregation import products_of_pairs


class Space(NamedTuple):
    """The shape of a stage's outputs: channels, and the divisor of height and width."""

    channels: int
    reduction: int


def lift(x: Tensor, origin: Space, space: Space) -> Tensor:
    """Bring the output of a stage to the shape of a later stage, without parameters.

    Subsamples positions and pads channels with zeros, across any number of stages (MaskConnect,
    Section 3.2; option A of ResNet).

    Example:
        >>> lift(torch.ones(1, 16, 32, 32), Space(16, 1), Space(64, 4)).shape
        torch.Size([1, 64, 8, 8])
    """
    step = space.reduction // origin.reduction
    if step > 1:
        x = x[..., ::step, ::step]
    if space.channels > origin.channels:
        x = functional.pad(x, (0, 0, 0, 0, 0, space.channels - origin.channels))
    return x


class BlockSums:
    """`x_j = relu(sum_k g_jk y_k)` for one block after another (MaskConnect, Equation 1).

    One object serves one forward pass. The outputs of a stage are stacked in one tensor, so three
    products suffice: a row of gates with the stack gives the input of a block; a column of gates
    with the stacked gradients of its readers gives the gradient of a block; and one product per
    stage, at the end, gives the gradient of all gates, chosen or not. A later stage that reads a
    block gets a strided copy of its output.

    Args:
        gates: `[blocks - 1, blocks - 1]`, row j - 1 for the input of block j, column k for the
            output of block k; only k < j is read.
        stages: stage of the output of every block but the last.
        spaces: the shape of each stage.
        inputs: for each block j that sums its input, the stage whose shape the sum has. The
            blocks of one stage must be consecutive.

    Example:
        >>> space, ones = Space(channels=4, reduction=1), torch.ones(2, 4, 8, 8)
        >>> gates = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> sums = BlockSums(gates, stages=[0, 0], spaces=[space], inputs={1: 0, 2: 0})
        >>> _ = sums.store(0, ones, ones, scale=0.5)
        >>> sums.gather(1)[0, 0, 0, 0]
        tensor(1.5000)
    """

    def __init__(
        self, gates: Tensor, stages: Sequence[int], spaces: Sequence[Space], inputs: dict[int, int]
    ) -> None:
        self.spaces = spaces
        self.stages = stages
        self.stage_sums = {
            stage: _StageSums(stage, [j for j in inputs if inputs[j] == stage], stages)
            for stage in sorted(set(inputs.values()))
        }
        self.inputs = inputs
        self.gates = gates.detach()
        # An empty tensor that every store takes and returns: it orders the backward passes.
        self._token: Tensor | None = _Open.apply(self, gates)

    def store(
        self, block: int, residual: Tensor, identity: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Keep `residual + scale * identity` as the output of a block.

        Returns `residual` and `identity`. Use these from here on: their gradients are then summed
        in this operation, which is cheap.
        """
        self._token, residual, identity = _Store.apply(
            self, self._token, residual, identity, block, scale
        )
        return residual, identity

    def gather(self, block: int, addend: Tensor | None = None) -> Tensor:
        """The input of a block after its ReLU, with `addend` added before the ReLU."""
        rectified: Tensor = _Gather.apply(self, self._token, addend, block)
        return rectified

    def close(self) -> None:
        """Drop the stored outputs; autograd frees what it saved after the backward pass."""
        self._token = None  # its graph refers to this object
        for sums in self.stage_sums.values():
            sums.clear()


class PlainBlockSums:
    """The sums of `BlockSums` from plain operations, for `torch.compile`, export and tests."""

    def __init__(
        self, gates: Tensor, stages: Sequence[int], spaces: Sequence[Space], inputs: dict[int, int]
    ) -> None:
        self.gates = gates
        self.stages = stages
        self.spaces = spaces
        self.inputs = inputs
        self.outputs: list[Tensor] = []

    def store(
        self, block: int, residual: Tensor, identity: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Keep `residual + scale * identity` as the output of a block."""
        assert block == len(self.outputs)
        self.outputs.append(torch.add(residual, identity, alpha=scale))
        return residual, identity

    def gather(self, block: int, addend: Tensor | None = None) -> Tensor:
        """The input of a block after its ReLU, with `addend` added before the ReLU."""
        space = self.spaces[self.inputs[block]]
        total = addend
        for k, output in enumerate(self.outputs[:block]):
            source = lift(output, self.spaces[self.stages[k]], space)
            term = self.gates[block - 1, k].to(source.dtype) * source
            total = term if total is None else total + term
        assert total is not None
        return functional.relu(total)

    def close(self) -> None:
        """Nothing to do: the outputs are freed with this object."""


@dataclass
class _StageSums:
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
    to_earlier: dict[int, Tensor] = field(default_factory=dict)  # gradients by earlier stage

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
        """The gradient of a block's output from the inputs of this stage, in their shape."""
        if self.gradients is None:
            return None
        stage = self.stages[block]
        if stage == self.stage:
            first = bisect_right(self.blocks, block)
            if first == len(self.blocks):
                return None
            return _combine(gates[self.rows(first), block], self.gradients[first:])
        if stage not in self.to_earlier:  # for all blocks of that stage at once
            weights = gates[self.rows(), self.columns[stage]].t()
            channels = self.stacks[stage].shape[2]
            self.to_earlier[stage] = _combine(weights, self.gradients[:, :, :channels])
        return self.to_earlier[stage][block - self.columns[stage].start]

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
        self.stacks, self.from_earlier, self.to_earlier = {}, {}, {}
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


class _Open(Function):
    """The root of the token's graph: its backward runs last and gives the gradient of the gates."""

    @staticmethod
    @override
    def forward(ctx: Any, sums: BlockSums, gates: Tensor) -> Tensor:
        ctx.sums = sums
        return gates.new_empty(0)

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, _: Tensor) -> tuple[None, Tensor]:
        sums: BlockSums = ctx.sums
        with _full_precision(sums.gates):
            parts = [stage.gradient_to_gates(sums.gates) for stage in sums.stage_sums.values()]
            total = sum(parts)
        assert isinstance(total, Tensor)
        sums.close()
        return None, total.tril()


class _Store(Function):
    """Writes an output to the stacks; the token makes each call depend on the one before."""

    @staticmethod
    @override
    def forward(
        ctx: Any,
        sums: BlockSums,
        token: Tensor,
        residual: Tensor,
        identity: Tensor,
        block: int,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.sums, ctx.block, ctx.scale = sums, block, scale
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.dtypes = residual.shape, (residual.dtype, identity.dtype)
        reduction = sums.spaces[sums.stages[block]].reduction
        for stage, stage_sums in sums.stage_sums.items():
            if sums.stages[block] <= stage:
                step = sums.spaces[stage].reduction // reduction
                parts = residual[..., ::step, ::step], identity[..., ::step, ::step]
                like = parts[0].to(torch.result_type(residual, identity))
                torch.add(*parts, alpha=scale, out=stage_sums.slot(block, like))
        return token.new_empty(0), residual, identity

    @staticmethod
    @once_differentiable
    @override
    def backward(
        ctx: Any, _: Tensor, to_residual: Tensor | None, to_identity: Tensor | None
    ) -> tuple[None, Tensor, Tensor | None, Tensor | None, None, None]:
        sums: BlockSums = ctx.sums
        gates, scale = sums.gates, ctx.scale
        stage = sums.stages[ctx.block]
        with _full_precision(gates):
            parts = {
                sums.spaces[later].reduction // sums.spaces[stage].reduction: part
                for later, stage_sums in sums.stage_sums.items()
                if later >= stage and (part := stage_sums.gradient_to(ctx.block, gates)) is not None
            }
        if ctx.block == 0 and not ctx.needs_input_grad[1]:
            sums.close()  # with frozen gates this is the last backward of the pass
        # The incoming gradients may be shared with other operations: the first addition copies.
        shared = True
        for step, part in parts.items():  # in order of the stages, so step 1 comes first
            if step == 1:
                to_residual = part if to_residual is None else to_residual + part
                to_identity = (
                    part * scale
                    if to_identity is None
                    else torch.add(to_identity, part, alpha=scale)
                )
            else:
                to_residual = _writable(to_residual, shared, part, ctx.shape)
                to_identity = _writable(to_identity, shared, part, ctx.shape)
                to_residual[..., ::step, ::step].add_(part)
                to_identity[..., ::step, ::step].add_(part, alpha=scale)
            shared = False
        dtypes = ctx.dtypes
        return (
            None,
            gates.new_empty(0),
            to_residual if to_residual is None else to_residual.to(dtypes[0]),
            to_identity if to_identity is None else to_identity.to(dtypes[1]),
            None,
            None,
        )


class _Gather(Function):
    """Computes the input of a block from the stacks."""

    @staticmethod
    @override
    def forward(
        ctx: Any, sums: BlockSums, _token: Tensor, addend: Tensor | None, block: int
    ) -> Tensor:
        stage = sums.inputs[block]
        stage_sums = sums.stage_sums[stage]
        with _full_precision(sums.gates):
            total = stage_sums.sum_for(block, sums.gates, sums.spaces[stage])
        if addend is not None:
            total += addend
        total.relu_()
        ctx.sums, ctx.block, ctx.origins = sums, block, list(stage_sums.stacks)
        # `data` has no version counter: later blocks write to other parts of the stacks, and
        # autograd would report that as an in-place change of a saved tensor.
        ctx.save_for_backward(total, *(stack.data for stack in stage_sums.stacks.values()))
        return total

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor | None, None]:
        sums: BlockSums = ctx.sums
        rectified, *stacks = ctx.saved_tensors
        stage_sums = sums.stage_sums[sums.inputs[ctx.block]]
        stage_sums.stacks = dict(zip(ctx.origins, stacks, strict=True))
        stage_sums.to_earlier = {}
        if stage_sums.gradients is None:
            shape = (len(stage_sums.blocks), *rectified.shape)
            stage_sums.gradients = rectified.new_empty(shape)
        slot = stage_sums.gradients[stage_sums.blocks.index(ctx.block)]
        torch.ops.aten.threshold_backward.grad_input(
            gradient.to(rectified.dtype), rectified, 0, grad_input=slot
        )
        return None, sums.gates.new_empty(0), slot if ctx.needs_input_grad[2] else None, None


def _writable(gradient: Tensor | None, shared: bool, like: Tensor, shape: torch.Size) -> Tensor:
    """A gradient that may be changed in place."""
    if gradient is None:
        return like.new_zeros(shape)
    return gradient.clone() if shared else gradient


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Disable autocast, which would convert the whole stack for every product."""
    return torch.autocast(tensor.device.type, enabled=False)
