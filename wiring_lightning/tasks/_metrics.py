"""Metrics that are exact for any number of ranks and need no GPU synchronization."""

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

NO_LABEL = -100
"""A number that is never a label."""


class ExampleMean(Metric):
    """The mean over all examples of an epoch.

    Lightning's own mean of logged values divides by a rounded number of examples if the ranks do
    not have equally many (Lightning-AI/pytorch-lightning#21859).

    Example:
        >>> mean = ExampleMean()
        >>> mean.update(torch.tensor([1.0, 2.0]))
        >>> mean.update(torch.tensor([6.0]))
        >>> mean.compute()
        tensor(3.)
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    @override
    def update(self, values: Tensor, counted: Tensor | None = None) -> None:
        """Add one value per example; `counted` says which examples count, all if not given."""
        if counted is None:
            self.total += values.sum()
            self.count += len(values)
        else:
            self.total += (values * counted).sum()
            self.count += counted.sum()

    @override
    def compute(self) -> Tensor:
        """The mean; 0 if no example counts, as the loss of a training batch without a label."""
        return self.total / self.count.clamp_min(1)


class LabelAccuracy(Metric):
    """The share of labels, of pixels or heads, whose predicted class is right.

    Args:
        ignore_index: the label that is not counted; `None` counts all.

    Example:
        >>> accuracy = LabelAccuracy(ignore_index=255)
        >>> accuracy.update(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 255]]))
        >>> accuracy.compute()
        tensor(0.6667)
    """

    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self, ignore_index: int | None) -> None:
        super().__init__()
        self.ignored = NO_LABEL if ignore_index is None else ignore_index
        self.add_state("right", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    @override
    def update(self, prediction: Tensor, labels: Tensor) -> None:
        """Compare classes and labels of the same shape."""
        known = labels != self.ignored
        self.right += ((prediction == labels) & known).sum()
        self.total += known.sum()

    @override
    def compute(self) -> Tensor:
        """The share; 0 if all labels are ignored."""
        return self.right / self.total.clamp_min(1)


class MostFrequent(Metric):
    """The share of the most frequent label: the accuracy of the best answer that never changes.

    Args:
        num_classes: number of classes.

    Example:
        >>> share = MostFrequent(num_classes=3)
        >>> share.update(torch.tensor([0, 2]))
        >>> share.update(torch.tensor([[2, 1]]))
        >>> share.compute()
        tensor(0.5000)
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("counts", torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")

    @override
    def update(self, labels: Tensor) -> None:
        """Count labels of any shape."""
        self.counts += labels.flatten().bincount(minlength=self.num_classes)

    @override
    def compute(self) -> Tensor:
        """The share."""
        return self.counts.amax() / self.counts.sum()
