"""A linear rise of the learning rates before any schedule of torch."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override


class WarmUp(LRScheduler):
    """A rise over w steps, and then a schedule from its own first rates on.

    Torch's `SequentialLR` starts its second schedule from the last rates of the first one, which is
    wrong for a schedule that multiplies the present rates, and it takes no schedule with others
    inside.

    Args:
        optimizer: the optimizer whose learning rates are set.
        main: the schedule after the rise; it was made for this optimizer and has made no step.
        steps: w; in step e (from 0) the rate is `lr * (e + 1) / (w + 1)`.

    Example:
        >>> import torch
        >>> from torch.optim.lr_scheduler import MultiplicativeLR
        >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> schedule, rates = WarmUp(sgd, MultiplicativeLR(sgd, lambda step: 0.5), 3), []
        >>> for _ in range(6):
        ...     rates.append(sgd.param_groups[0]["lr"])
        ...     sgd.step()
        ...     schedule.step()
        >>> rates
        [0.25, 0.5, 0.75, 1.0, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, main: LRScheduler, steps: int) -> None:
        self.parts = [main]  # a list, as schedules of torch hold those inside of them
        self.steps = steps
        # Shares of the whole rates, which others may scale later.
        self.first = [
            float(group["lr"] / group["initial_lr"]) if group["initial_lr"] else 0.0
            for group in optimizer.param_groups
        ]
        super().__init__(optimizer)

    @override
    def get_lr(self) -> list[float | Tensor]:
        """The rates of the rise, and at its end the first ones of the schedule."""
        if self.last_epoch < self.steps:
            factor = (self.last_epoch + 1) / (self.steps + 1)
            return [factor * lr for lr in self.base_lrs]
        return [share * lr for share, lr in zip(self.first, self.base_lrs, strict=True)]

    @override
    def step(self, epoch: int | None = None) -> None:
        """Make a step of the rise, or of the schedule after it."""
        if self.last_epoch < self.steps:
            super().step(epoch)
            return
        (main,) = self.parts
        main.step()
        self.last_epoch += 1
        self._last_lr = main.get_last_lr()

    @override
    def state_dict(self) -> dict[str, Any]:
        """The state of the rise, and of the schedule after it."""
        (main,) = self.parts
        return {**super().state_dict(), "parts": [main.state_dict()]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        (main,) = self.parts
        own = dict(state_dict)
        (state,) = own.pop("parts")
        super().load_state_dict(own)
        main.load_state_dict(state)
