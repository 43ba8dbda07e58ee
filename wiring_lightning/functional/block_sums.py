"""Gated sums over all earlier blocks of a network, which store each output once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.functional._stage_sums import StageSums
from wiring_lightning.functional.spaces import Space, lift


class BlockSums:
    """`x_j = relu(sum_k g_jk y_k)` for one block after another (MaskConnect, Equation 1).

    One object serves one forward pass. The outputs of a stage are stacked in one tensor, so three
    products suffice: a row of gates with the stack gives the input of a block; a column of gates
    with the stacked gradients of its readers gives the gradient of a block; and one product per
    stage, at the end, gives the gradient of all gates, chosen or not. A later stage gets a strided
    copy of the stack.

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
            stage: StageSums(stage, [j for j in inputs if inputs[j] == stage], stages)
            for stage in sorted(set(inputs.values()))
        }
        self.inputs = inputs
        self.gates = gates.detach()
        self._from_later: dict[int, tuple[int, Tensor | None]] = {}  # gradients by stage
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

    def first_reader(self, stage: int) -> int | None:
        """The first stage with inputs that read the outputs of a stage."""
        return next((reader for reader in self.stage_sums if reader >= stage), None)

    def copy_stacks(self, stage: int) -> None:
        """Give a stage what it reads of the stacks of earlier stages, which are complete."""
        own = self.stage_sums[stage]
        for earlier in own.columns:
            first = self.first_reader(earlier)
            if first is not None and first < stage and earlier not in own.stacks:
                step = self.spaces[stage].reduction // self.spaces[first].reduction
                stack = self.stage_sums[first].stacks[earlier][..., ::step, ::step]
                own.stacks[earlier] = stack.contiguous()

    def gradients_of(self, block: int) -> list[tuple[int, Tensor]]:
        """The gradient of a block's output, in parts: each has every n-th row and column.

        The first part comes from inputs of the block's own stage, the second from those of all
        later stages, which are added up for all blocks of a stage at once.
        """
        stage = self.stages[block]
        parts = []
        own = self.stage_sums.get(stage)
        if own is not None and (part := own.gradient_to(block, self.gates)) is not None:
            parts.append((1, part))
        if stage not in self._from_later:
            self._from_later[stage] = self._add_later(stage)
        step, later = self._from_later[stage]
        if later is not None:
            parts.append((step, later[block - self.stages.index(stage)]))
        return parts

    def _add_later(self, stage: int) -> tuple[int, Tensor | None]:
        """The gradients of all blocks of a stage from later stages, and their step."""
        total, last = None, 0
        for later, sums in sorted(self.stage_sums.items(), reverse=True):
            part = sums.gradients_to_earlier(stage, self.gates) if later > stage else None
            if part is None:
                continue
            reduction = self.spaces[later].reduction
            if total is not None:
                step = last // reduction
                part[..., ::step, ::step].add_(total)
            total, last = part, reduction
        return last // self.spaces[stage].reduction, total

    def close(self) -> None:
        """Drop the stored outputs; autograd frees what it saved after the backward pass."""
        self._from_later = {}
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
        reader = sums.first_reader(sums.stages[block])
        if reader is not None:
            step = sums.spaces[reader].reduction // sums.spaces[sums.stages[block]].reduction
            parts = residual[..., ::step, ::step], identity[..., ::step, ::step]
            like = parts[0].to(torch.result_type(residual, identity))
            torch.add(*parts, alpha=scale, out=sums.stage_sums[reader].slot(block, like))
        return token.new_empty(0), residual, identity

    @staticmethod
    @once_differentiable
    @override
    def backward(
        ctx: Any, _: Tensor, to_residual: Tensor | None, to_identity: Tensor | None
    ) -> tuple[None, Tensor, Tensor | None, Tensor | None, None, None]:
        sums: BlockSums = ctx.sums
        gates, scale = sums.gates, ctx.scale
        with _full_precision(gates):
            parts = sums.gradients_of(ctx.block)
        if ctx.block == 0 and not ctx.needs_input_grad[1]:
            sums.close()  # with frozen gates this is the last backward of the pass
        # The incoming gradients may be shared with other operations: the first addition copies.
        shared = True
        for step, part in parts:
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
        sums.copy_stacks(stage)
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
        if stage_sums.gradients is None:
            shape = (len(stage_sums.blocks), *rectified.shape)
            stage_sums.gradients = rectified.new_empty(shape)
            sums._from_later = {}  # of an earlier backward pass through the same graph
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
