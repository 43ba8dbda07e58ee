"""A learning rate that rises for a few epochs and then falls along a cosine."""

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from wiring_lightning._checks import plain_number


class WarmupCosine(LRScheduler):
    """Linear warm-up, then half a cosine (the schedule behind DNW, Table 4).

    Of w warm-up epochs, epoch e (from 0) trains with `lr * (e + 1) / w`; a later one of E with
    `lr * (1 + cos(pi * (e - w) / (E - w))) / 2`. After the last epoch the rate is 0.

    Args:
        optimizer: the optimizer whose learning rates are set.
        epochs: E, the number of epochs including the warm-up.
        warmup_epochs: w, the number of warm-up epochs.
        last_epoch: -1 for a new run; Lightning restores the state of a resumed run.

    Raises:
        ValueError: if the warm-up is negative or not shorter than the whole.

    Example:
        >>> import torch
        >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> schedule, rates = WarmupCosine(sgd, epochs=6, warmup_epochs=2), []
        >>> for _ in range(7):
        ...     rates.append(round(sgd.param_groups[0]["lr"], 4))
        ...     sgd.step()
        ...     schedule.step()
        >>> rates
        [0.5, 1.0, 1.0, 0.8536, 0.5, 0.1464, 0.0]
    """

    def __init__(
        self, optimizer: Optimizer, epochs: int, warmup_epochs: int = 5, last_epoch: int = -1
    ) -> None:
        if not 0 <= warmup_epochs < epochs:
            raise ValueError(
                f"the warm-up must last from 0 to {epochs - 1} of the {epochs} epochs, got "
                f"{warmup_epochs}."
            )
        self.epochs = plain_number(epochs)
        self.warmup_epochs = plain_number(warmup_epochs)
        super().__init__(optimizer, last_epoch)

    @override
    def get_lr(self) -> list[float | Tensor]:
        """The rate of every group in the present epoch."""
        epoch = min(self.last_epoch, self.epochs)
        if epoch < self.warmup_epochs:
            factor = (epoch + 1) / self.warmup_epochs
        else:
            done = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
            factor = (1 + math.cos(math.pi * done)) / 2
        return [factor * lr for lr in self.base_lrs]
