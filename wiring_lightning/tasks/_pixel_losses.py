"""The cross-entropy of every pixel, also where torch's own has no deterministic kernel."""

import torch
from torch import Tensor
from torch.nn import functional


def pixel_losses(
    logits: Tensor,
    labels: Tensor,
    ignored: int,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """The cross-entropy of each pixel, 0 where its label is `ignored`, in the shape of the labels.

    On CUDA torch refuses its own for images if deterministic algorithms are asked for, as by
    `Trainer(deterministic=True)`, and for examples with several labels, too. There the same numbers
    are selected by comparison.

    Args:
        logits: `[batch, classes, height, width]`, or `[batch, classes, ...]`.
        labels: `[batch, height, width]`, or `[batch, ...]`: numbers of classes, or `ignored`.
        ignored: label of the pixels that are left out.
        weights: `[classes]` weights of the classes.
        smoothing: share of the target that is spread over all classes.

    Example:
        >>> pixel_losses(torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]]), 255)
        tensor([[[0.6931, 0.0000]]])
    """
    if logits.is_cuda and logits.dim() > 2 and torch.are_deterministic_algorithms_enabled():
        return _selected(logits, labels, ignored, weights, smoothing)
    return functional.cross_entropy(
        logits, labels, weights, ignore_index=ignored, reduction="none", label_smoothing=smoothing
    )


def _selected(
    logits: Tensor,
    labels: Tensor,
    ignored: int,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """As `pixel_losses`, by elementwise operations and a sum, which no scheduling can reorder."""
    logs = functional.log_softmax(logits, 1)
    by_class = (-1, *[1] * (labels.dim() - 1))
    if weights is not None:
        logs = logs * weights.to(logs.dtype).view(by_class)
    classes = torch.arange(logits.shape[1], device=labels.device).view(by_class)
    losses = -torch.where(labels.unsqueeze(1) == classes, logs, 0).sum(1)
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing / len(classes) * logs.sum(1)
    return torch.where(labels == ignored, 0, losses)
