"""Sums over all earlier blocks of a network, without a copy of what was stored for each of them."""

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
    """The shape that the outputs of one stage have: channels, and by how much sides are divided."""

    channels: int
    reduction: int


def lift(x: Tensor, origin: Space, space: Space) -> Tensor:
    """Bring the output of a stage to the shape of a later one, without parameters.

    Strides over positions and pads channels with zeros, across as many stages as needed
    (MaskConnect, Section 3.2; option A of ResNet).

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

    One object serves one forward pass. Each block stores its output once, in the stack of its
    stage (and, strided, in the stacks of later stages that read it). The input of a block is then
    one product of a row of gates with a stack; in the backward pass the gradient of a block is one
    product of a column of gates with the stacked gradients of its listeners, and all gates of a
    stage get their gradient from a single product at the end, chosen or not.

    Args:
        gates: `[blocks - 1, blocks - 1]`, row j - 1 for the input of block j, column k for the
            output of block k; only k < j is read.
        stages: stage of the output of every block but the last.
        spaces: the shape of each stage.
        inputs: by block j, the stage in whose shape its input is summed; the blocks of a stage
            that are listed follow one another, the others never ask for a sum.

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
        self.boards = {
            stage: _Board(stage, [j for j in inputs if inputs[j] == stage], stages)
            for stage in sorted(set(inputs.values()))
        }
        self.inputs = inputs
        self.gates = gates.detach()
        self._token: Tensor | None = _Open.apply(self, gates)

    def store(
        self, block: int, residual: Tensor, identity: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Keep `residual + scale * identity` as the output of a block.

        Returns `residual` and `identity` for further use: their gradients then come here, where
        adding to them is cheap.
        """
        self._token, residual, identity = _Store.apply(
            self, self._token, residual, identity, block, scale
        )
        return residual, identity

    def gather(self, block: int, addend: Tensor | None = None) -> Tensor:
        """The rectified input of a block, with `addend` added before the ReLU."""
        rectified: Tensor = _Gather.apply(self, self._token, addend, block)
        return rectified

    def close(self) -> None:
        """Leave what was stored to autograd, which frees it when the backward pass is done."""
        self._token = None  # its graph refers to this object
        for board in self.boards.values():
            board.clear()


class PlainBlockSums:
    """The same sums from plain operations, for `torch.compile`, export and tests."""

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
        """The rectified input of a block, with `addend` added before the ReLU."""
        space = self.spaces[self.inputs[block]]
        total = addend
        for k, output in enumerate(self.outputs[:block]):
            source = lift(output, self.spaces[self.stages[k]], space)
            term = self.gates[block - 1, k].to(source.dtype) * source
            total = term if total is None else total + term
        assert total is not None
        return functional.relu(total)

    def close(self) -> None:
        """Nothing to do: the outputs go with this object."""


@dataclass
class _Board:
    """The stacks of one stage: what its inputs are summed from, and their gradients.

    `stacks[r]` is `[blocks of stage r, batch, channels, height, width]` with the channels of stage
    r and the height and width of this stage. `gradients` is the same for the inputs.
    """

    stage: int
    blocks: list[int]  # whose inputs are summed here, ascending
    stages: Sequence[int]
    stacks: dict[int, Tensor] = field(default_factory=dict)
    carried: dict[int, Tensor] = field(default_factory=dict)
    gradients: Tensor | None = None
    returned: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Blocks of one stage follow one another, so its columns are a slice.
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
        """The rows of the gates for this board's blocks, which follow one another."""
        return slice(self.blocks[first] - 1, self.blocks[-1])

    @property
    def earlier(self) -> list[int]:
        return [stage for stage in self.columns if stage < self.stage]

    def place_of(self, block: int, like: Tensor) -> Tensor:
        """Where the output of a block, shaped `like`, belongs."""
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
        for stage in self.earlier:
            if stage not in self.carried:  # all rows at once: the stack is complete
                weights = gates[self.rows(), self.columns[stage]]
                self.carried[stage] = _combine(weights, self.stacks[stage])
            part = self.carried[stage][row]
            total[:, : part.shape[1]] += part
        return total

    def gradient_to(self, block: int, gates: Tensor) -> Tensor | None:
        """What the inputs of this stage send back to a block, in the shape that they read."""
        if self.gradients is None:
            return None
        stage = self.stages[block]
        if stage == self.stage:
            first = bisect_right(self.blocks, block)
            if first == len(self.blocks):
                return None
            return _combine(gates[self.rows(first), block], self.gradients[first:])
        if stage not in self.returned:  # all blocks of that stage at once
            weights = gates[self.rows(), self.columns[stage]].t()
            channels = self.stacks[stage].shape[2]
            self.returned[stage] = _combine(weights, self.gradients[:, :, :channels])
        return self.returned[stage][block - self.columns[stage].start]

    def gradient_to_gates(self, gates: Tensor) -> Tensor:
        """`[blocks - 1, blocks - 1]`, the rows of this stage filled."""
        filled = torch.zeros_like(gates)
        if self.gradients is None:
            return filled
        for stage, stack in self.stacks.items():
            gradients = self.gradients[:, :, : stack.shape[2]].flatten(2).transpose(0, 1)
            sources = stack.flatten(2).transpose(0, 1)
            filled[self.rows(), self.columns[stage]] = products_of_pairs(gradients, sources)
        return filled

    def clear(self) -> None:
        self.stacks, self.carried, self.returned = {}, {}, {}
        self.gradients = None


def _combine(weights: Tensor, stack: Tensor) -> Tensor:
    """`[..., n]` times `[n, batch, channels, height, width]`."""
    weights = weights.to(stack.dtype)
    if weights.dim() == 1:
        return torch.mv(stack.flatten(1).t(), weights).view(stack.shape[1:])
    if stack.is_contiguous():
        return (weights @ stack.flatten(1)).view(-1, *stack.shape[1:])
    # Some of the channels: the features of an example are still contiguous.
    by_example = stack.flatten(2).transpose(0, 1)
    products = torch.bmm(weights.expand(len(by_example), *weights.shape), by_example)
    return products.transpose(0, 1).unflatten(2, stack.shape[2:])


class _Open(Function):
    """The root of one pass: its backward runs last and returns the gradient of all gates."""

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
            total = sum(board.gradient_to_gates(sums.gates) for board in sums.boards.values())
        assert isinstance(total, Tensor)
        sums.close()
        return None, total.tril()


class _Store(Function):
    """Adds an output to the stacks; each call depends on the one before, which orders backward."""

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
        for stage, board in sums.boards.items():
            if sums.stages[block] <= stage:
                step = sums.spaces[stage].reduction // reduction
                parts = residual[..., ::step, ::step], identity[..., ::step, ::step]
                like = parts[0].to(torch.result_type(residual, identity))
                torch.add(*parts, alpha=scale, out=board.place_of(block, like))
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
                for later, board in sums.boards.items()
                if later >= stage and (part := board.gradient_to(ctx.block, gates)) is not None
            }
        if ctx.block == 0 and not ctx.needs_input_grad[1]:
            sums.close()  # frozen gates: nothing comes after the first block
        # A gradient that arrives may be shared: the first addition makes a copy.
        for step, part in parts.items():
            if step == 1:
                to_residual = part if to_residual is None else to_residual + part
                to_identity = (
                    part * scale
                    if to_identity is None
                    else torch.add(to_identity, part, alpha=scale)
                )
        first = 1 not in parts
        for step, part in parts.items():
            if step > 1:
                to_residual = _writable(to_residual, first, part, ctx.shape)
                to_identity = _writable(to_identity, first, part, ctx.shape)
                to_residual[..., ::step, ::step] += part
                to_identity[..., ::step, ::step].add_(part, alpha=scale)
                first = False
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
    """Takes a rectified input from the stacks."""

    @staticmethod
    @override
    def forward(
        ctx: Any, sums: BlockSums, _token: Tensor, addend: Tensor | None, block: int
    ) -> Tensor:
        stage = sums.inputs[block]
        board = sums.boards[stage]
        with _full_precision(sums.gates):
            total = board.sum_for(block, sums.gates, sums.spaces[stage])
        if addend is not None:
            total += addend
        total.relu_()
        ctx.sums, ctx.block, ctx.origins = sums, block, list(board.stacks)
        # `data`: later blocks write to other parts of the stacks, which autograd would mistake for
        # a change of what is saved here.
        ctx.save_for_backward(total, *(stack.data for stack in board.stacks.values()))
        return total

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor | None, None]:
        sums: BlockSums = ctx.sums
        rectified, *stacks = ctx.saved_tensors
        board = sums.boards[sums.inputs[ctx.block]]
        board.stacks = dict(zip(ctx.origins, stacks, strict=True))
        board.returned = {}
        if board.gradients is None:
            shape = (len(board.blocks), *rectified.shape)
            board.gradients = rectified.new_empty(shape)
        place = board.gradients[board.blocks.index(ctx.block)]
        torch.ops.aten.threshold_backward.grad_input(
            gradient.to(rectified.dtype), rectified, 0, grad_input=place
        )
        return None, sums.gates.new_empty(0), place if ctx.needs_input_grad[2] else None, None


def _writable(gradient: Tensor | None, shared: bool, like: Tensor, shape: torch.Size) -> Tensor:
    if gradient is None:
        return like.new_zeros(shape)
    return gradient.clone() if shared else gradient


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Autocast would convert the whole stack for every product."""
    return torch.autocast(tensor.device.type, enabled=False)
