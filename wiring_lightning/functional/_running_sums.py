"""Sums over all blocks so far, and in the backward pass over all inputs to come."""

import torch
from torch import Tensor

from wiring_lightning.functional.spaces import Space, lift


class RunningSum:
    """The sum of one tensor of each block so far, in the shape of the newest."""

    def __init__(self) -> None:
        self._value: Tensor | None = None
        self._space: Space | None = None
        self._shared = True  # whether others hold the memory of the value

    def add(self, term: Tensor, space: Space) -> None:
        """Add what has the shape `space`."""
        if self._value is None:
            self._value, self._space = term, space
            return
        value = self.within(space)
        if self._shared or torch.is_grad_enabled():
            self._value, self._shared = value + term, False
        else:
            value.add_(term)

    def within(self, space: Space) -> Tensor:
        """The sum in the shape of the same stage or a later one."""
        assert self._value is not None
        assert self._space is not None
        if space != self._space:
            self._value, self._shared = lift(self._value, self._space, space), True
            self._space = space
        return self._value


class RunningGradient:
    """The gradient of a `RunningSum`: the sum over the inputs that read it, in reverse order."""

    def __init__(self) -> None:
        self.value: Tensor | None = None  # to read it; `hand_out` gives it to others
        self._space: Space | None = None
        self._shared = True  # whether others hold the memory of the value
        # The step of `with_part`, and the sum at its positions, where `value` holds the part, too.
        self._kept: tuple[int, Tensor] | None = None

    def add(self, gradient: Tensor, space: Space, scale: float) -> None:
        """Add the gradient of an input, which has the shape `space`."""
        self.lower(space, gradient.shape)
        if self.value is None:
            self.value, self._shared = gradient, True
            if scale != 1:
                self.value, self._shared = gradient * scale, False
        elif self._shared:
            self.value, self._shared = torch.add(self.value, gradient, alpha=scale), False
        else:
            self.value.add_(gradient, alpha=scale)
        if self._kept is not None:
            step, kept = self._kept
            kept.add_(gradient[..., ::step, ::step], alpha=scale)
        self._space = space

    def hand_out(self) -> Tensor | None:
        """The value, for others to keep: it is not changed in place any more."""
        self._shared = True
        return self.value

    def lower(self, space: Space, shape: torch.Size) -> None:
        """Go on in the shape of an earlier stage; the adjoint of `lift`."""
        if self.value is None or space == self._space:
            return
        assert self._space is not None
        step = self._space.reduction // space.reduction
        lowered = add_lowered(self.value.new_zeros(shape), self.value, step)
        if self._kept is not None:
            finer, kept = self._kept
            lowered[..., :: step * finer, :: step * finer] = kept[:, : space.channels]
        self.value, self._space, self._shared, self._kept = lowered, space, False, None

    def with_part(self, step: int, part: Tensor, shape: torch.Size) -> Tensor:
        """The value plus `part` at every n-th row and column; the sum goes on without `part`.

        Args:
            step: n.
            part: what is added.
            shape: of what is returned, also if no input reads the sum.
        """
        if self.value is None:
            return add_lowered(part.new_zeros(shape), part, step)
        if self._shared:
            self.value = self.value.clone()
        positions = self.value[..., ::step, ::step]
        if self._kept is None:
            self._kept = step, positions.clone()
        torch.add(self._kept[1], part, out=positions)
        self._shared = True
        return self.value


def add_lowered(total: Tensor, gradient: Tensor, step: int, scale: float = 1.0) -> Tensor:
    """Add in place a gradient of what `lift` made of a tensor to the gradient of that tensor.

    Args:
        total: `[batch, channels, height, width]`, the gradient to add to.
        gradient: in the shape of a later stage.
        step: the factor between the stages' heights and widths.
        scale: a factor of `gradient`.
    """
    part = gradient[:, : total.shape[1]]
    total[..., ::step, ::step].add_(part, alpha=scale)
    return total
