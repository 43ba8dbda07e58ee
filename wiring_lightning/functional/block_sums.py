"""Gated sums over all earlier blocks of a network, which store each output once."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from typing_extensions import override

from wiring_lightning.functional._running_sums import RunningGradient, RunningSum, add_lowered
from wiring_lightning.functional._stage_sums import StageSums
from wiring_lightning.functional.autocast import without_autocast
from wiring_lightning.functional.block_inputs import BlockInputs
from wiring_lightning.functional.spaces import lift

aten = torch.ops.aten


class BlockSums:
    """The inputs of one block after another, in one forward pass and its backward pass.

    The outputs of a stage are stacked in one tensor. So a product of gates with the stack gives the
    inputs of several blocks, one with the stacked gradients of the inputs gives the gradients of
    several outputs, and one per stage, at the end, gives the gradient of all gates, chosen or not.
    A later stage gets a strided copy of the stack. Inputs that read all earlier blocks are taken
    from running sums. What a block adds to the gradient of its input as an identity is added where
    the rest of that gradient arrives, so autograd sees no identities.

    Args:
        gates: `[blocks - 1, blocks - 1]`, row j - 1 for the input of block j, column k for the
            output of block k; only k < j is read.
        inputs: what is summed.

    Example:
        >>> from wiring_lightning.functional import Space
        >>> space, ones = Space(channels=4, reduction=1), torch.ones(2, 4, 8, 8)
        >>> gates = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> inputs = BlockInputs([space], [space] * 3, [0] * 3, fan_in=1, mean=True, binary=True)
        >>> sums = BlockSums(gates, inputs)
        >>> first = sums.enter(ones)
        >>> sums.store(0, first * 2)
        >>> second = sums.gather(1)
        >>> second[0, 0, 0, 0]  # 2 + 1
        tensor(3.)
        >>> sums.store(1, second * 2)
        >>> sums.gather(2)[0, 0, 0, 0]  # 6 + 3
        tensor(9.)
    """

    def __init__(self, gates: Tensor, inputs: BlockInputs) -> None:
        self.inputs = inputs
        self.gates = gates.detach()
        self._learned = gates
        self.residuals, self.identities = RunningSum(), RunningSum()
        stages = inputs.stages[:-1]  # nothing is summed from the last block
        gated: dict[int, list[int]] = {}
        for j in range(1, len(inputs.stages)):
            if inputs.gated(j):
                gated.setdefault(inputs.input_stage(j), []).append(j)
        self.stage_sums = {
            stage: StageSums(stage, blocks, stages) for stage, blocks in sorted(gated.items())
        }
        self._state: Tensor | None = None  # the input of the present block
        # An empty tensor that every call takes and returns: it orders the backward passes.
        self._token: Tensor | None = None
        # Of the backward pass: what the present block adds to the gradient of its input, with the
        # step between its positions, and the gradients from later stages, by stage.
        self._to_identity: tuple[Tensor, int] | None = None
        self._from_later: dict[int, tuple[int, Tensor | None]] = {}
        self.to_residuals, self.to_identities = RunningGradient(), RunningGradient()

    def enter(self, state: Tensor) -> Tensor:
        """Take the input of the first block; use what is returned from here on."""
        state, self._token = _Enter.apply(self, self._learned, state)
        self._state = state.detach()
        return state

    def store(self, block: int, residual: Tensor) -> None:
        """Keep the residual of a block, to which the block's input is the identity."""
        self._token = _Store.apply(self, self._token, residual, block)

    def gather(self, block: int) -> Tensor:
        """The input of a block, after its ReLU."""
        state, self._token = _Gather.apply(self, self._token, block)
        self._state = state.detach()
        return state

    def first_reader(self, stage: int) -> int | None:
        """The first stage with gated inputs that read the outputs of a stage."""
        return next((reader for reader in self.stage_sums if reader >= stage), None)

    def keep(self, block: int, residual: Tensor) -> None:
        """Write an output to its stack, and add it to the running sums that are read later."""
        inputs = self.inputs
        space, origin = inputs.space(block), inputs.origins[block]
        assert self._state is not None
        identity = lift(self._state, origin, space)
        reader = self.first_reader(inputs.stages[block])
        if reader is not None:
            step = inputs.spaces[reader].reduction // space.reduction
            parts = residual[..., ::step, ::step], identity[..., ::step, ::step]
            like = parts[0].to(torch.result_type(residual, identity))
            slot = self.stage_sums[reader].slot(block, like)
            torch.add(*parts, alpha=inputs.scale, out=slot)
        residuals_read, identities_read = inputs.read_all(block)
        if residuals_read:
            self.residuals.add(residual, space)
        if identities_read:
            self.identities.add(identity, space)

    def rectified(self, block: int) -> Tensor:
        """The input of a block, from the stacks or the running sums."""
        inputs, share = self.inputs, self.inputs.share(block)
        if inputs.gated(block):
            stage = inputs.input_stage(block)
            self._copy_stacks(stage)
            sums = self.stage_sums[stage]
            total, own = sums.sum_for(block, self.gates, inputs.spaces[stage])
        else:
            total, own = self.residuals.within(inputs.origins[block]), False
        if share:
            identities = self.identities.within(inputs.origins[block])
            total, own = torch.add(total, identities, alpha=share), True
        return total.relu_() if own else total.relu()

    def _copy_stacks(self, stage: int) -> None:
        """Give a stage what it reads of the stacks of earlier stages, which are complete."""
        own, spaces = self.stage_sums[stage], self.inputs.spaces
        for earlier in own.columns:
            first = self.first_reader(earlier)
            if first is not None and first < stage and earlier not in own.stacks:
                step = spaces[stage].reduction // spaces[first].reduction
                stack = self.stage_sums[first].stacks[earlier][..., ::step, ::step]
                own.stacks[earlier] = stack.contiguous()

    def gradient_of_residual(self, block: int, shape: torch.Size) -> Tensor | None:
        """The gradient of a block's residual; `gradient_of_input` comes next."""
        space = self.inputs.space(block)
        self.to_residuals.lower(space, shape)
        self.to_identities.lower(space, shape)
        own, (step, later) = self._gradients_of_output(block)
        if own is not None:
            if later is not None:
                own[..., ::step, ::step].add_(later)
            self._to_identity = own, 1
            total = self.to_residuals.value
            return own if total is None else own + total
        if later is not None:
            self._to_identity = later, step
            return self.to_residuals.with_part(step, later, shape)
        return self.to_residuals.hand_out()

    def _gradients_of_output(self, block: int) -> tuple[Tensor | None, tuple[int, Tensor | None]]:
        """The gradient of what is stored of a block, in two parts.

        The first comes from inputs of the block's own stage. The second comes from those of all
        later stages, for every n-th row and column. It is added up for all blocks of a stage at
        once.
        """
        stage = self.inputs.stages[block]
        sums = self.stage_sums.get(stage)
        own = None if sums is None else sums.gradient_to(block, self.gates)
        if stage not in self._from_later:
            self._from_later[stage] = self._add_later(stage)
        step, later = self._from_later[stage]
        if later is None:
            return own, (step, None)
        return own, (step, later[block - self.inputs.stages.index(stage)])

    def _add_later(self, stage: int) -> tuple[int, Tensor | None]:
        """The gradients of all blocks of a stage from later stages, and their step."""
        total, last, spaces = None, 0, self.inputs.spaces
        for later, sums in sorted(self.stage_sums.items(), reverse=True):
            part = sums.gradients_to_earlier(stage, self.gates) if later > stage else None
            if part is None:
                continue
            reduction = spaces[later].reduction
            if total is not None:
                step = last // reduction
                part[..., ::step, ::step].add_(total)
            total, last = part, reduction
        return last // spaces[stage].reduction, total

    def gradient_of_input(self, block: int, gradient: Tensor) -> Tensor:
        """The gradient of a block's input, given what its residual adds to it."""
        step = self.inputs.space(block).reduction // self.inputs.origins[block].reduction
        total, own = gradient, False
        for part, factor, scale in self._identity_parts():
            if step == factor == 1 and part.shape == total.shape and not own:
                total = torch.add(total, part, alpha=scale)
            else:
                total = total if own else total.clone()
                add_lowered(total, part, step * factor, scale)
            own = True
        self._to_identity = None
        return total

    def _identity_parts(self) -> list[tuple[Tensor, int, float]]:
        """What the present block's identity gets: values, the step of their positions, a factor."""
        parts = []
        if self.to_identities.value is not None:
            parts.append((self.to_identities.value, 1, 1.0))
        if self._to_identity is not None:
            parts.append((*self._to_identity, self.inputs.scale))
        return parts

    def restart(self) -> None:
        """Begin a backward pass."""
        self.to_residuals, self.to_identities = RunningGradient(), RunningGradient()
        self._to_identity, self._from_later = None, {}
        for sums in self.stage_sums.values():
            sums.restart()

    def close(self) -> None:
        """Drop the stored outputs; autograd frees what it saved after the backward pass."""
        self._token = self._state = None  # the token's graph refers to this object
        self.residuals, self.identities = RunningSum(), RunningSum()
        self.restart()


class _Enter(Function):
    """Takes the input of the first block; its backward part runs last, and serves the gates."""

    @staticmethod
    @override
    def forward(ctx: Any, sums: BlockSums, gates: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        ctx.sums = sums
        ctx.set_materialize_grads(False)
        return state.view_as(state), gates.new_empty(0)

    @staticmethod
    @once_differentiable
    @override
    def backward(
        ctx: Any, gradient: Tensor | None, _: Tensor | None
    ) -> tuple[None, Tensor | None, Tensor | None]:
        sums: BlockSums = ctx.sums
        to_gates = None  # also if all inputs read all earlier blocks: there is nothing to learn
        with without_autocast(sums.gates.device):
            if gradient is not None:
                gradient = sums.gradient_of_input(0, gradient)
            if ctx.needs_input_grad[1] and sums.stage_sums:
                to_gates = torch.zeros_like(sums.gates)
                for stage in sums.stage_sums.values():
                    to_gates += stage.gradient_to_gates(sums.gates)
                to_gates.tril_()
        sums.close()
        return None, to_gates, gradient


class _Store(Function):
    """Stores a residual; the token makes each call depend on the one before."""

    @staticmethod
    @override
    def forward(ctx: Any, sums: BlockSums, token: Tensor, residual: Tensor, block: int) -> Tensor:
        ctx.sums, ctx.block = sums, block
        ctx.shape, ctx.dtype = residual.shape, residual.dtype
        ctx.set_materialize_grads(False)
        sums.keep(block, residual)
        return token.new_empty(0)

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, _: Tensor | None) -> tuple[None, Tensor, Tensor | None, None]:
        sums: BlockSums = ctx.sums
        with without_autocast(sums.gates.device):
            gradient = sums.gradient_of_residual(ctx.block, ctx.shape)
        if not ctx.needs_input_grad[1]:
            sums.close()  # nothing before it has a gradient, so this is the last call
        gradient = None if gradient is None else gradient.to(ctx.dtype)
        return None, sums.gates.new_empty(0), gradient, None


class _Gather(Function):
    """Computes the input of a block."""

    @staticmethod
    @override
    def forward(ctx: Any, sums: BlockSums, token: Tensor, block: int) -> tuple[Tensor, Tensor]:
        ctx.sums, ctx.block = sums, block
        ctx.set_materialize_grads(False)
        # Autocast would convert the whole stack for every product.
        with without_autocast(sums.gates.device):
            rectified = sums.rectified(block)
        stacks = {}
        if sums.inputs.gated(block):
            stacks = sums.stage_sums[sums.inputs.input_stage(block)].stacks_before(block)
        ctx.origins = list(stacks)
        # `data` has no version counter: later blocks write to other parts of the stacks, and
        # autograd would report that as an in-place change of a saved tensor.
        ctx.save_for_backward(rectified, *(stack.data for stack in stacks.values()))
        return rectified, token.new_empty(0)

    @staticmethod
    @once_differentiable
    @override
    def backward(
        ctx: Any, gradient: Tensor | None, later: Tensor | None
    ) -> tuple[None, Tensor, None]:
        sums: BlockSums = ctx.sums
        inputs, block = sums.inputs, ctx.block
        rectified, *stacks = ctx.saved_tensors
        if later is None:  # no later block has a gradient: this is the first call
            sums.restart()
        if gradient is None:
            gradient = torch.zeros_like(rectified)
        gated, space = inputs.gated(block), inputs.origins[block]
        with without_autocast(sums.gates.device):
            gradient = sums.gradient_of_input(block, gradient).to(rectified.dtype)
            if gated:
                own = sums.stage_sums[inputs.input_stage(block)]
                # Hooks of saved tensors may have copied what was there of the stacks. Of a stage,
                # the first call of a pass has the longest ones.
                own.stacks = own.stacks or dict(zip(ctx.origins, stacks, strict=True))
                slot = own.gradient_slot(block, rectified)
                aten.threshold_backward.grad_input(gradient, rectified, 0, grad_input=slot)
            else:
                slot = aten.threshold_backward(gradient, rectified, 0)
                sums.to_residuals.add(slot, space, 1.0)
            if share := inputs.share(block):
                sums.to_identities.add(slot, space, share)
        return None, sums.gates.new_empty(0), None
