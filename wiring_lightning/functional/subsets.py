"""Sums over modules, each of which runs on a subset of the examples of a batch."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from wiring_lightning.functional.transfer import send
from wiring_lightning.functional.transforms import is_transformed


@dataclass(frozen=True, eq=False)
class Subset:
    """Some examples of a batch.

    Args:
        rows: `[count]` their indices in ascending order; all examples if not given.
        mask: `[batch]` the same as a boolean mask; given together with `rows`.
    """

    rows: Tensor | None = None
    mask: Tensor | None = None

    def pick(self, state: Tensor) -> Tensor:
        """`[batch, ...]` -> `[count, ...]`."""
        return state if self.rows is None else state.index_select(0, self.rows)

    def hide(self, state: Tensor) -> Tensor:
        """`[batch, ...]` with zeros for the other examples.

        It multiplies, which is one pass over memory: what is not finite becomes NaN, not 0.
        """
        return state if self.mask is None else state * self._column(state)

    def add(self, total: Tensor, part: Tensor, dense: bool) -> None:
        """Add in place a part `[count, ...]`, or `hide(part)` of a dense part `[batch, ...]`."""
        if self.rows is None or self.mask is None:
            total.add_(part)
        elif dense:
            total.addcmul_(part.to(total.dtype), self._column(total))
        else:
            total.index_add_(0, self.rows, part.to(total.dtype))

    def _column(self, like: Tensor) -> Tensor:
        assert self.mask is not None
        return self.mask.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


WHOLE = Subset()


def split_batch(members: Tensor, device: torch.device) -> list[Subset | None]:
    """One subset per column; `None` for columns without examples.

    Args:
        members: `[batch, columns]` mask of the examples that belong to each column, on the CPU.
        device: where the subsets will be used.

    Example:
        >>> members = torch.tensor([[True, True, False], [True, False, False]])
        >>> whole, first, none = split_batch(members, torch.device("cpu"))
        >>> whole is WHOLE, first.rows.tolist(), none
        (True, [0], None)
    """
    batch, counts = len(members), members.sum(0).tolist()
    if all(count in (0, batch) for count in counts):
        return [WHOLE if count and count == batch else None for count in counts]
    columns = members.t().contiguous()
    indices = columns.nonzero()[:, 1]
    # One copy for both: bytes of the indices, then of the masks.
    sent = send(torch.cat([indices.view(torch.uint8), columns.view(torch.uint8).flatten()]), device)
    size = indices.numel() * indices.element_size()
    rows = sent[:size].view(torch.long).split(counts)
    masks = sent[size:].view(torch.bool).view_as(columns).unbind()
    return [
        None if count == 0 else WHOLE if count == batch else Subset(row, mask)
        for count, row, mask in zip(counts, rows, masks, strict=True)
    ]


class _Part(NamedTuple):
    """Some rows of a state: what the backward pass keeps instead of a copy of these rows."""

    state: Tensor
    rows: Tensor


def keep_state(state: Tensor, part: Tensor, subset: Subset) -> AbstractContextManager[object]:
    """A context in which autograd saves the state instead of a part of it.

    All readers of a state then share its memory. The backward pass picks each part again, which
    costs one more pass over the part.

    Args:
        state: `[batch, ...]`.
        part: `subset.pick(state)`.
        subset: the examples of the part.

    Example:
        >>> subset = Subset(torch.tensor([0]), torch.tensor([True, False]))
        >>> state, weight = torch.tensor([[3.0], [4.0]]), torch.ones(1, requires_grad=True)
        >>> part = subset.pick(state)
        >>> with keep_state(state, part, subset):
        ...     product = part * weight
        >>> product.backward(); weight.grad
        tensor([3.])
    """
    rows = subset.rows
    if rows is None or not torch.is_grad_enabled():
        return nullcontext()
    kept = _Part(state.detach(), rows)
    version, alive = part._version, ref(part)
    values = _values_of(part)

    def pack(saved: Tensor) -> Tensor | _Part:
        source = alive()
        unchanged = source is not None and source._version == version
        return kept if unchanged and _values_of(saved) == values else saved

    return saved_tensors_hooks(pack, _unpack)


def _values_of(tensor: Tensor) -> tuple[object, ...]:
    """Equal for two tensors that read the same memory in the same way."""
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _unpack(saved: Tensor | _Part) -> Tensor:
    return saved.state.index_select(0, saved.rows) if isinstance(saved, _Part) else saved


def exchange(
    parts: Sequence[Tensor],
    subsets: Sequence[Subset],
    dense: Sequence[bool],
    readers: Sequence[Subset],
    batch: int,
    rectify: bool = True,
) -> tuple[Tensor, list[Tensor]]:
    """Sum the inputs of a node, each over its own examples, and pick the examples of each reader.

    Examples that are in no input get a state of zeros, but NaN where a dense part is not finite.

    Args:
        parts: the inputs; at least one.
        subsets: the examples of each part.
        dense: for each part whether it is `[batch, ...]`, to be masked, or `[count, ...]`.
        readers: the examples of each reader of the node.
        batch: number of examples.
        rectify: whether the sum goes through a ReLU.

    Returns:
        The state `[batch, ...]`, and `[count, ...]` for each reader.

    Example:
        >>> first = Subset(torch.tensor([0]), torch.tensor([True, False]))
        >>> state, (read,) = exchange([torch.ones(1, 3)], [first], [False], [WHOLE], batch=2)
        >>> state.tolist(), read is state
        ([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], True)
    """
    if all(subset.rows is None for subset in (*subsets, *readers)):
        state = parts[0]
        if len(parts) > 1:  # the first sum is a new tensor, so the rest can be in place
            state = parts[0] + parts[1]
            for part in parts[2:]:
                state += part
            state = state.relu_() if rectify else state
        elif rectify:
            state = state.relu()
        return state, [state] * len(readers)
    partial = [reader for reader in readers if reader.rows is not None]
    if is_transformed():
        state = _sum(parts, subsets, dense, batch)
        state = state.relu_() if rectify else state
        picked = [reader.pick(state) for reader in partial]
    else:
        state, *picked = _Exchange.apply(subsets, dense, partial, batch, rectify, *parts)
    queue = iter(picked)
    return state, [state if reader.rows is None else next(queue) for reader in readers]


class _Exchange(Function):
    """One call per node: the gradients of all readers are added to one tensor, in place."""

    @staticmethod
    def forward(
        ctx: Any,
        subsets: Sequence[Subset],
        dense: Sequence[bool],
        readers: Sequence[Subset],
        batch: int,
        rectify: bool,
        *parts: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.subsets, ctx.dense, ctx.readers, ctx.rectify = subsets, dense, readers, rectify
        ctx.dtypes = [part.dtype for part in parts]
        if len(parts) == 1 and subsets[0].rows is None and not rectify:
            state = parts[0]
        else:
            state = _sum(parts, subsets, dense, batch)
        if rectify:
            ctx.save_for_backward(state.relu_())
        return state, *(reader.pick(state) for reader in readers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, *picked: Tensor | None) -> tuple[Any, ...]:
        from_readers = [
            (part, reader)
            for part, reader in zip(picked, ctx.readers, strict=True)
            if part is not None
        ]
        for index, (part, reader) in enumerate(from_readers):
            if gradient is None:
                gradient = _zeros(part, len(reader.mask))
            elif index == 0:  # autograd may share the incoming tensor
                gradient = gradient.clone()
            reader.add(gradient, part, dense=False)
        if gradient is None:
            return (None,) * (5 + len(ctx.subsets))
        if ctx.rectify:
            gradient = torch.ops.aten.threshold_backward(gradient, ctx.saved_tensors[0], 0)
        parts = [
            (subset.hide(gradient) if dense else subset.pick(gradient)).to(dtype)
            for subset, dense, dtype in zip(ctx.subsets, ctx.dense, ctx.dtypes, strict=True)
        ]
        return (None,) * 5 + tuple(parts)


def _sum(
    parts: Sequence[Tensor], subsets: Sequence[Subset], dense: Sequence[bool], batch: int
) -> Tensor:
    """The sum of all parts in a new tensor, which starts as a part of the full shape if any."""
    full = (i for i, subset in enumerate(subsets) if dense[i] or subset.rows is None)
    first = next(full, None)
    if first is None:
        total = _zeros(parts[0], batch)
    elif subsets[first].rows is None:
        total = parts[first].clone()
    else:
        total = subsets[first].hide(parts[first])
    for index, (part, subset) in enumerate(zip(parts, subsets, strict=True)):
        if index != first:
            subset.add(total, part, dense[index])
    return total


def _zeros(part: Tensor, batch: int) -> Tensor:
    """Zeros for all examples, in the memory format of a part."""
    channels_last = part.dim() == 4 and not part.is_contiguous()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    shape = (batch, *part.shape[1:])
    return torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=layout).zero_()
