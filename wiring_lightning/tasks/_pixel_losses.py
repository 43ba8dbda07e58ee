"""The cross-entropy of every pixel, also where torch's own has no deterministic kernel."""

import torch
from torch import Tensor
from torch.nn import functional


def pixel_losses(logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
    """The cross-entropy of each pixel, 0 where its label is `ignored`, in the shape of the labels.

    On CUDA torch refuses its own for images if deterministic algorithms are asked for, as by
    `Trainer(deterministic=True)`. There the same numbers are selected by comparison.

    Args:
        logits: `[batch, classes, height, width]`, or `[batch, classes, ...]`.
        labels: `[batch, height, width]`, or `[batch, ...]`: numbers of classes, or `ignored`.
        ignored: label of the pixels that are left out.

    Example:
        >>> pixel_losses(torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]]), 255)
        tensor([[[0.6931, 0.0000]]])
    """
    if logits.is_cuda and logits.dim() > 2 and torch.are_deterministic_algorithms_enabled():
        return _selected(logits, labels, ignored)
    return functional.cross_entropy(logits, labels, ignore_index=ignored, reduction="none")


def _selected(logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
    """As `pixel_losses`, by elementwise operations and a sum, which no scheduling can reorder."""
    logs = functional.log_softmax(logits, 1)
    classes = torch.arange(logits.shape[1], device=labels.device)
    classes = classes.view(-1, *[1] * (labels.dim() - 1))
    losses = -torch.where(labels.unsqueeze(1) == classes, logs, 0).sum(1)
    return torch.where(labels == ignored, 0, losses)
